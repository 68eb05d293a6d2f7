"""`nodewise crds`: the definitions of our kinds."""

from __future__ import annotations

import typer


def command() -> None:
    """Print the CustomResourceDefinitions: nodewise crds | kubectl apply --server-side -f -"""
    from nodewise_operator.resources.generate import stream

    typer.echo(stream(), nl=False)
