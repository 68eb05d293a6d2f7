"""A command of several verbs, `nodewise NAME VERB …`: each has a help page and options of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from nodewise.cli.output import USAGE_ERROR, Format, OutputOption, console, document

Verbs = Mapping[str, Callable[..., Any]]


class _Group(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As any group's, but for an unknown verb, which is told as all bad use is."""
        if args[0] not in self.commands:
            known = ", ".join(self.commands)
            typer.echo(f"nodewise: there is no {ctx.command_path} {args[0]!r}; choose one of {known}", err=True)
            raise typer.Exit(USAGE_ERROR)
        return super().resolve_command(ctx, args)


def group(verbs: Verbs, says: str) -> typer.Typer:
    """The command with these verbs, whose first lines of documentation are listed where none is named.

    `says` is its own line. An --output before the verb is meant for the verb.
    """
    made = typer.Typer(cls=_Group, help=says, invoke_without_command=True, no_args_is_help=False)
    lines = {name: (run.__doc__ or "").partition("\n")[0].rstrip(".") for name, run in verbs.items()}

    @made.callback()
    def listed(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
        if ctx.invoked_subcommand is not None:
            ctx.default_map = {name: {"output": output.value} for name in verbs}
        elif output is Format.JSON:
            document([{"action": name, "says": line} for name, line in lines.items()])
        else:
            width = max(map(len, verbs))
            for name, line in lines.items():
                console.print(f"{ctx.command_path} {name:<{width}} {line}", soft_wrap=True)

    for name, run in verbs.items():
        made.command(name)(run)
    return made
