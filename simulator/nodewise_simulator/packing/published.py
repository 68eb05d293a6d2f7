"""The published curves beside ours: `python -m nodewise_simulator.packing.published FOLDER [LIST…]`.

FOLDER holds openb's files and `published/analysis_{allo,frag}_discrete.csv.gz`, which are
`hkust-adsl/kubernetes-scheduler-simulator:experiments/analysis/expected_results`, gzipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.packing.problem import loaded, problem
from nodewise_simulator.packing.study import MARKS, POLICIES, measured, pack
from nodewise_simulator.traces.table import Column, read_csv

SEEDS = range(42, 52)
NAMES = {
    "01-Random": "random",
    "02-DotProd": "dot-prod",
    "03-GpuClustering": "gpu-clustering",
    "04-GpuPacking": "gpu-packing",
    "05-BestFit": "best-fit",
    "06-FGD": "fgd",
}
"""Published policies by the names that they have here."""
CURVES = {"allocated": "allo", "fragmented": "frag"}
"""Metrics of ours, and the files that hold them as published."""
_T_95 = 2.262
"""Student's t for 95 % and ten seeds."""


def read(folder: Path, file: str) -> dict[tuple[str, str], dict[int, Floats]]:
    """The published seeds' values, % of the GPUs, by list, policy and mark. Raises UserError for a bad file."""
    columns = [Column("workload", str), Column("sc_policy", str)]
    columns += [Column(str(mark), low=0, high=100, empty=np.nan) for mark in MARKS]
    table = read_csv(folder / "published" / f"analysis_{file}_discrete.csv.gz", columns, "a table of published curves")
    out: dict[tuple[str, str], dict[int, Floats]] = {}
    for workload, policy in sorted(set(zip(table["workload"], table["sc_policy"], strict=True))):
        rows = (table["workload"] == workload) & (table["sc_policy"] == policy)
        seeds = {mark: table[str(mark)][rows] for mark in MARKS}
        out[str(workload).removeprefix("openb_pod_list_"), NAMES[str(policy)]] = seeds
    return out


def ours(
    folder: Path, which: str, policies: Iterable[str], seeds: Sequence[int] = SEEDS
) -> dict[str, dict[str, Floats]]:
    """Each policy's metrics, one value a seed."""
    nodes, pods = loaded(folder, which)
    given = [problem(nodes, pods, seed) for seed in seeds]
    out = {}
    for policy in policies:
        runs = [measured(one, pack(one, POLICIES[policy], seed)) for one, seed in zip(given, seeds, strict=True)]
        out[policy] = {name: np.array([run[name] for run in runs]) for name in runs[0]}
    return out


def beside(folder: Path, lists: Sequence[str]) -> Iterable[str]:
    """A Markdown table: our mean, half its 95 % interval, and how far the published mean is; how far it is at most."""
    theirs = {what: read(folder, file) for what, file in CURVES.items()}
    lists = lists or sorted({which for which, _ in theirs["allocated"]})
    yield "| list | policy | " + " | ".join(f"at {mark}" for mark in MARKS) + " |"
    yield "|---|---|" + "---:|" * len(MARKS)
    far = dict.fromkeys(CURVES, 0.0)
    for which in lists:
        for policy, metrics in ours(folder, which, NAMES.values()).items():
            cells = []
            for mark in MARKS:
                off = {
                    what: float(metrics[f"{what}_{mark}_pct"].mean() - np.nanmean(theirs[what][which, policy][mark]))
                    for what in CURVES
                }
                far = {what: max(far[what], abs(off[what])) for what in CURVES}
                values = metrics[f"allocated_{mark}_pct"]
                cells.append(f"{values.mean():.2f} ± {_half(values):.2f} ({off['allocated']:+.2f})")
            yield f"| {which} | {policy} | " + " | ".join(cells) + " |"
    yield f"\nFarthest from published: {far['allocated']:.2f} points allocated, {far['fragmented']:.2f} fragmented."


def all_policies(folder: Path, which: str) -> Iterable[str]:
    """A Markdown table of all policies on one list."""
    yield (
        f"| policy on {which} | "
        + " | ".join(f"at {mark}" for mark in MARKS)
        + (" | unallocated GPUs at 100 | fragmented at 80 | at 100 | MW at 80 | at 100 |")
    )
    yield "|---|" + "---:|" * (len(MARKS) + 5)
    for policy, metrics in ours(folder, which, POLICIES).items():
        cells = [
            f"{metrics[f'allocated_{m}_pct'].mean():.2f} ± {_half(metrics[f'allocated_{m}_pct']):.2f}" for m in MARKS
        ]
        cells.append(f"{metrics['unallocated_100_gpus'].mean():.0f} ± {_half(metrics['unallocated_100_gpus']):.0f}")
        cells += [f"{metrics[f'fragmented_{m}_pct'].mean():.2f}" for m in (80, 100)]
        cells += [f"{metrics[f'power_{m}_w'].mean() / 1e6:.3f}" for m in (80, 100)]
        yield f"| {policy} | " + " | ".join(cells) + " |"


def _half(values: Floats) -> float:
    return float(_T_95 * values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    source, *wanted = sys.argv[1:]
    for part in (all_policies(Path(source), (wanted or ["default"])[0]), beside(Path(source), wanted)):
        for line in part:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")
