"""`nodewise …`: a table of commands, each imported when it is called, and what a user sees when something is wrong."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from nodewise import __version__
from nodewise.cli.output import INTERRUPTED, USAGE_ERROR
from nodewise.cli.verbs import group
from nodewise.core.errors import UserError

COMMANDS = {
    "demo": "Show what heterogeneous placement is worth, without a cluster or through a real one.",
    "simulate": "Run one policy through one scenario.",
    "compare": "Run policies side by side on the same worlds, with paired intervals.",
    "scenarios": "List what can be simulated, with its parameters.",
    "policies": "List the policies, a line each.",
    "extender": "Serve kube-scheduler's extender calls.",
    "train": "Learn a policy in the simulator.",
    "export": "Write the policy of a training run as a bundle.",
    "bundle": "Show what a learned policy holds, or check that it would be served.",
    "operator": "Watch a cluster: every pod's fate, how fast each kind of node is, what better placement is worth.",
    "advise": "Say what better placement would have been worth, from what was recorded.",
    "snapshot": "Write what was recorded of a cluster to one file.",
    "sim": "Play what was recorded, a cluster or a journal of decisions; find the largest stable loads.",
    "data": "Look into the operator's store: inspect, stats, check, export.",
    "profile": "Measure how fast each kind of node runs four parametric workloads.",
    "crds": "Print the CustomResourceDefinitions.",
    "explain": "Say why a pod was placed where it is.",
    "bench": "Measure the extender, and the scheduler with and without it.",
}
"""Name → its line in `nodewise --help`. Command NAME is the function `command` of module `nodewise.cli.NAME`, or if it
is one of several verbs, their functions by name, `VERBS`."""

EXTRAS = {
    "bench": ("simpy",),
    "extender": ("aiohttp", "fastapi", "kubernetes", "onnxruntime", "prometheus_client", "uvicorn", "yaml"),
    "operator": ("duckdb", "kopf", "pg8000", "sqlalchemy"),
    "ray": ("ray",),
    "simulator": ("cryptography", "matplotlib", "numba", "scipy"),
    "training": ("onnx", "onnxscript", "tensorboard", "torch"),
}
"""Extra of this package → modules that come with it."""

PARTS = ("nodewise_operator", "nodewise_simulator", "nodewise_training")
"""What an image for serving may be without."""


def main() -> None:
    """Run the command line of this process and leave by SystemExit: 0, 2 for bad use, 130 for Ctrl-C."""
    words = sys.argv[1:]
    called = next((word for word in words if not word.startswith("-")), "")
    try:
        application(called)(words, prog_name="nodewise")
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


PLAIN = ("operator", "extender")
"""Commands whose help names a variable for each flag, which Rich's narrow column would cut."""


def application(called: str) -> typer.Typer:
    """The commands, with only `called` imported; the others are there in name, for the list of commands."""
    made = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode=None if called in PLAIN else "rich",
    )  # fmt: skip
    made.callback()(_root)
    for name, says in COMMANDS.items():
        if name != called:
            made.command(name, help=says)(_not_imported)
            continue
        module = import_module(f"nodewise.cli.{name}")
        if verbs := getattr(module, "VERBS", None):
            made.add_typer(group({verb: guarded(run) for verb, run in verbs.items()}, says), name=name)
        else:
            made.command(name)(guarded(module.command))
    return made


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nodewise {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Nodewise places Kubernetes pods on the nodes where they run best."""


def _not_imported() -> None:
    raise AssertionError("only the command that was called is imported")


def guarded(command: Callable[..., Any], program: str = "nodewise") -> Callable[..., Any]:
    """The command with bad use told in a sentence, after `program`; whatever still shows a traceback is a bug."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"{program}: {error}", err=True)
            raise typer.Exit(USAGE_ERROR) from None
        except ModuleNotFoundError as missing:
            if (missing.name or "nodewise").startswith("nodewise") and missing.name not in PARTS:
                raise
            typer.echo(f"{program}: {_how_to_get(missing.name or '')}", err=True)
            raise typer.Exit(USAGE_ERROR) from None
        except MemoryError as error:
            typer.echo(f"{program}: there is not enough memory for this ({error}); ask for less", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None

    return guarded


def _how_to_get(module: str) -> str:
    """What installs a module that is missing; we are on no package index."""
    name = module.partition(".")[0]
    if name in PARTS:
        return f"this installation is without {name}: use the image nodewise-training, or a clone of the repository"
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), ",".join(EXTRAS))
    return f"this command needs the package {name}: run pip install '.[{extra}]' in a clone of the repository"


if __name__ == "__main__":
    main()
