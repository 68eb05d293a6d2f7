"""Recorded arrivals played again: as they were, by the stock scheduler, by a policy."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, CostRates, PodRequest, Rows, Scores
from nodewise.kube.snapshot import Snapshot, SnapshotPod
from nodewise.policies.economic import ECONOMIC
from nodewise.policies.kube import in_tree
from nodewise_simulator import scenarios
from nodewise_simulator.advise.advice import Advice, advise
from nodewise_simulator.advise.check import check, record
from nodewise_simulator.advise.gains import Verdict
from nodewise_simulator.advise.outcomes import METRICS, measured, realised
from nodewise_simulator.advise.record import Recording, recording
from nodewise_simulator.advise.replay import Pinned, Stock, replayed
from nodewise_simulator.advise.truth import truth
from nodewise_simulator.advise.words import text
from nodewise_simulator.engine import Engine
from nodewise_simulator.world import Json, SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

RATES = CostRates()


@pytest.fixture(scope="module")
def hetero() -> World:
    return scenarios.make("hetero@load=0.8,pods=200,warm=100", 4)


@pytest.fixture(scope="module")
def made(hetero: World) -> Recording:
    return recording(record(hetero)[0], RATES)


def test_recorded_placements_played_again_end_when_they_ended(hetero: World, made: Recording) -> None:
    drawn = truth(made, RATES).world(3)
    outcomes = replayed(drawn, made, None, RATES, 3, as_recorded=True)
    assert [o.node for o in outcomes] == [made.nodes[p.node].name for p in made.pods]
    # Exactly so if neighbours were as strong as drawn; else alone times and slowdowns still make up for each other.
    apart = [o.finished_s - p.finished_s for o, p in zip(outcomes, made.pods, strict=True) if p.counted]
    assert np.abs(apart).max() < 1.0
    assert sum(p.counted for p in made.pods) == 200
    assert any(p.stays for p in made.pods)


def test_what_was_realised_is_what_is_measured_of_the_true_outcomes(hetero: World, made: Recording) -> None:
    values = measured(hetero, record(hetero)[1], range(hetero.warm, len(hetero.pods)), RATES)
    seen = realised(made, RATES)
    assert seen["completion"] == pytest.approx(values[:, 0].mean())
    assert [seen[m] for m in METRICS[1:]] == pytest.approx(values[:, 1:].sum(axis=0).tolist())
    assert seen["sla_misses"] > 0.0


class Peeking:
    """Remembers what it was shown."""

    name, digest = "peeking", "test"

    def __init__(self) -> None:
        self.means: list[np.ndarray[tuple[int, int], np.dtype[np.float64]]] = []
        self.elapsed: list[float] = []

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        del pod
        self.means.append(view.beliefs.run_mean)
        started_s = view.nodes.residents[:, 3]
        self.elapsed.append(float(np.nanmax(view.now_s - started_s, initial=0.0)))
        return np.zeros(len(rows), np.float32)


def test_a_policy_is_shown_what_was_learned_and_never_what_was_drawn(made: Recording) -> None:
    about = truth(made, RATES)
    first = []
    for seed in (1, 2):
        peeking = Peeking()
        replayed(about.world(seed), made, peeking, RATES, seed)
        first.append(peeking)
    rows, columns = first[0].means[0].shape
    np.testing.assert_array_equal(first[0].means[0], first[1].means[0])
    np.testing.assert_array_equal(first[0].means[0], made.estimator.beliefs().run_mean[:rows, :columns])
    assert not np.array_equal(first[0].means[-1], first[1].means[-1])  # it learns on, from each its own
    # Those who were there before the window are known to have run for long.
    longest_s = max(-p.started_s for p in made.pods if p.stays)
    assert first[0].elapsed[0] >= longest_s


def test_the_stock_schedulers_scores_are_those_of_the_whole_cluster_state(hetero: World) -> None:
    stock, state = Stock(hetero), ClusterState(RunTimeEstimator())
    for node in hetero.nodes:
        state.put_node(node)
    compared = []

    class Both(Stock):
        def view(self, pod: PodRequest, now_s: float) -> ClusterView:
            light = super().view(pod, now_s)
            rows = np.arange(len(hetero.nodes))
            compared.append(np.array_equal(in_tree(pod, light, rows), in_tree(pod, state.view(pod, now_s), rows)))
            return light

        def bound(self, pod: SimPod, node: str, now_s: float, started_s: float) -> None:
            super().bound(pod, node, now_s, started_s)
            state.place(pod.request, node, started_s)

        def finished(self, pod: SimPod, started_s: float, finished_s: float) -> None:
            super().finished(pod, started_s, finished_s)
            state.remove(pod.request.uid)

    stock = Both(hetero)
    Engine(hetero, Pinned(hetero.nodes, stock, stock.view, np.random.default_rng(0)), stock).run()
    assert len(compared) > 200
    assert all(compared)


def small(classes: Sequence[str], factor: float, pods: int = 240) -> World:
    """Twelve nodes of equal size; work runs `factor` times longer on the second class."""
    rng = np.random.default_rng(3)
    nodes = [
        node_manifest(f"n{k:02d}", cpu_milli=8000, memory_bytes=2**35, instance_type=classes[k % len(classes)],
                      idle_w=50, peak_w=150)
        for k in range(12)
    ]  # fmt: skip
    made, now_s = [], 0.0
    for k in range(pods):
        now_s += float(rng.exponential(3.0))
        manifest: Json = pod_manifest(
            f"p{k:03d}", quantised(now_s), {"nodewise.dev/workload": "etl", "nodewise.dev/sla-class": "batch"},
            {"cpu": "2", "memory": "1Gi"}, nodeSelector={"kubernetes.io/arch": "amd64"},
        )  # fmt: skip
        base_s = 40.0 * float(rng.lognormal(0.0, 0.2))
        made.append(sim_pod(manifest, base_s * np.array([1.0, factor][: len(classes)])))
    return world("small", 3, nodes, tuple(classes), made, warm=60)


def advice(made: World, **rest: object) -> Advice:
    return advise(record(made)[0], ECONOMIC, draws=4, **rest)  # type: ignore[arg-type]


def test_where_all_nodes_are_alike_nothing_is_gained_and_it_is_said() -> None:
    told = advice(small(("one",), 1.0))
    assert told.total.verdict is Verdict.NOTHING
    assert abs(told.total.gains["cost"].mean) < 0.03 * told.total.gains["cost"].before
    assert told.calibration.doubts == ()
    said = flat(told)
    assert "economic would have gained nothing that matters" in said
    assert "show no slowdown of pods by their neighbours" in said
    assert "DO NOT TRUST" not in said


def flat(told: Advice) -> str:
    return " ".join(text(told, {"default-scheduler": told.total.decisions}).split())


def test_where_half_of_the_nodes_are_slow_the_gain_is_found() -> None:
    told = advice(small(("fast", "slow"), 3.0))
    assert told.total.verdict is Verdict.GAINS
    assert told.total.gains["completion"].low > 10.0
    assert [g.workload for g in told.workloads] == ["etl"]
    assert told.workloads[0].gains == told.total.gains


def test_a_class_of_which_little_is_known_is_named() -> None:
    made = record(small(("fast", "slow"), 3.0))[0]
    fast = {f"n{k:02d}" for k in range(0, 12, 2)}
    unseen = [p for p in made.pods if p.node not in fast]  # as if the fast nodes were new
    told = advise(msgspec.structs.replace(made, pods=unseen), ECONOMIC, draws=3)
    assert told.total.verdict is Verdict.UNKNOWN
    assert {(c.workload, c.node_class) for c in told.total.thin} == {("etl", "fast")}
    assert "Too little is known to say whether economic would have gained anything" in flat(told)
    assert "of: etl on fast (0)." in flat(told)


def test_placements_of_another_scheduler_are_told_from_the_stock_schedulers() -> None:
    """Recorded under a scheduler that packs the slow nodes: the simulated stock one is no image of that."""
    made = small(("fast", "slow"), 3.0)
    told = advise(_packed(made), ECONOMIC, draws=4)
    assert any("another scheduler" in doubt for doubt in told.calibration.doubts)
    assert "DO NOT TRUST THIS YET: the recorded placements cost" in flat(told)


def _packed(made: World) -> Snapshot:
    slow = [n.name for k, n in enumerate(made.nodes) if k % 2]
    taken = world("small", 3, [n for n in made.node_manifests if n["metadata"]["name"] in slow], made.classes,
                  list(made.pods), warm=made.warm)  # fmt: skip
    whole, other = record(made)[0], record(taken)[0]
    return msgspec.structs.replace(other, nodes=whole.nodes)


def moved(p: SnapshotPod, by_s: float, *names: str) -> SnapshotPod:
    return msgspec.structs.replace(p, **{name: getattr(p, name) + by_s for name in names})


def test_pods_that_waited_for_what_is_not_simulated_are_noticed_and_slow_starts_are_not_held_against_us() -> None:
    made = record(small(("fast", "slow"), 3.0))[0]
    waited = [moved(p, 30.0, "bound_s", "started_s", "finished_s") for p in made.pods]
    pulled = [moved(p, 30.0, "started_s", "finished_s") for p in made.pods]
    told = advise(msgspec.structs.replace(made, pods=waited, end_s=made.end_s + 30.0), ECONOMIC, draws=3)
    assert any("not simulated" in doubt for doubt in told.calibration.doubts)
    told = advise(msgspec.structs.replace(made, pods=pulled, end_s=made.end_s + 30.0), ECONOMIC, draws=3)
    assert told.calibration.starting_s == pytest.approx(30.0)
    assert told.calibration.doubts == ()


def test_rules_between_pods_are_a_reason_to_doubt() -> None:
    made = record(small(("fast", "slow"), 3.0))[0]
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "host"}]}}
    ruled = [
        msgspec.structs.replace(p, manifest={**p.manifest, "spec": {**p.manifest["spec"], "affinity": apart}})
        for p in made.pods
    ]
    told = advise(msgspec.structs.replace(made, pods=ruled), ECONOMIC, draws=3)
    assert any("100% of the pods have rules" in doubt for doubt in told.calibration.doubts)


def test_nodes_that_come_and_go_are_a_reason_to_doubt_and_the_newest_of_a_name_counts() -> None:
    made = record(small(("fast", "slow"), 3.0))[0]
    half = made.begin_s + 0.5 * (made.end_s - made.begin_s)
    old = [msgspec.structs.replace(n, first_seen_s=0.0, last_seen_s=half) for n in made.nodes]
    new = [msgspec.structs.replace(n, first_seen_s=half) for n in made.nodes[::2]]
    told = advise(msgspec.structs.replace(made, nodes=[*new, *old]), ECONOMIC, draws=3)
    assert len(told.recording.nodes) == 12
    assert any("100% of the nodes came or went" in doubt for doubt in told.calibration.doubts)


def test_what_was_predicted_is_what_is_achieved() -> None:
    """The intervals of 4 worlds × 4 metrics hold what the policy then achieves; 95 % of them should."""
    inside = [
        found.covers(metric)
        for seed in (31, 32, 33, 34)
        for found in [check(scenarios.make("hetero@load=0.7,pods=150,warm=100", seed), ECONOMIC, draws=5)]
        for metric in found.predicted
    ]
    assert sum(inside) >= 13
