"""`nodewise profile`: four parametric workloads, here or on every class of nodes."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document, names, number, progress
from nodewise.core.errors import UserError

if TYPE_CHECKING:
    from nodewise_operator.benchmark import Ask, NodeClass, Outcome

LOCAL = "this machine"
_TERMINATED = 143
"""Exit status after SIGTERM, as a shell has it."""

LEAST = 0.1
"""Of --size. The shortest workload then takes half a second on the machine of reference, and a fifth on a fast one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One workload on one class."""

    node_class: str
    workload: str
    size: int
    unit: str
    seconds: float | None
    """Median of the runs; None if there is no result."""
    runs: tuple[float, ...]
    reference_s: float
    """What the source's reference machine is said to take."""
    speed: float | None
    """Reference seconds ÷ seconds: compare it between machines."""
    node: str
    checksum: str
    why: str
    """Why there is no result."""


def command(
    local: Annotated[bool, typer.Option("--local", help="Run them on this machine; nothing else is needed.")] = False,
    image: Annotated[str, typer.Option(help="Image with nodewise in it, for the Jobs.")] = "",
    namespace: Annotated[str, typer.Option(help="Where the Jobs are made.")] = "default",
    kubeconfig: Annotated[Path | None, typer.Option(help="Default: $KUBECONFIG, ~/.kube/config, or the pod's.")] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Node class to measure; may be repeated. Default: all.")
    ] = None,
    workloads: Annotated[str, typer.Option(help="Which of matmul, primes, sort, file-io.")] = "",
    size: Annotated[
        float, typer.Option(max=1.0, help=f"How long they take: from {LEAST:g} (a second) to 1 (a minute).")
    ] = 0.2,
    runs: Annotated[int, typer.Option(min=1, max=100, help="How often each is run; the median counts.")] = 3,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that one Job may take, waiting included.")] = 600.0,
    tolerate: Annotated[bool, typer.Option("--tolerate", help="Run on tainted nodes too.")] = False,
    teach: Annotated[
        bool,
        typer.Option(
            "--teach", help="Let the operator learn from these pods as from others: a prior for unknown workloads."
        ),
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure how fast each kind of node runs four parametric workloads: matrix product, primes, sort, file I/O.

    With --image, one Job for each workload and node class runs on a node of that class (classes side by side, the
    workloads of one after each other), small enough to fit on a full node: what else runs there is measured too. The
    results are printed and kept in the status of the class's NodeProfile. They are benchmarks: predictions of run times
    do not use them, unless --teach. Jobs are deleted, also after Ctrl-C.

    It needs the rights to list nodes, and in --namespace to create and delete jobs.batch and to list pods; to keep
    results, to list, create and patch nodeprofiles.nodewise.dev and to patch nodeprofiles/status.
    """
    from nodewise_operator.workloads import WORKLOADS, workload

    chosen = names(workloads, "--workloads") if workloads else tuple(WORKLOADS)
    for name in chosen:
        workload(name)
    if not size >= LEAST:
        raise UserError(
            f"--size {size:g} is too small: workloads of a few hundredths of a second tell of caches and the "
            f"clock, and not of the machine; choose {LEAST:g} to 1"
        )
    if local == bool(image):
        raise UserError("say --local to measure this machine, or --image IMAGE to measure the classes of a cluster")
    if local:
        with progress() as tell:
            rows = run_here(chosen, size, runs, tell)
        _show(rows, output, {})
        return
    from nodewise_operator.benchmark import Ask

    ask = Ask(image, namespace, secrets.token_hex(3), tuple(dict.fromkeys(chosen)), size, runs, timeout, teach)
    with progress() as tell:
        try:
            outcomes, refused, kept = asyncio.run(_on_cluster(ask, kubeconfig, context, classes or [], tolerate, tell))
        except asyncio.CancelledError:
            raise typer.Exit(_TERMINATED) from None
    _show([_row(each, size) for each in outcomes], output, refused, kept)
    if not any(each.measured for each in outcomes):
        raise typer.Exit(1)


def run_here(chosen: Sequence[str], p: float, runs: int, tell: Callable[..., None]) -> list[Row]:
    """Run the workloads on this machine, one after the other."""
    from nodewise_operator.benchmark import Outcome
    from nodewise_operator.workloads import measure

    rows = []
    for k, name in enumerate(chosen):
        tell(LOCAL, k, len(chosen), name)
        rows.append(_row(Outcome(LOCAL, name, "", measure(name, p, runs), 0.0, ""), p))
    tell(LOCAL, len(chosen), len(chosen), "done")
    return rows


async def _on_cluster(
    ask: Ask, kubeconfig: Path | None, context: str | None, wanted: list[str], tolerate: bool, tell: Callable[..., None]
) -> tuple[list[Outcome], dict[str, str], str]:
    """Outcomes; why some classes were left out; why the results were not kept."""
    from nodewise.kube.api import connect
    from nodewise_operator.benchmark import node_classes
    from nodewise_operator.benchmark_run import keep, nodes, run

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with await connect(kubeconfig, context) as api:
        found, refused = node_classes(await nodes(api), tolerate)
        found, refused = _wanted(found, refused, wanted)
        outcomes = await run(api, ask, found, tell)
        return outcomes, refused, await keep(api, outcomes)


def _wanted(
    found: list[NodeClass], refused: dict[str, str], wanted: list[str]
) -> tuple[list[NodeClass], dict[str, str]]:
    """What was asked for. Raises UserError if nothing of it can be measured."""
    known = [*(each.name for each in found), *refused]
    for name in wanted:
        if name not in known:
            raise UserError(f"no node is of class {name!r}; the classes are {', '.join(known) or 'none at all'}")
    if wanted:
        found = [each for each in found if each.name in wanted]
        refused = {name: why for name, why in refused.items() if name in wanted}
    if not found:
        whys = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise UserError(f"no class of nodes can be measured ({whys or 'the cluster has no node'})")
    return found, refused


def _row(of: Outcome, p: float) -> Row:
    from nodewise_operator.workloads import WORKLOADS

    made, done = WORKLOADS[of.workload], of.measured
    size = done.size if done else made.size(p)
    reference_s = made.reference_s(size)
    return Row(
        node_class=of.node_class,
        workload=of.workload,
        size=size,
        unit=made.unit,
        seconds=done.seconds if done else None,
        runs=done.runs if done else (),
        reference_s=reference_s,
        speed=reference_s / done.seconds if done and done.seconds > 0 else None,
        node=of.node,
        checksum=done.checksum if done else "",
        why=of.why,
    )


def _show(rows: list[Row], output: Format, refused: dict[str, str], kept: str = "") -> None:
    if output is Format.JSON:
        document(rows, left_out=refused, not_kept=kept)
        return
    for node_class in dict.fromkeys(row.node_class for row in rows):
        console.print(_table(node_class, [row for row in rows if row.node_class == node_class]))
    for row in rows:
        if row.why:
            console.print(f"{row.node_class}, {row.workload}: {row.why}", markup=False)
    for name, why in refused.items():
        console.print(f"{name} was left out: {why}", markup=False)
    console.print("speed = seconds of the source's reference machine ÷ seconds here; compare it between machines")
    if kept:
        console.print(kept, markup=False)


def _table(node_class: str, rows: list[Row]) -> Table:
    where = ", ".join(dict.fromkeys(row.node for row in rows if row.node))
    made = Table(title=f"{node_class} ({where})" if where else node_class, title_justify="left")
    made.add_column("workload")
    for title in ("size", "seconds", "fastest", "slowest", "reference, s", "speed"):
        made.add_column(title, justify="right")
    for row in rows:
        ends = (min(row.runs), max(row.runs)) if row.runs else (None, None)
        seconds = map(number, (row.seconds, *ends, row.reference_s, row.speed))
        made.add_row(row.workload, f"{row.size:,} {row.unit}", *seconds)
    return made
