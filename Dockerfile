# One image a role, each with what its role imports and no more:
#
#   docker buildx build --target extender --tag nodewise-extender .     beside kube-scheduler: no operator, no lab
#   docker buildx build --target operator --tag nodewise-operator .     watches, records, learns; `nodewise profile` runs it
#   docker buildx build --target training --tag nodewise-training .     the simulator and torch (its CPU build)
#
# Nothing here names an architecture: `--platform linux/amd64,linux/arm64` builds both. images/README.md has the sizes.

# 3.11 is what the tests run on. Pin the bytes too: --build-arg PYTHON_DIGEST=@sha256:…
ARG PYTHON_TAG=3.11.15-slim-trixie
ARG PYTHON_DIGEST=

FROM docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST} AS python
ENV PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1


# --- builders: a wheel of the folders that one role needs, and a virtual environment without pip

FROM python AS build
ARG HATCHLING_VERSION=1.33.0
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt "hatchling==${HATCHLING_VERSION}" \
    && python -m venv --without-pip /opt/nodewise

FROM build AS build-extender
COPY extender extender
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/nodewise/bin/python install --constraint constraints.txt "$(echo dist/*.whl)[extender]"

FROM build AS build-operator
COPY extender extender
COPY operator operator
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/nodewise/bin/python install --constraint constraints.txt "$(echo dist/*.whl)[operator]"

FROM build AS build-training
# PyPI's torch brings gigabytes of CUDA on amd64; this index has CPU builds for both architectures.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY extender extender
COPY operator operator
COPY simulator simulator
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/nodewise/bin/python install --constraint constraints.txt --no-deps \
        --index-url "${TORCH_INDEX_URL}" torch \
    && pip --python /opt/nodewise/bin/python install --constraint constraints.txt "$(echo dist/*.whl)[training]"


# --- what runs: nobody's user, no pip, and nothing that must be written but /tmp (a read-only root works)

FROM python AS runtime
RUN python -m pip uninstall --yes --root-user-action=ignore wheel setuptools pip \
    && rm -r "$(python -c 'import ensurepip; print(ensurepip.__path__[0])')" \
    && groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nonroot \
    && install --directory --owner=65532 --group=65532 /var/lib/nodewise
# LOGNAME: kopf and torch ask who they are, and a cluster may choose a user that /etc/passwd does not know.
ENV PATH=/opt/nodewise/bin:${PATH} HOME=/tmp LOGNAME=nonroot PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib TORCHINDUCTOR_CACHE_DIR=/tmp/torch
# Where relative paths lead (the operator's nodewise.db, runs/): mount a volume to keep it.
WORKDIR /var/lib/nodewise
USER 65532:65532
ENTRYPOINT ["nodewise"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.source="https://github.com/nodewise/nodewise" \
    org.opencontainers.image.documentation="https://github.com/nodewise/nodewise#readme" \
    org.opencontainers.image.vendor="Nodewise" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS training
LABEL org.opencontainers.image.title="nodewise-training" \
    org.opencontainers.image.description="Learns placement policies in the simulator"
COPY --from=build-training /opt/nodewise /opt/nodewise
CMD ["--help"]

FROM runtime AS operator
LABEL org.opencontainers.image.title="nodewise-operator" \
    org.opencontainers.image.description="Watches a cluster and learns how fast each kind of node runs each workload"
COPY --from=build-operator /opt/nodewise /opt/nodewise
EXPOSE 8890 8891
CMD ["operator"]

FROM runtime AS extender
LABEL org.opencontainers.image.title="nodewise-extender" \
    org.opencontainers.image.description="Answers kube-scheduler with the node where a pod runs best"
COPY --from=build-extender /opt/nodewise /opt/nodewise
EXPOSE 8888 8889
CMD ["extender"]
