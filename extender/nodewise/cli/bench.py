"""`nodewise bench`: what a decision takes, alone and in the real kube-scheduler, and what learning takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nodewise.cli.output import Format, OutputOption, document, progress, table

Rounds = Annotated[int, typer.Option(min=1, help="How many times everything is measured, in turn.")]


def extender(rounds: Rounds = 5, output: OutputOption = Format.TABLE) -> None:
    """p50, p99 and CPU time per request at 100, 1,000 and 5,000 names, beside the HTTP floor."""
    from nodewise_simulator.bench.extender import bench_extender

    with progress() as tell:
        rows = bench_extender(rounds=rounds, progress=tell)
    _show(rows, output)


def scheduler(rounds: Rounds = 5, output: OutputOption = Format.TABLE) -> None:
    """pods/s of the real kube-scheduler at 1,000 nodes, without and with us (needs KUBEBUILDER_ASSETS)."""
    from nodewise_simulator.bench.scheduler import bench_scheduler

    with progress() as tell:
        rows = bench_scheduler(rounds=rounds, progress=tell)
    _show(rows, output)


def fidelity(output: OutputOption = Format.TABLE) -> None:
    """Placements, retries and preemptions beside the real kube-scheduler's (needs KUBEBUILDER_ASSETS)."""
    from nodewise_simulator.bench.fidelity import bench_fidelity
    from nodewise_simulator.bench.preemptions import preemptions
    from nodewise_simulator.bench.retries import retries

    with progress() as tell:
        rows = [*bench_fidelity(progress=tell), *retries(progress=tell).rows(), *preemptions(progress=tell)]
    _show(rows, output)


def simulator(rounds: Rounds = 5, output: OutputOption = Format.TABLE) -> None:
    """decisions/s of the compiled engine beside the reference engine and SimPy (needs simpy)."""
    from nodewise_simulator.bench.simulator import bench_simulator

    with progress() as tell:
        rows = bench_simulator(rounds=rounds, progress=tell)
    _show(rows, output)


def memory(
    pods: Annotated[int, typer.Option(min=1, help="How many pods the run has, 2,040 at least.")] = 1_000_000,
    output: OutputOption = Format.TABLE,
) -> None:
    """Peak memory, time and cost of one long run, metrics included."""
    from nodewise_simulator.bench.memory import bench_memory

    with progress() as tell:
        rows = bench_memory(pods=pods, progress=tell)
    _show(rows, output)


def training(rounds: Rounds = 5, output: OutputOption = Format.TABLE) -> None:
    """decisions/s of the compiled engine beside the reference engine, and what learning from one takes."""
    from nodewise_training.bench import bench_training

    with progress() as tell:
        rows = bench_training(rounds=rounds, progress=tell)
    _show(rows, output)


def _show(rows: Sequence[Any], output: Format) -> None:
    if output is Format.JSON:
        document(rows)
    else:
        table(rows)


VERBS = {
    "extender": extender,
    "scheduler": scheduler,
    "fidelity": fidelity,
    "simulator": simulator,
    "memory": memory,
    "training": training,
}
