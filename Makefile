# Every target sets itself up in .venv; the machine needs Python >= 3.11, git and make.
# Setting up is done again when pyproject.toml or constraints.txt changes.
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

comma := ,
# A line per package; what goes wrong is printed whole.
INSTALL = set -o pipefail; PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --progress-bar off \
	--constraint constraints.txt --editable $(1) | \
	awk '/^Collecting/ {sub(/[^A-Za-z0-9._-].*/, "", $$2); print "  " $$2; fflush()} /^Installing collected/ {print "  installing …"; fflush()}'

# Tests that reach the core only through other packages are not asked about its coverage.
NOT_OF_THE_CORE = advise baselines bench channel columns commands compare dag engine envs export intake kept neighbours placement_serving profile random_clusters replay resources retried returns simulator snapshot_rules spool stable store trace training workloads

# Tests wait for servers, leases and timers half of their time, so two cores are busy only with more than two of them.
WORKERS ?= 3
# The order of the files is that of tests/conftest.py: the long ones first.
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Stores wait for the disk at every commit. The tests' files are in memory where there is room and programs may run.
MEMORY := /dev/shm
test: export TMPDIR = $(shell df --output=avail $(MEMORY) 2>/dev/null | awk 'NR == 2 && $$1 > 4194304 {found = 1} END {exit !found}' \
	&& findmnt -no OPTIONS $(MEMORY) | grep -qvw noexec && echo $(MEMORY) || echo "$${TMPDIR:-/tmp}")

.DEFAULT_GOAL := help
.PHONY: help setup kind-demo demo demo-cluster demo-advise test check bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## set up .venv for development

demo: $(VENV)/.demo  ## see what placement by learned run times is worth, without a cluster
	@$(BIN)/nodewise demo

demo-cluster: $(VENV)/.demo  ## the same through a real kube-scheduler (set KUBEBUILDER_ASSETS)
	@$(BIN)/nodewise demo --cluster

demo-advise: $(VENV)/.demo  ## watch a real control plane, advise, then do it and compare (set KUBEBUILDER_ASSETS)
	@$(BIN)/nodewise demo --advise

kind-demo: $(VENV)/.demo  ## Nodewise in a cluster of containers (Docker, kind, helm and kubectl needed)
	@PATH="$(CURDIR)/$(BIN):$$PATH" manifests/kind/demo

test: $(VENV)/.dev  ## run all tests: those of the core with its coverage, then the others
	$(PYTEST) tests/unit tests/contract $(NOT_OF_THE_CORE:%=--ignore-glob='tests/unit/test_%*.py') \
		--cov --cov-report=term --cov-fail-under=95
	$(PYTEST) $(filter-out tests/unit tests/contract tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/))) \
		$(wildcard $(NOT_OF_THE_CORE:%=tests/unit/test_%*.py))

check: $(VENV)/.dev  ## lint, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.demo  ## measure the extender, and with KUBEBUILDER_ASSETS the real kube-scheduler with it
	@$(BIN)/nodewise bench extender
	@if [ -n "$$KUBEBUILDER_ASSETS" ]; then $(BIN)/nodewise bench scheduler; \
	else echo "KUBEBUILDER_ASSETS is not set: 'nodewise bench scheduler' is left out"; fi

clean:  ## remove .venv and caches
	rm -rf $(VENV) .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.python:
	@found="$$($(PYTHON) --version 2>&1 || true)"; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "Nodewise needs Python 3.11 or newer, and '$(PYTHON)' says '$$found'; name another: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "'$(PYTHON)' cannot make virtual environments; install its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing what runs Nodewise (about a minute):"
	@$(call INSTALL,'.[extender$(comma)operator$(comma)simulator]')
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing what develops Nodewise (gigabytes and several minutes; for less see CONTRIBUTING.md):"
	@$(call INSTALL,'.[dev]')
	@touch $@ $(VENV)/.demo
