"""The cluster state against a naive recount, over random histories."""

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nodewise.core import cost, state
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.pods import NodeSpec
from nodewise.core.state import ClusterState
from nodewise.core.table import Resident
from nodewise.core.types import UNKNOWN_S, ClusterView, CostRates, Kind, NodeTable, PodRequest, SlaClass

PodOf = Callable[..., PodRequest]
NodeOf = Callable[..., NodeSpec]
StateOf = Callable[..., ClusterState]

UIDS, NAMES = [f"p{k}" for k in range(8)], [f"n{k}" for k in range(4)]
Step = tuple[Any, ...]

uids, names, times = st.sampled_from(UIDS), st.sampled_from(NAMES), st.sampled_from([UNKNOWN_S, 5.0, 7.0])
STEPS = st.one_of(
    st.tuples(st.just("put_node"), names, st.sampled_from([2000.0, 4000.0])),
    st.tuples(st.just("remove_node"), names),
    st.tuples(st.just("place"), uids, names, times, st.sampled_from([math.inf, math.inf, 10.0, 20.0])),
    st.tuples(st.just("place_all"), st.lists(st.tuples(uids, names, times), unique_by=lambda t: t[0], max_size=5)),
    st.tuples(st.just("started"), uids, times),
    st.tuples(st.just("remove"), uids),
    st.tuples(st.just("finish"), uids, st.booleans()),
    st.tuples(st.just("queue"), uids),
    st.tuples(st.just("expire"), st.sampled_from([9.0, 10.0, 20.0])),
    st.tuples(st.just("view")),
)
ALL_NODES: list[Step] = [("put_node", name, 4000.0) for name in NAMES]
HISTORIES = st.tuples(st.sampled_from([[], ALL_NODES]), st.lists(STEPS, max_size=40)).map(
    lambda parts: parts[0] + parts[1]
)


@dataclass
class Naive:
    """The same bookkeeping with nothing cached and nothing incremental."""

    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    pods: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # uid -> node, started_s, expires_s
    queued: set[str] = field(default_factory=set)

    def place(self, uid: str, node: str, started_s: float, expires_s: float = math.inf) -> None:
        old = self.pods.get(uid)
        if old and old[0] == node and node in self.nodes and math.isnan(started_s):
            started_s = old[1]
        self.pods[uid] = (node, started_s, expires_s)
        self.queued.discard(uid)

    def here(self, node: str) -> list[str]:
        return sorted(uid for uid, (on, _, _) in self.pods.items() if on == node)

    def placed(self) -> dict[str, str]:
        return {uid: node for uid, (node, _, _) in self.pods.items() if node in self.nodes}

    def do(self, step: Step, spec: Callable[[str, float], NodeSpec]) -> None:
        match step:
            case "put_node", name, cpu:
                self.nodes[name] = spec(name, cpu)
                self.queued -= set(self.here(name))
            case "remove_node", name:
                self.nodes.pop(name, None)
            case "place", uid, name, started_s, expires_s:
                self.place(uid, name, started_s, expires_s)
            case "place_all", pods:
                for pod in pods:
                    self.place(*pod)
            case "started", uid, started_s:
                if uid in self.placed() and not math.isnan(started_s):
                    node, _, expires_s = self.pods[uid]
                    self.pods[uid] = node, started_s, expires_s
            case (("remove" | "finish"), uid, *_):
                self.pods.pop(uid, None)
                self.queued.discard(uid)
            case "queue", uid:
                if uid not in self.placed():
                    self.queued.add(uid)
            case "expire", now_s:
                self.pods = {uid: pod for uid, pod in self.pods.items() if pod[2] > now_s}


def do(made: ClusterState, step: Step, pods: dict[str, PodRequest], spec: Callable[[str, float], NodeSpec]) -> None:
    match step:
        case "put_node", name, cpu:
            made.put_node(spec(name, cpu))
        case "remove_node", name:
            made.remove_node(name)
        case "place", uid, name, started_s, expires_s:
            made.place(pods[uid], name, started_s, expires_s=expires_s)
        case "place_all", several:
            made.place_all((pods[uid], name, started_s) for uid, name, started_s in several)
        case "started", uid, started_s:
            made.started(uid, started_s)
        case "remove", uid:
            known = uid in made.pods()
            assert made.remove(uid) is known
        case "finish", uid, succeeded:
            made.finish(uid, 1.0, 61.0, succeeded=succeeded)
        case "queue", uid:
            made.queue(pods[uid])
        case "expire", now_s:
            made.expire(now_s)


@pytest.fixture(scope="session")
def pods(pod_of: PodOf) -> dict[str, PodRequest]:
    return {
        uid: pod_of(
            uid, cpu_milli=100.0 / 3 * (k + 1), memory_bytes=2.0**20 * (k + 1), gpus_milli=1000.0 * (k % 2),
            cpu_nonzero_milli=100.0 * (k + 2), sla=SlaClass(k % 3), owner=f"ReplicaSet/o{k % 2}" if k % 3 else "",
            kind=(Kind.JOB, Kind.SERVICE)[k % 4 == 3], workload=f"w{k % 2}",
            expected_run_s=50.0 if k == 5 else UNKNOWN_S,
        )
        for k, uid in enumerate(UIDS)
    }  # fmt: skip


@pytest.fixture(scope="session")
def spec(node_of: NodeOf) -> Callable[[str, float], NodeSpec]:
    return lambda name, cpu: node_of(name, cpu_allocatable_milli=cpu, node_class=f"c{cpu:g}")


def check(view: ClusterView, naive: Naive, pods: dict[str, PodRequest]) -> None:
    """Every number that a view holds of residents, counted anew."""
    t = view.nodes
    assert set(t.name) == set(naive.nodes)
    assert t.row == {name: k for k, name in enumerate(t.name)}
    assert list(np.diff(t.resident_offsets)) == [len(naive.here(name)) for name in t.name]
    for k, name in enumerate(t.name):
        here = [pods[uid] for uid in naive.here(name)]
        room = naive.nodes[name].cpu_allocatable_milli
        assert t.cpu_allocatable_milli[k] == room
        assert t.cpu_requested_milli[k] == pytest.approx(sum(p.cpu_milli for p in here))
        assert t.cpu_nonzero_milli[k] == sum(p.cpu_nonzero_milli for p in here)
        assert t.memory_requested_bytes[k] == sum(p.memory_bytes for p in here)
        assert t.memory_nonzero_bytes[k] == sum(p.memory_nonzero_bytes for p in here)
        assert t.gpus_requested_milli[k] == sum(p.gpus_milli for p in here)
        assert t.pressure[k] == pytest.approx(sum(p.cpu_milli for p in here) / room)
        assert list(t.pods_by_sla[k]) == [sum(p.sla == sla for p in here) for sla in SlaClass]
        rate = sum(cost.delay_cents_per_s(view.rates, p.sla) for p in here)
        assert t.resident_delay_cents_per_s[k] == pytest.approx(rate)
        rows = t.residents[t.resident_offsets[k] : t.resident_offsets[k + 1]]
        owners = t.resident_owner[t.resident_offsets[k] : t.resident_offsets[k + 1]]
        left = []
        for p, row, owner in zip(here, rows, owners, strict=True):
            started_s = naive.pods[p.uid][1]
            assert (row[Resident.NODE], row[Resident.CPU_MILLI], row[Resident.SLA]) == (k, p.cpu_milli, p.sla)
            assert row[Resident.STARTED_S] == pytest.approx(started_s, nan_ok=True)
            assert (owner == -1) == (not p.owner)
            cell = int(row[Resident.BELIEF_ROW]), t.node_class[k]
            mean, std = (table[cell] * row[Resident.SCALE] for table in (view.beliefs.run_mean, view.beliefs.run_std))
            elapsed_s = 0.0 if math.isnan(started_s) else view.now_s - started_s
            left.append(max(mean - elapsed_s, 0.25 * std) if p.kind is Kind.JOB else view.rates.service_horizon_s)
        work = sum(s * p.cpu_milli for s, p in zip(left, here, strict=True) if p.kind is Kind.JOB)
        assert t.work_remaining_s[k] == pytest.approx(work / room)
        assert t.longest_remaining_s[k] == pytest.approx(max(left, default=0.0))
    same = [pods[uid].owner for name in t.name for uid in naive.here(name)]
    for a, owner_a in enumerate(same):
        assert [t.resident_owner[b] == t.resident_owner[a] for b in range(len(same))] == [o == owner_a for o in same]
    assert list(view.queued_by_sla) == [sum(pods[uid].sla == sla for uid in naive.queued) for sla in SlaClass]


def assert_same_table(one: ClusterView, other: ClusterView) -> None:
    """To the last bit, but for the ids of owners, of which only the equality means anything."""
    for f in fields(NodeTable):
        if f.name != "resident_owner":
            np.testing.assert_array_equal(getattr(one.nodes, f.name), getattr(other.nodes, f.name), f.name)
    mine, theirs = ((v.nodes.resident_owner == v.owner_id) & (v.owner_id >= 0) for v in (one, other))
    np.testing.assert_array_equal(mine, theirs)


@settings(max_examples=150, deadline=None)
@given(history=HISTORIES)
@example([*ALL_NODES, ("place", "p0", "n1", 5.0, math.inf), ("view",), ("remove", "p0"), ("view",)])
@example(
    [("put_node", "n0", 2e3), ("put_node", "n1", 2e3), ("place", "p0", "n1", 5.0, math.inf), ("view",),
     ("remove_node", "n0")]
)  # fmt: skip
def test_after_any_history_the_state_agrees_with_a_recount_and_old_views_stand(
    pods: dict[str, PodRequest], spec: Callable[[str, float], NodeSpec], history: list[Step]
) -> None:
    made, naive = ClusterState(RunTimeEstimator()), Naive()
    given_out: list[tuple[ClusterView, bytes]] = []
    for step in history:
        do(made, step, pods, spec)
        naive.do(step, spec)
        assert {uid: made.node_of(uid) for uid in made.pods()} == naive.placed()
        if step[0] == "view":
            view = made.view(pods["p1"], 8.0)
            check(view, naive, pods)
            given_out.append((view, pickle.dumps(view)))
    last = made.view(pods["p1"], 8.0)
    check(last, naive, pods)
    for view, before in given_out:
        assert pickle.dumps(view) == before
    fresh = ClusterState(made.estimator)
    for node in made.nodes():
        fresh.put_node(node)
    fresh.place_all((pods[uid], node, naive.pods[uid][1]) for uid, node in naive.placed().items())
    assert_same_table(fresh.view(pods["p1"], 8.0), last)


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(UIDS),
    nodes=st.lists(names, min_size=8, max_size=8),
    at_once=st.booleans(),
    late=st.integers(0, 8),
)
def test_the_order_of_arrival_does_not_matter(
    pods: dict[str, PodRequest], spec: Callable[[str, float], NodeSpec], order: list[str], nodes: list[str],
    at_once: bool, late: int,
) -> None:  # fmt: skip
    """Pods in any order, one by one or in a list, some of them before their node: one picture."""
    where = dict(zip(UIDS, nodes, strict=True))
    estimator = RunTimeEstimator()
    for uid in UIDS:
        estimator.row(pods[uid])
    straight, shuffled = ClusterState(estimator), ClusterState(estimator)
    for name in NAMES:
        straight.put_node(spec(name, 4000.0))
    for uid in UIDS:
        straight.place(pods[uid], where[uid], 5.0)
    for k, uid in enumerate(order):
        if k == late:
            for name in NAMES:
                shuffled.put_node(spec(name, 4000.0))
        if not at_once:
            shuffled.place(pods[uid], where[uid], 5.0)
    if late == len(order):
        for name in NAMES:
            shuffled.put_node(spec(name, 4000.0))
    if at_once:
        shuffled.place_all((pods[uid], where[uid], 5.0) for uid in order)
    one, other = (s.view(pods["p1"], 9.0) for s in (straight, shuffled))
    assert_same_table(one, other)
    np.testing.assert_array_equal(one.arch_starts, other.arch_starts)


def test_rows_of_names_keep_their_order_and_leave_out_strangers_and_repetitions(busy: StateOf) -> None:
    made = busy()
    assert made.rows(["n03", "gone", "n01", "n03"]).tolist() == [3, 1]
    assert made.rows([]).tolist() == []
    assert made.rows(["gone"]).dtype == np.int64


@pytest.fixture
def one_node(node_of: NodeOf) -> ClusterState:
    made = ClusterState(RunTimeEstimator())
    made.put_node(node_of("n"))
    return made


def test_an_assumed_pod_expires_and_a_bound_one_does_not(one_node: ClusterState, pod_of: PodOf) -> None:
    one_node.place(pod_of("assumed"), "n", expires_s=30.0)
    one_node.place(pod_of("bound"), "n", expires_s=30.0)
    one_node.place(pod_of("bound"), "n")  # its binding was seen
    assert one_node.expire(29.9) == 0
    assert one_node.expire(30.0) == 1
    assert set(one_node.pods()) == {"bound"}


def test_an_assumption_does_not_survive_the_loss_of_its_node(
    one_node: ClusterState, pod_of: PodOf, node_of: NodeOf
) -> None:
    one_node.place(pod_of("assumed"), "n", expires_s=30.0)
    one_node.remove_node("n")
    one_node.expire(40.0)
    one_node.put_node(node_of("n"))
    assert list(one_node.pods()) == []


def test_a_pod_that_moved_to_a_node_we_do_not_know_frees_the_one_it_was_assumed_on(
    one_node: ClusterState, pod_of: PodOf
) -> None:
    one_node.place(pod_of("p"), "n", expires_s=30.0)
    one_node.place(pod_of("p"), "not-seen-yet")
    assert one_node.node_of("p") == ""
    assert one_node.view(pod_of("q"), 0.0).nodes.cpu_requested_milli.sum() == 0.0


@pytest.mark.parametrize("at_once", [False, True])
def test_an_old_sighting_on_an_unknown_node_does_not_move_a_pod_back(
    one_node: ClusterState, pod_of: PodOf, node_of: NodeOf, at_once: bool
) -> None:
    one_node.place(pod_of("p"), "late")
    if at_once:
        one_node.place_all([(pod_of("p"), "n", UNKNOWN_S)])
    else:
        one_node.place(pod_of("p"), "n")
    one_node.put_node(node_of("late"))
    assert one_node.node_of("p") == "n"


def test_a_node_that_shrinks_is_under_more_pressure(one_node: ClusterState, pod_of: PodOf, node_of: NodeOf) -> None:
    one_node.place(pod_of("p"), "n")
    assert one_node.view(pod_of("q"), 0.0).nodes.pressure.tolist() == [0.25]
    one_node.put_node(node_of("n", cpu_allocatable_milli=2000.0))
    assert one_node.view(pod_of("q"), 0.0).nodes.pressure.tolist() == [0.5]


def test_a_finished_pod_teaches_its_speed_without_what_its_neighbours_took(
    one_node: ClusterState, pod_of: PodOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the cores were taken when it came: it is believed to have run 1 + 0.3/2 times as long as alone."""
    observed: list[tuple[float, float]] = []
    monkeypatch.setattr(one_node.estimator, "observe", lambda _r, _c, run, slowdown: observed.append((run, slowdown)))
    one_node.place(pod_of("beside", cpu_milli=2000.0), "n")
    one_node.place(pod_of("p", expected_run_s=20.0), "n", 100.0)
    one_node.finish("p", 100.0, 130.0, succeeded=True)
    one_node.finish("beside", 0.0, 50.0, succeeded=False)
    one_node.finish("never seen", 0.0, 50.0, succeeded=True)
    np.testing.assert_allclose(observed, [(1.5, 1.15)])
    assert list(one_node.pods()) == []


def test_where_pods_wait_for_their_turn_the_wait_is_the_work_and_nothing_is_slowed(
    pod_of: PodOf, node_of: NodeOf
) -> None:
    made = ClusterState(RunTimeEstimator(), CostRates(), fifo=True)
    made.put_node(node_of("n"))
    made.place(pod_of("p", cpu_milli=4000.0, expected_run_s=100.0), "n", 0.0)
    table = made.view(pod_of("q"), 30.0).nodes
    assert table.start_wait_s[0] == table.work_remaining_s[0] > 50.0
    assert table.pressure[0] == 0.0


def test_owners_without_residents_are_forgotten_but_never_mixed_up(
    one_node: ClusterState, pod_of: PodOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_OWNERS_KEPT", 5)
    kept = pod_of("kept", owner="ReplicaSet/kept")
    one_node.place(kept, "n")
    for k in range(40):
        one_node.place(pod_of(f"p{k}", owner=f"Job/{k}"), "n")
        one_node.remove(f"p{k}")
    view = one_node.view(kept, 0.0)
    assert (view.nodes.resident_owner == view.owner_id).tolist() == [True]
    assert one_node.view(pod_of("q", owner="Job/1"), 0.0).owner_id in (-1, *range(40))
    assert len(one_node._owner_ids) < 12


def test_replicas_that_arrive_in_one_long_list_are_one_owner(
    one_node: ClusterState, pod_of: PodOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_OWNERS_KEPT", 5)
    several = [pod_of(f"p{k:02d}", owner=f"ReplicaSet/{k % 15}") for k in range(30)]
    one_node.place_all((p, "n", UNKNOWN_S) for p in several)
    view = one_node.view(several[0], 0.0)
    assert np.bincount(view.nodes.resident_owner).tolist() == [2] * 15
    assert (view.nodes.resident_owner == view.owner_id).sum() == 2
