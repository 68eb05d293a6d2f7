"""`kubectl nodewise advise`: what better placement would have been worth, from what the operator recorded."""

from __future__ import annotations

import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from nodewise.cli import advise
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, ContextOption, KubeconfigOption, SystemOption
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption
from nodewise.core.errors import UserError
from nodewise.kube.snapshot import read_snapshot
from nodewise.policies import LEARNED, builtin

_SNAPSHOT_S = 600.0
_NEEDED = ("nodewise_simulator", "numba")


def command(
    policy: Annotated[
        str, typer.Option(help="Policy to try (see `nodewise policies`), or the folder of a bundle as ./DIR.")
    ] = LEARNED if builtin() else "economic",
    since: Annotated[
        str, typer.Option(help="Only pods created since then: 90m, 24h, 7d, or a time as 2026-01-31T12:00:00Z.")
    ] = "",
    baseline: Annotated[
        str, typer.Option(help="What gains are to: the placements as recorded, or a simulated kube-default.")
    ] = "recorded",
    draws: Annotated[int, typer.Option(min=3, max=1000, help="Times that everything is played again.")] = 20,
    save: Annotated[Path | None, typer.Option(help="Also keep the snapshot that was fetched, in this file.")] = None,
    system: SystemOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what better placement would have been worth: fetches the operator's snapshot and judges it here."""
    _require_simulator()
    with tempfile.TemporaryDirectory(prefix="nodewise-advise-") as folder:
        file = save or Path(folder) / "snapshot.json"
        with Cluster(kubeconfig, context) as cluster:
            data = cluster.run(_snapshot(cluster, system))
        try:
            file.write_bytes(data)
        except OSError as error:
            raise UserError(f"snapshot {file} cannot be written ({error.strerror}): name another file") from error
        shown = advise.Shown.JSON if output is Format.JSON else advise.Shown.TEXT
        advise.judge(
            partial(read_snapshot, file), policy=policy, since=since, baseline=baseline, draws=draws, picture=None,
            output=shown, tell=printed,
        )  # fmt: skip


def _require_simulator() -> None:
    """Before anything is fetched."""
    missing = next((name for name in _NEEDED if find_spec(name) is None), None)
    if missing:
        raise UserError(
            f"advise replays the cluster here, which needs the simulator ({missing} is missing): run pip install "
            "'.[simulator]' in a clone of the repository"
        )


async def _snapshot(cluster: Cluster, system: str) -> bytes:
    operator = found.operator_of(await found.find(cluster, system))
    reply = await cluster.proxied(operator, found.operator_port(operator), "/snapshot", timeout_s=_SNAPSHOT_S)
    if reply.status == 200:
        return reply.body
    raise UserError(f"the operator has no snapshot to give (HTTP {reply.status}): {reply.body[:300].decode()}")
