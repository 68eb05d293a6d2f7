"""`kubectl nodewise …`: the plugin's commands, and what completes them."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from nodewise import __version__
from nodewise.cli.main import guarded
from nodewise.cli.output import INTERRUPTED

COMMANDS = ("status", "explain", "advise", "profiles", "release", "doctor")
"""Command NAME is the function `command` of module `nodewise.cli.kubectl.NAME`."""

NAME = "kubectl-nodewise"
"""Of the executable; kubectl finds it by this name, and shells complete it by it."""
_COMPLETING = "_KUBECTL_NODEWISE_COMPLETE"


def main() -> None:
    """Run the command line of this process and leave by SystemExit: 0, 1 for trouble found, 2 for bad use, 130."""
    words = sys.argv[1:]
    installing = any(word in ("--install-completion", "--show-completion") for word in words)
    try:
        # The shell's variable is made of the program's name, which must have no space in it then.
        application()(words, prog_name=NAME if installing or _COMPLETING in os.environ else "kubectl nodewise")
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def application() -> typer.Typer:
    """All commands; what is heavy in them is imported when it is needed."""
    made = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
    made.callback()(_root)
    for name in COMMANDS:
        made.command(name)(guarded(_command(name), NAME))
    return made


def complete() -> None:
    """What kubectl runs to complete `kubectl nodewise …`: the words so far are our arguments, the last one unfinished.

    Prints a completion a line, a tab before what it means, and last `:DIRECTIVE` as cobra has it: 4 is "no files". All
    but that is what Typer prints for fish, which it can be asked for through the environment.
    Source: kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins, "Command line completion".
    """
    words = sys.argv[1:] or [""]
    line = shlex.join([NAME, *words[:-1]]) + " " + (shlex.quote(words[-1]) if words[-1] else "")
    asked = {_COMPLETING: "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": line}
    os.environ.update(asked)
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        application()(prog_name=NAME)
    found = said.getvalue().strip()
    typer.echo(f"{found}\n:4" if found else ":0")


def _command(name: str) -> Callable[..., Any]:
    made: Callable[..., Any] = import_module(f"nodewise.cli.kubectl.{name}").command
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
    """Nodewise in your cluster: what runs, why pods went where they went, and how to leave.

    Where your shell completes kubectl (`kubectl completion --help`), Tab completes these commands too.
    """


if __name__ == "__main__":
    main()
