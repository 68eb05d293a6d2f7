"""What a long run takes: memory, time, and what came of it.

The world is of columns (`nodewise_simulator.columns`): no Python object per pod is made, from the draws to the metrics.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise

from nodewise.core.errors import UserError
from nodewise_simulator import scenarios
from nodewise_simulator.compare import Row
from nodewise_simulator.run import COMPILED, Stage, resolve

NODES, WARM = 40, 50
POLICY = "economic"
_STEPS = 3

Progress = Callable[[str, int, int], None]


def bench_memory(*, pods: int, policy: str = POLICY, seed: int = 1, progress: Progress = lambda *_: None) -> list[Row]:
    """Rows of one run of `random-clusters`, metrics included; `peak_rss` is this process's, from its start.

    Raises UserError for fewer pods than warm the cluster, or a policy that the compiled engine does not play.
    """
    per_node = pods // NODES - WARM
    if per_node < 1:
        raise UserError(f"bench memory needs {NODES * (WARM + 1):,} pods at least; {NODES * WARM:,} are warm-up")
    scenario, label = f"random-clusters@nodes={NODES},warm={WARM},per_node={per_node}", "world, arrays, run"
    progress(label, 0, _STEPS)
    times_s = [time.process_time()]
    stage = Stage(scenarios.make(scenario, seed), COMPILED)
    times_s.append(time.process_time())
    progress(label, 1, _STEPS)
    made = len(stage.flat.pod_f)
    times_s.append(time.process_time())
    progress(label, 2, _STEPS)
    result = stage.play(resolve(policy)[0])
    times_s.append(time.process_time())
    progress(label, 3, _STEPS)
    world_s, arrays_s, run_s = (after - before for before, after in pairwise(times_s))
    return [
        Row(scenario, policy, metric, unit, value, value, value, 1)
        for metric, unit, value in (
            ("pods", "pods", float(made)),
            ("peak_rss", "MiB", peak_rss_bytes() / 2**20),
            ("make_world", "CPU s", world_s),
            ("make_arrays", "CPU s", arrays_s),
            ("run_and_metrics", "CPU s", run_s),
            ("cost", "cents per pod", result.metrics["cost"]),
            ("unfinished", "pods", result.metrics["unfinished"]),
        )
    ]


def peak_rss_bytes() -> float:
    """The most memory that this process has held at a time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
