"""`nodewise demo`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from nodewise.cli.explain import show
from nodewise.cli.output import Format, OutputOption, console, document, number, progress, seeds, table
from nodewise.core.errors import UserError

_SHOWN = (
    "completion_mean", "completion_p95", "sla_production", "sla_batch", "energy", "cost", "cost_ratio", "decision_p50",
    "decision_p99",
)  # fmt: skip


def command(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Through a real kube-scheduler (needs KUBEBUILDER_ASSETS).")
    ] = False,
    advise: Annotated[
        bool,
        typer.Option(
            "--advise", help="Watch a real kube-scheduler, advise, do it, compare (needs KUBEBUILDER_ASSETS)."
        ),
    ] = False,
    seed_list: Annotated[str, typer.Option("--seeds", help="Seeds compared, as in 1-20 or 1,3,7-9.")] = "1-10",
    pods: Annotated[int, typer.Option(min=1, help="Pods streamed and counted, after the warm-up.")] = 600,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the seeds.")] = os.cpu_count() or 1,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what heterogeneous placement is worth, without a cluster or through a real one."""
    numbers = seeds(seed_list)
    if advise and cluster:
        raise UserError("--advise and --cluster are two demos: leave one out")
    if advise:
        _advise(numbers[0], pods, output)
        return
    if cluster:
        _cluster(numbers[0], pods, output)
        return
    from nodewise_simulator.demo import demo

    with progress() as tell:
        shown = demo(numbers, pods=pods, jobs=jobs, progress=tell)
    if output is Format.JSON:
        document(shown.rows, explanation=shown.explained)
        return
    console.print(
        f"\n[bold]60 nodes of 5 classes[/] (x86 of 2015 and 2023, two ARM generations, GPU), load 0.7, {len(numbers)} "
        "seeds: mean [95 % interval].\nDecision times are whole HTTP exchanges with the extender process, one stream "
        "each:",
        markup=True,
    )
    for s in shown.streamed:
        console.print(f"  {s.policy}: asked about {s.cycles} of {s.pods} pods; {s.equal} placed as without HTTP")
        if len(s.decided) > 1:
            console.print(f"    decisions: {', '.join(f'{count} by {name}' for name, count in s.decided.items())}")
    _learned()
    table(shown.rows, metrics=_SHOWN)
    _explained(shown.explained)
    console.print("\nEvery policy saw beliefs learned from finished pods only. Next: `nodewise compare --help`.")


def _cluster(seed: int, pods: int, output: Format) -> None:
    from nodewise_simulator.cluster_demo import cluster_demo

    with progress() as tell:
        rows, explained = cluster_demo(seed, pods=pods, progress=tell)
    if output is Format.JSON:
        document(rows, explanation=explained)
        return
    console.print(
        f"\n[bold]A real kube-scheduler[/], 60 fake nodes, {pods} pods counted, run times 8 times shorter, one seed, "
        "so no intervals.\n`kube-default` is the stock scheduler without an extender.",
        markup=True,
    )
    _learned()
    table(rows, metrics=_SHOWN)
    _explained(explained)


def _advise(seed: int, pods: int, output: Format) -> None:
    from nodewise_simulator.advise.outcomes import UNITS
    from nodewise_simulator.advise_demo import advise_demo

    with progress() as tell:
        shown = advise_demo(seed, pods=pods, progress=tell)
    if output is Format.JSON:
        document(
            shown.compared, speeds=[*map(asdict, shown.speeds)], cells=[*map(asdict, shown.cells)],
            conserved=shown.conserved, writes=dict(shown.writes),
        )  # fmt: skip
        return
    console.print(
        f"\n[bold]Advice, followed[/]: the operator watched a stock kube-scheduler place {pods} pods on 60 fake nodes "
        "of four classes,\nwhose speeds only the kubelet knows; then the same pods came again, and Nodewise decided.",
        markup=True,
    )
    _grid(
        f"How fast each class is, relative to {shown.speeds[0].reference}: as it was learned, and as it is",
        ("class", "pods seen", "learned", "95 % interval", "hidden", "off by"),
        [
            (s.node_class, f"{s.samples}", number(s.learned), _interval(s.low, s.high), number(s.hidden),
             f"{s.learned / s.hidden - 1.0:+.1%}")
            for s in shown.speeds
        ],
    )  # fmt: skip
    _grid(
        "Run times, in seconds or per expected second: as believed, and as they are",
        ("workload", "class", "observations", "believed", "hidden median", "off by"),
        [
            (c.workload, c.node_class, f"{c.observations:.0f}", number(c.believed), number(c.hidden), f"{c.error:+.0%}")
            for c in shown.cells
        ],
    )
    _grid(
        "What Nodewise was to gain over the placements as they were, and what it gained",
        ("", "before", "advice", "95 % interval", "gained", "as predicted"),
        [
            (f"{c.metric}, {UNITS[c.metric]}", number(c.before), number(c.predicted), _interval(c.low, c.high),
             number(c.achieved), "yes" if c.inside else "no")
            for c in shown.compared
        ],
    )  # fmt: skip
    console.print(f"{shown.conserved['says']}")
    for user, count in shown.writes.items():
        console.print(f"writes to Pods and Nodes by {user}: {count} (audit log of the API server)")


def _interval(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _grid(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    made = Table(title=title, title_justify="left")
    for head in heads:
        made.add_column(head, justify="left" if head in ("", "class", "workload") else "right")
    for row in rows:
        made.add_row(*row)
    console.print(made)


def _learned() -> None:
    """What stands behind the row `learned`."""
    from nodewise.policies import DEFAULT, LEARNED, builtin
    from nodewise.policies.bundle import read_card

    folder = builtin()
    if folder is not None:
        console.print(
            f"`{LEARNED}` is {read_card(folder).name}, the policy that is built in (`nodewise bundle inspect`): a "
            f"network, trained in the simulator on other seeds, that corrects what `{DEFAULT.name}` believes. Where it "
            f"meets what training did not show it, such as a nearly empty cluster, `{DEFAULT.name}` decides."
        )


def _explained(told: Any) -> None:
    if told is not None:
        console.print("\n[bold]One placement explained[/]", markup=True)
        show(told)
