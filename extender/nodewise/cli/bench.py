"""`nodewise bench`: what a decision takes, alone and in the real kube-scheduler, and what learning takes."""

from __future__ import annotations

from typing import Annotated

import typer

from nodewise.cli.output import Format, OutputOption, console, document, progress, table
from nodewise.core.errors import UserError

BENCHES = {
    "extender": "p50, p99 and CPU time per request at 100, 1,000 and 5,000 names, beside the HTTP floor",
    "scheduler": "pods/s of the real kube-scheduler at 1,000 nodes, without and with us (needs KUBEBUILDER_ASSETS)",
    "fidelity": "placements, retries and preemptions beside the real kube-scheduler's (needs KUBEBUILDER_ASSETS)",
    "simulator": "decisions/s of the compiled engine beside the reference engine and SimPy (needs simpy)",
    "memory": "peak memory, time and cost of one long run, metrics included",
    "training": "decisions/s of the compiled engine beside the reference engine, and what learning from one takes",
}


def command(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[extender|scheduler|fidelity|simulator|memory|training]", help="Without it: the list."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times everything is measured, in turn.")] = 5,
    pods: Annotated[int, typer.Option(min=1, help="memory: how many pods the run has, 2,040 at least.")] = 1_000_000,
    output: OutputOption = Format.TABLE,
) -> None:
    """Measure the extender, the real kube-scheduler with and without it, the simulator, or training."""
    if what is None:
        for name, says in BENCHES.items():
            console.print(f"nodewise bench {name:<10} {says}")
        return
    if what not in BENCHES:
        raise UserError(f"there is no bench {what!r}; choose one of {', '.join(BENCHES)}")
    with progress() as tell:
        if what == "training":
            from nodewise_training.bench import bench_training

            rows = bench_training(rounds=rounds, progress=tell)
        elif what == "extender":
            from nodewise_simulator.bench.extender import bench_extender

            rows = bench_extender(rounds=rounds, progress=tell)
        elif what == "simulator":
            from nodewise_simulator.bench.simulator import bench_simulator

            rows = bench_simulator(rounds=rounds, progress=tell)
        elif what == "memory":
            from nodewise_simulator.bench.memory import bench_memory

            rows = bench_memory(pods=pods, progress=tell)
        elif what == "fidelity":
            from nodewise_simulator.bench.fidelity import bench_fidelity
            from nodewise_simulator.bench.preemptions import preemptions
            from nodewise_simulator.bench.retries import retries

            rows = [*bench_fidelity(progress=tell), *retries(progress=tell).rows(), *preemptions(progress=tell)]
        else:
            from nodewise_simulator.bench.scheduler import bench_scheduler

            rows = bench_scheduler(rounds=rounds, progress=tell)
    if output is Format.JSON:
        document(rows)
    else:
        table(rows)
