"""The compiled engine against the reference engine: the same node for every pod, the same times to the last bit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nodewise.core.columns import COLUMNS, arguments, features_by_scope, split
from nodewise.core.decide import PolicyRefusalError
from nodewise.core.errors import UserError
from nodewise.core.estimator import RunTimeEstimator
from nodewise.core.raw import raw
from nodewise.core.types import ClusterView, Fallback, Floats, PodRequest, Policy, Rows, Scores
from nodewise.policies import DEFAULT
from nodewise.policies.economic import TERMS
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import beliefs, run
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import Net, Record, State, play_net, play_rule, play_sampled
from nodewise_simulator.direct import Direct
from nodewise_simulator.engine import Engine, Outcome
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.scorer import score
from nodewise_simulator.world import SimPod, World, node_manifest, pod_manifest, quantised, sim_pod, world

Json = dict[str, Any]

ALL = tuple(COLUMNS)
GIB = 2.0**30


# --- worlds ----------------------------------------------------------------------------------------------------------


def odd_world(seed: int, nodes: int = 9, pods: int = 400) -> World:
    """What `hetero` lacks: services, owners with replicas, priorities that overtake, arrivals at one instant, no
    deadline, pods that fit only one node, nodes that are full by number of pods, taints, several GPUs, no requests."""
    rng = np.random.default_rng([seed, 17])
    classes = ("old", "new", "gpu/T4")
    manifests = [
        node_manifest(
            f"n{k:03d}", cpu_milli=float(rng.integers(4, 17) * 1000), memory_bytes=float(rng.integers(8, 65)) * GIB,
            instance_type=classes[k % 3].split("/")[0], gpus=2 if k % 3 == 2 else 0, gpu_product="T4",
            price_usd_per_h=float(rng.uniform(0.0, 2.0)), idle_w=float(rng.uniform(10, 80)),
            peak_w=float(rng.uniform(60, 300)), pods=int(rng.integers(3, 12)),
            taints=({"key": "only", "value": "some", "effect": "NoSchedule"},) if k % 5 == 4 else (),
        )
        for k in range(nodes)
    ]  # fmt: skip
    speed = np.exp(rng.normal(0.0, 0.4, (6, len(classes))))
    created_s = np.sort(rng.integers(0, pods // 2, pods)) * 3.0 * 9.0 / nodes
    made = [odd_pod(k, quantised(float(at_s)), speed, rng, nodes) for k, at_s in enumerate(created_s)]
    return world("odd", seed, manifests, classes, made, warm=0)


def odd_pod(index: int, created_s: float, speed: Floats, rng: np.random.Generator, nodes: int) -> SimPod:
    kind = str(rng.choice(["Job", "ReplicaSet", ""], p=[0.6, 0.3, 0.1]))
    workload = int(rng.integers(len(speed)))
    sla = str(rng.choice(["production", "batch", "best-effort"]))
    base_s = float(rng.lognormal(3.3, 0.7)) * (4.0 if kind == "ReplicaSet" else 1.0)
    annotations = {"nodewise.dev/sla-class": sla, "nodewise.dev/workload": f"w{workload}"}
    if rng.random() < 0.5:
        annotations["nodewise.dev/deadline-seconds"] = f"{base_s * rng.uniform(1.2, 4.0):.3f}"
    if workload % 2:
        annotations["nodewise.dev/expected-seconds"] = f"{base_s * rng.uniform(0.7, 1.4):.3f}"
    requests: Json = {"cpu": f"{rng.integers(1, 9) * 250}m", "memory": f"{rng.integers(1, 17) * 256}Mi"}
    if rng.random() < 0.1:
        requests = {}
    elif rng.random() < 0.1:
        requests["nvidia.com/gpu"] = "1"
    spec: Json = {
        "priority": int(rng.choice([0, 0, 0, 5, 100])),
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "restartPolicy": "Always" if kind == "ReplicaSet" else "Never",
    }
    if rng.random() < 0.15:
        spec["nodeSelector"]["kubernetes.io/hostname"] = f"n{rng.integers(nodes):03d}"
    if rng.random() < 0.5:
        spec["tolerations"] = [{"key": "only", "operator": "Exists"}]
    # Names that do not sort in order of arrival: residents are summed up in order of uid.
    manifest = pod_manifest(f"p{index * 7919 % 1009:04d}-{index}", created_s, annotations, requests, **spec)
    if kind:
        name = f"o{rng.integers(5)}"
        manifest["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": True}
        ]
    return sim_pod(manifest, base_s * speed[workload] * rng.lognormal(0.0, 0.3), float(rng.uniform(0.0, 0.8)))


WORLDS: dict[str, Callable[[], World]] = {
    "half": lambda: scenarios.make("hetero@load=0.5,pods=250,warm=150,mix=mixed", 11),
    "busy": lambda: scenarios.make("hetero@load=0.85,pods=450,warm=150,mix=production", 12),
    "over": lambda: scenarios.make("hetero@load=1.3,pods=600,warm=500,mix=batch", 13),
    "odd": lambda: odd_world(1),
    "odder": lambda: odd_world(2),
    "oddest": lambda: odd_world(4),
    "large": lambda: odd_world(3, nodes=150, pods=700),
}


@pytest.fixture(scope="module", params=list(WORLDS))
def made(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]()


# --- both engines ----------------------------------------------------------------------------------------------------


class Scored:
    """The compiled scorer as a policy of the reference engine."""

    name, digest = "scored", "test"

    def __init__(self, net: Net) -> None:
        self.net, self.parts = net, split(net.columns)
        self.refused = 0
        self.seen: list[tuple[NDArray[np.float32], ...]] = []
        """Node [M, Kn], pair [M, Kr] and request [Kp] of each decision."""

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        seen = features_by_scope(self.net.columns, pod, view, rows)
        for values, part in zip(seen, self.parts, strict=True):
            if ((values < self.net.low[part]) | (values > self.net.high[part])).any():
                self.refused += 1
                raise PolicyRefusalError(Fallback.OUT_OF_RANGE, "outside")
        self.seen.append(seen)
        out = np.empty(len(rows), np.float32)
        score(self.net.weights, self.net.sizes, *seen, out)
        return out


def reference(made: World, policy: Policy) -> tuple[list[Outcome], Engine, KubeScheduler]:
    direct = Direct(made, policy, DEFAULT)
    scheduler = KubeScheduler(made.nodes, direct, direct.state.view, np.random.default_rng(0))
    engine = Engine(made, scheduler, direct)
    return engine.run(), engine, scheduler


def assert_same(own: Sequence[Outcome], other: Sequence[Outcome]) -> None:
    assert [o.node for o in own] == [o.node for o in other]
    mine, theirs = (np.array([(o.bound_s, o.started_s, o.finished_s) for o in outcomes]) for outcomes in (own, other))
    np.testing.assert_array_equal(mine, theirs)


def random_net(seed: int = 5, hidden: int = 16) -> Net:
    """Weights that matter, of all columns."""
    rng = np.random.default_rng(seed)
    kn_, kr, kp = map(len, split(ALL))
    inputs, units = -(-(kn_ + kr) // 4) * 4, hidden
    size = 3 * kp + kp * units + units + 4 * inputs + inputs * units + units * units * 3 + 2 * units
    weights = rng.normal(0.0, 0.15, size).astype(np.float32)
    return Net.unbounded(ALL, weights, np.array([kn_, kr, kp, hidden], np.int64))


def bounded(net: Net) -> Net:
    """Not to be asked about long slack or about nodes that are all but full."""
    high = net.high.copy()
    high[ALL.index("log_slack")], high[ALL.index("cpu_requested_share")] = 9.0, 0.97
    return replace(net, high=high)


def placed(made: World, play: Callable[..., None], *given: Any) -> tuple[State, list[Outcome]]:
    flat = flatten(made)
    state = State.start(flat)
    play(flat, state, *given)
    return state, state.outcomes([n.name for n in made.nodes])


def test_economic_places_every_pod_as_the_reference_engine_does(made: World) -> None:
    outcomes, engine, scheduler = reference(made, DEFAULT)
    state, own = placed(made, play_rule)
    assert_same(own, outcomes)
    assert state.number[kn.ASKED] == scheduler.asked > 100
    assert sum(o.finished_s > 0.0 for o in own) > 0.9 * len(own)
    if made.seed == 13 or made.scenario == "odd":
        assert max(engine.backlog) > 3  # pods that really wait


def assert_shown_alike(made: World, net: Net, seen: Sequence[tuple[NDArray[np.float32], ...]]) -> None:
    """Every column of every candidate is that of numpy; a last bit may differ where beliefs, or logarithms, do."""
    flat = flatten(made)
    state, record = State.start(flat), Record.room(len(made.pods), len(made.nodes), ALL)
    run._play(flat, state, (kn.GREEDY, np.ones(len(TERMS))), net, 0.0, np.zeros(0), record, 0, len(made.pods) + 1)
    assert state.number[kn.RECORDED] == len(seen)
    for k, (node, pair, request) in enumerate(seen):
        for own, other in ((record.node[k, : len(node)], node), (record.pair[k, : len(node)], pair)):
            np.testing.assert_allclose(own, other, rtol=3e-7, atol=1e-30)
        np.testing.assert_allclose(record.request[k], request, rtol=3e-7)


def test_a_scorer_places_every_pod_as_the_reference_engine_does(made: World) -> None:
    net = bounded(random_net())
    policy = Scored(net)
    outcomes, _, scheduler = reference(made, policy)
    state, own = placed(made, play_net, net)
    assert_same(own, outcomes)
    assert_shown_alike(made, net, policy.seen)
    assert state.number[kn.REFUSED] == policy.refused
    assert 0 < policy.refused < scheduler.asked
    assert state.number[kn.DEPARTED] > 0.3 * (scheduler.asked - policy.refused)


@pytest.mark.parametrize("play", [(play_rule,), (play_net, random_net())], ids=["rule", "net"])
def test_no_decision_depends_on_the_future(play: tuple[Any, ...]) -> None:
    whole, shown = scenarios.make("hetero@load=1.1,pods=300,warm=200", 3), 320
    order = np.random.default_rng(0).permutation(np.arange(shown, len(whole.pods)))
    later = [whole.pods[k] for k in order]
    swapped = [
        replace(p, request=replace(p.request, created_s=at.request.created_s))
        for p, at in zip(later, whole.pods[shown:], strict=True)
    ]
    other = replace(whole, pods=(*whole.pods[:shown], *swapped))
    (state, own), (_, turned) = placed(whole, *play), placed(other, *play)
    until_s = whole.pods[shown].request.created_s
    decided = np.flatnonzero(state.pod[:, kn.BOUND_S] < until_s)
    assert len(decided) > 250
    assert [own[k].node for k in decided] == [turned[k].node for k in decided]
    assert [o.node for o in own] != [o.node for o in turned]


def test_what_is_played_in_pieces_is_what_is_played_at_once() -> None:
    made, net = WORLDS["odd"](), bounded(random_net())
    flat, whole = flatten(made), placed(made, play_net, net)[0]
    state = State.start(flat)
    for until in (1, 50, 51, 200):
        play_net(flat, state, net, until)
        state = state.copy()
    play_net(flat, state, net)
    for field in fields(State):
        np.testing.assert_array_equal(getattr(state, field.name), getattr(whole, field.name), err_msg=field.name)


def test_weights_of_the_terms_are_those_of_a_rule_of_ones_own() -> None:
    made, weights = WORLDS["odd"](), np.array([3.0, 0.0, 20.0, 5.0, 0.5, 40.0, 1.0])

    class Weighted:
        name, digest = "weighted", "test"

        def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
            values = raw(pod, view, rows)
            terms = [COLUMNS[t].fn(*arguments(COLUMNS[t], values)) for t in TERMS]
            return np.asarray(-sum(w * t for w, t in zip(weights, terms, strict=True)), np.float32)

    own = placed(made, play_rule, None, weights)[1]
    assert_same(own, reference(made, Weighted())[0])
    assert [o.node for o in own] != [o.node for o in placed(made, play_rule)[1]]


# --- sampling --------------------------------------------------------------------------------------------------------


def test_draws_follow_the_softmax_of_the_recorded_scores_and_records_are_what_a_policy_sees() -> None:
    made, net, sharpness, first, until = WORLDS["busy"](), random_net(), 2.0, 100, 400
    flat = flatten(made)
    state, uniforms = State.start(flat), np.random.default_rng(1).random(len(made.pods))
    record = Record.room(250, len(made.nodes), ALL)
    play_net(flat, state, net, first)
    play_sampled(flat, state, net, sharpness, uniforms, record, first, until)
    assert state.number[kn.RECORDED] == 250  # no more than there is room for
    ranks = []
    for k, (p, m, chosen) in enumerate(record.choice.tolist()):
        assert first <= p < until
        scores = np.empty(m, np.float32)
        score(net.weights, net.sizes, record.node[k, :m], record.pair[k, :m], record.request[k], scores)
        logits = sharpness * scores.astype(float)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        assert record.logp[k] == pytest.approx(math.log(share[chosen]), abs=1e-9)
        below = share[:chosen].sum()
        assert below - 1e-12 <= uniforms[p] <= below + share[chosen] + 1e-12
        ranks.append(int((scores > scores[chosen]).sum()))
    assert 0 < np.count_nonzero(ranks) < 250


def test_a_very_sharp_draw_is_the_best_node() -> None:
    made, net = WORLDS["odd"](), random_net()
    flat = flatten(made)
    state, best = State.start(flat), placed(made, play_net, net)[1]
    play_sampled(flat, state, net, 1e9, np.full(len(made.pods), 0.3), None, 0, len(made.pods) + 1)
    names = [n.name for n in made.nodes]
    same = [own.node == other.node for own, other in zip(state.outcomes(names), best, strict=True)]
    assert np.mean(same) > 0.9  # but for nodes that score the same


# --- what a pod did to others ----------------------------------------------------------------------------------------


def on_one_node(price_usd_per_h: float) -> State:
    """A batch pod of 1 of 4 cores from 0 s on, and from 10 to 26 s beside it a production pod of 2 cores."""
    node = node_manifest("n", cpu_milli=4000, memory_bytes=GIB, instance_type="c", price_usd_per_h=price_usd_per_h)

    def pod(name: str, sla: str, at_s: float, cpu: str, run_s: float, sensitivity: float) -> SimPod:
        manifest = pod_manifest(name, at_s, {"nodewise.dev/sla-class": sla}, {"cpu": cpu})
        manifest["spec"]["nodeSelector"] = {"kubernetes.io/arch": "amd64"}
        return sim_pod(manifest, np.array([run_s]), sensitivity)

    pods = [pod("a", "batch", 0.0, "1", 28.0, 0.5), pod("b", "production", 10.0, "2", 16.0 / 1.0625, 0.25)]
    state, outcomes = placed(world("t", 0, [node], ("c",), pods, warm=0), play_rule)
    assert [(o.started_s, o.finished_s) for o in outcomes] == [(0.0, 31.203125), (10.0, 26.0)]
    return state


def test_a_pod_is_charged_with_the_seconds_that_others_lost_beside_it() -> None:
    # A runs at 1 / (1 + 0.5 * 0.5) = 0.8 beside B: 0.2 s lost each second, for 16 s, at 0.005 cents.
    # B runs at 1 / (1 + 0.25 * 0.25): 0.0588235 s lost each second, at 1/60 cents.
    harm = on_one_node(0.0).pod[:, kn.HARM]
    np.testing.assert_allclose(harm, [16 * (1 - 1 / 1.0625) / 60, 16 * 0.2 * 0.005], rtol=1e-12)


def test_a_second_lost_also_costs_the_share_of_the_node() -> None:
    # 3.60 USD/h are 0.1 cents a second: 0.025 for A's quarter, 0.05 for B's half.
    harm = on_one_node(3.6).pod[:, kn.HARM]
    np.testing.assert_allclose(harm, [16 * (1 - 1 / 1.0625) * (1 / 60 + 0.05), 16 * 0.2 * 0.03], rtol=1e-12)


def test_what_a_learner_is_told_changes_no_decision_and_is_told_of_the_pods_that_were_decided() -> None:
    made, net = scenarios.make("hetero@load=1.1,pods=200,warm=100", 4), random_net()
    flat, plain = flatten(made), placed(made, play_net, net)[0]
    state = State.start(flat)
    play_net(flat, state, net, 250)
    play_net(flat, state, net, 251, charge=True)
    w, c = flat.pod_i[250, kn.WORKLOAD], flat.node_class[state.pod_node[250]]
    gained = beliefs.knowledge_gradient(state.cells, flat.stakes, w, c)
    assert state.pod[250, kn.TAUGHT] == flat.stakes[beliefs.VOLUME, w, 0] * gained
    play_net(flat, state, net, charge=True)
    np.testing.assert_array_equal(state.pod[:, : kn.HARM + 1], plain.pod[:, : kn.HARM + 1])
    assert not state.pod[:250, kn.TAUGHT].any()
    assert state.pod[250:, kn.TAUGHT].any()
    assert state.pod[:, kn.DISPLACED].any()
    assert not plain.pod[:, [kn.DISPLACED, kn.TAUGHT]].any()


# --- beliefs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_are_those_of_the_estimator(seed: int, pod_of: Callable[..., PodRequest]) -> None:
    rng = np.random.default_rng(seed)
    estimator = RunTimeEstimator()
    columns = [estimator.column(f"class-{k}") for k in range(4)]
    told = [math.nan, 60.0, math.nan, 30.0, math.nan, math.nan]
    rows = [estimator.row(pod_of(workload=f"w{k}", expected_run_s=s)) for k, s in enumerate(told)]
    made = flatten(WORLDS["odd"]()).settings
    start = estimator.state()
    described = np.array([d for _, d in estimator.workloads])
    cells = np.zeros((beliefs.NOISE_VAR + 1, len(rows), len(columns)))
    learned = [np.array(start[name]) for name in ("row_factor", "col_factor", "row_var", "col_var")]
    odd = (0.0, -1.0, math.inf, math.nan, 1e-9, 1e9)
    for k in range(240):
        row, column = int(rng.integers(5)), int(rng.integers(3) if k < 200 else 3)  # the last row stays unseen
        run = float(rng.lognormal(3.0, 1.0)) if k % 9 else float(rng.choice(odd))
        slowdown = 1.0 + float(rng.random()) if k % 11 else math.inf
        estimator.observe(row, column, run, slowdown)
        beliefs.observe(made, described, cells, *learned, row, column, run, slowdown)
        if k % 24 in (0, 23):
            beliefs.tables(made, described, cells, *learned)
            expected = estimator.beliefs()
            np.testing.assert_allclose(cells[beliefs.MEAN], expected.run_mean, rtol=1e-9)
            np.testing.assert_allclose(cells[beliefs.STD], expected.run_std, rtol=1e-9)
            np.testing.assert_allclose(cells[beliefs.COUNT], expected.observations, rtol=1e-9)


# --- refusals --------------------------------------------------------------------------------------------------------


def changed(**spec: Any) -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    manifest = made.pods[0].manifest
    other = {**manifest, "spec": {**manifest["spec"], **spec}}
    return replace(made, pods=(sim_pod(other, made.pods[0].true_run_s), *made.pods[1:]))


def tainted() -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    soft = replace(made.nodes[0], taints=({"key": "k", "effect": "PreferNoSchedule"},))
    return replace(made, nodes=(soft, *made.nodes[1:]))


def turned() -> World:
    made = scenarios.make("hetero@pods=3,warm=1", 1)
    return replace(made, pods=made.pods[::-1])


PREFER = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}}


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (lambda: scenarios.make("S0q@pods=3,warm=1", 1), "queues at nodes"),
        (tainted, "soft taints"),
        (lambda: changed(affinity=PREFER), "preferences, as pod .* has"),
        (lambda: changed(affinity={}), "without an opinion of ours, as"),
        (lambda: changed(volumes=[{"name": "v", "ephemeral": {}}]), "without an opinion of ours, as"),
        (lambda: changed(priority=2_000_000_000), "without an opinion of ours, as"),
        (turned, "order of arrival"),
    ],
)  # fmt: skip
def test_a_world_that_is_not_modelled_is_refused_in_a_sentence(refused: Callable[[], World], says: str) -> None:
    with pytest.raises(UserError, match=f"^the compiled engine does not model .*{says}.*\\(scenario [^\n]*\\)$"):
        flatten(refused())
