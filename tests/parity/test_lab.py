"""The lab by both engines: the same placements and the same figures; and what a figure is made of."""

import math
from pathlib import Path

import numpy as np
import pytest

from nodewise.core import cost
from nodewise.core.errors import UserError
from nodewise.core.types import CostRates
from nodewise.policies import LEARNED
from nodewise_simulator import lab, scenarios
from nodewise_simulator.baselines import BASELINES
from nodewise_simulator.compare import Grid, Kept, run, simulators
from nodewise_simulator.compiled.plays import plays
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine
from nodewise_simulator.metrics import measure
from nodewise_simulator.run import AUTO, COMPILED, REFERENCE, SIMULATORS, Stage, resolve, simulate
from nodewise_simulator.scheduler import KubeScheduler

pytestmark = pytest.mark.timeout(900)  # the first to ask waits for a kernel to be compiled

ONLY_TIMED = {"decision_p50", "decision_p99"}
"""What the reference engine alone tells: how long it took."""
SCENARIOS = ("hetero@pods=80,warm=40,load=1.2", "random-clusters@nodes=7,per_node=15,warm=4,load=1.3")
RULES = ("kube-default", "economic", "least-work-remaining", "round-robin")


@pytest.mark.parametrize("text", SCENARIOS)
def test_both_engines_give_the_same_placements_and_the_same_figures(text: str) -> None:
    made, ended = scenarios.make(text, 3), list[int]()
    for name in RULES:
        policy, _ = resolve(name)
        assert plays(made, policy)
        own = Stage(made, COMPILED).play(policy, progress=ended.append)
        other = Stage(made, REFERENCE).play(policy)
        assert (own.simulator, other.simulator) == (COMPILED, REFERENCE)
        assert own.placements == other.placements
        assert own.completion_s == other.completion_s
        assert set(other.metrics) - set(own.metrics) == ONLY_TIMED
        assert own.metrics == {k: v for k, v in other.metrics.items() if k not in ONLY_TIMED}
        assert ended == sorted(ended)
        assert ended.pop() == len(made.pods)
        ended.clear()


def test_a_policy_that_is_no_rule_is_played_by_the_reference_engine_and_refused_to_the_compiled_one() -> None:
    text = "hetero@pods=5,warm=2"
    played = lab.play_seed(text, 1, ("economic", LEARNED, "economic-oracle", "bound"))
    assert [r.simulator for r in played] == [COMPILED, REFERENCE, REFERENCE, ""]
    for name in (LEARNED, "economic-oracle", "heft"):
        with pytest.raises(UserError, match="the compiled engine does not play"):
            lab.check(text, 1, (name,), simulator=COMPILED)
    lab.check(text, 1, tuple(BASELINES), simulator=COMPILED)  # these choose theirs
    with pytest.raises(UserError, match="the compiled engine tells no policy the truth, as economic-oracle wants"):
        simulate(text, "economic-oracle", 1, simulator=COMPILED)
    with pytest.raises(UserError, match=f"there is no simulator 'other'; choose one of {', '.join(SIMULATORS)}"):
        simulate(text, "economic", 1, simulator="other")


def test_what_is_kept_says_who_played_it_and_is_played_again_for_who_wants_another_engine(tmp_path: Path) -> None:
    def engines(simulator: str) -> dict[str, str]:
        grid = Grid(("hetero@pods=5,warm=2",), ("economic", LEARNED), (1,), simulator=simulator)
        found = run(grid, kept=Kept(tmp_path, "x", resume=True))
        return {each["policy"]: each["simulator"] for each in simulators(found)}

    assert engines(AUTO) == {"economic": COMPILED, LEARNED: REFERENCE}
    assert engines(REFERENCE) == {"economic": REFERENCE, LEARNED: REFERENCE}


def test_the_figures_are_those_of_the_cost_function_pod_by_pod() -> None:
    made, rates = scenarios.make(SCENARIOS[1], 5), CostRates()
    direct = Direct(made, resolve("economic")[0], resolve("economic")[0])
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0))
    outcomes = Engine(made, scheduler, direct).run()
    outcomes[-1].node, outcomes[-1].started_s, outcomes[-1].finished_s = "", math.nan, math.nan
    outcomes[-2].finished_s = math.nan
    last_s = max(o.finished_s for o in outcomes if not math.isnan(o.finished_s))
    nodes = {n.name: n for n in made.nodes}
    cents, joules = [], []
    for outcome, pod in list(zip(outcomes, made.pods, strict=True))[made.warm :]:
        r = pod.request
        end_s = last_s if math.isnan(outcome.finished_s) else outcome.finished_s
        run_s = end_s - (end_s if math.isnan(outcome.started_s) else outcome.started_s)
        late = r.deadline_s < math.inf and (end_s > r.deadline_s or math.isnan(outcome.finished_s))
        drawn_j, share, price = 0.0, 0.0, 0.0
        if outcome.node:
            n = nodes[outcome.node]
            room = n.cpu_allocatable_milli
            drawn_j = float(cost.dynamic_joules(r.cpu_milli, room, n.idle_w, n.peak_w, run_s))
            share, price = cost.dominant_share(r, n), n.price_usd_per_h
        joules.append(drawn_j)
        cents.append(
            cost.realised_cents(
                rates, r, flow_s=end_s - r.created_s, late=late, joules=drawn_j, share=share, price_usd_per_h=price,
                run_s=run_s,
            )
        )  # fmt: skip
    found = measure(made, outcomes)
    assert found["cost"] == pytest.approx(np.mean(cents), rel=1e-12)
    assert found["energy"] == pytest.approx(math.fsum(joules) / 3600.0, rel=1e-12)
    assert found["unfinished"] == 2.0
