"""Inter-pod affinity and topology spread: literal numbers worked by hand from kube-scheduler's source."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.unit.engine_worlds import made, one_class, pod, run

from nodewise.core.errors import UserError
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.direct import Direct
from nodewise_simulator.scheduler import KubeScheduler
from nodewise_simulator.world import SimPod, World, sim_pod

Json = dict[str, Any]

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def app(name: str, labels: str = "", at_s: float = 0.0, run_s: float = 10.0, owner: str = "", **spec: Any) -> SimPod:
    """A pod with `labels` "app=a,version=b"."""
    manifest = dict(pod(name, at_s, run_s).manifest)
    told = dict(part.split("=") for part in filter(None, labels.split(",")))
    metadata = {**manifest["metadata"], "labels": told, "namespace": spec.pop("namespace", "default")}
    if owner:
        kind, _, of = owner.partition("/")
        metadata["ownerReferences"] = [{"kind": kind, "name": of, "uid": of, "controller": True}]
    request = spec.pop("cpu", "1")
    containers = [{"name": "main", "image": "i", "resources": {"requests": {"cpu": request}}}]
    return sim_pod(
        {**manifest, "metadata": metadata, "spec": {**manifest["spec"], "containers": containers, **spec}},
        np.array([run_s]),
    )


def term(labels: str, key: str = HOST, **more: Any) -> Json:
    return {
        "topologyKey": key, "labelSelector": {"matchLabels": dict(p.split("=") for p in labels.split(","))}, **more
    }  # fmt: skip


def apart(*terms: Json) -> Json:
    return {"podAntiAffinity": {REQUIRED: list(terms)}}


def near(*terms: Json) -> Json:
    return {"podAffinity": {REQUIRED: list(terms)}}


def even(labels: str, key: str = ZONE, skew: int = 1, hard: bool = True, **more: Any) -> Json:
    action = "DoNotSchedule" if hard else "ScheduleAnyway"
    return {**term(labels, key), "maxSkew": skew, "whenUnsatisfiable": action, **more}


def zones(*names: str, cpu_milli: float = 4000.0) -> list[Json]:
    """Nodes n0, n1, … in these zones; empty: the label is missing."""
    nodes = one_class(len(names), cpu_milli)
    for node, zone in zip(nodes, names, strict=True):
        node["metadata"]["labels"][ZONE] = zone
        if not zone:
            del node["metadata"]["labels"][ZONE]
    return nodes


class Silent:
    def prioritize(self, pod: SimPod, names: Sequence[str], now_s: float) -> Sequence[tuple[str, int]]:
        del pod, names, now_s
        return ()


def scheduler(nodes: list[Json], *placed: tuple[str, SimPod], **more: Any) -> KubeScheduler:
    """The stock profile's, with pods on nodes."""
    world: World = made([], nodes)
    mirror = Direct(world, None, None)  # type: ignore[arg-type]
    asked = KubeScheduler(world.nodes, Silent(), mirror.state.view, np.random.default_rng(0), **more)
    for node, resident in placed:
        asked.place(resident, node)
    return asked


def open_to(asked: KubeScheduler, newcomer: SimPod) -> list[str]:
    return [asked.nodes[k].name for k in asked.feasible(newcomer)]


def spread_points(asked: KubeScheduler, newcomer: SimPod) -> list[float] | None:
    rows = asked.feasible(newcomer)
    found = asked._neighbours.spread_points(newcomer, rows, np.arange(len(asked.nodes)))
    return None if found is None else found.tolist()


def affinity_points(asked: KubeScheduler, newcomer: SimPod) -> list[float] | None:
    found = asked._neighbours.affinity_points(newcomer, asked.feasible(newcomer))
    return None if found is None else found.tolist()


def test_a_pod_goes_nowhere_near_one_that_it_or_that_one_keeps_away() -> None:
    shy = app("shy", "app=a", affinity=apart(term("app=b", ZONE)))
    asked = scheduler(zones("x", "x", "y", ""), ("n0", shy))
    assert open_to(asked, app("b", "app=b")) == ["n2", "n3"]
    assert open_to(asked, app("c", "app=c")) == ["n0", "n1", "n2", "n3"]
    other = scheduler(zones("x", "x", "y", ""), ("n1", app("b", "app=b")))
    assert open_to(other, shy) == ["n2", "n3"]
    other.forget(app("b", "app=b").request, "n1")
    assert open_to(other, shy) == ["n0", "n1", "n2", "n3"]


def test_namespaces_are_those_of_the_term_and_else_the_pods_own() -> None:
    stranger = app("s", "app=b", namespace="other")
    nodes = zones("x", "y")
    assert open_to(scheduler(nodes, ("n0", stranger)), app("p", affinity=apart(term("app=b")))) == ["n0", "n1"]
    widened: tuple[Json, ...] = ({"namespaces": ["other"]}, {"namespaceSelector": {}})
    for more in widened:
        assert open_to(scheduler(nodes, ("n0", stranger)), app("p", affinity=apart(term("app=b", **more)))) == ["n1"]


def test_required_affinity_wants_all_terms_in_one_pod_and_lets_the_first_of_a_group_go_anywhere() -> None:
    nodes = zones("x", "x", "y", "")
    group = app("g", "app=g", affinity=near(term("app=g", ZONE)))
    assert open_to(scheduler(nodes), group) == ["n0", "n1", "n2"]
    assert open_to(scheduler(nodes), app("p", "app=p", affinity=near(term("app=g", ZONE)))) == []
    assert open_to(scheduler(nodes, ("n0", app("h", "app=g"))), group) == ["n0", "n1"]
    both = app("p", affinity=near(term("app=g", ZONE), term("tier=t", ZONE)))
    apart_of_each = (("n0", app("h", "app=g")), ("n1", app("i", "tier=t")))
    assert open_to(scheduler(nodes, *apart_of_each), both) == []
    assert open_to(scheduler(nodes, ("n2", app("j", "app=g,tier=t"))), both) == ["n2"]


def test_preferences_count_in_both_directions_and_required_affinity_of_others_counts_one() -> None:
    likes = {"podAffinity": {PREFERRED: [{"weight": 10, "podAffinityTerm": term("app=a", ZONE)}]}}
    wary = {"podAntiAffinity": {PREFERRED: [{"weight": 4, "podAffinityTerm": term("app=p")}]}}
    residents = (
        ("n0", app("a", "app=a")), ("n1", app("w", affinity=wary)), ("n2", app("f", affinity=near(term("app=p")))),
    )  # fmt: skip
    # n0 10, n1 10 - 4, n2 1, n3 0; the least gets 0, the most 100, cut to whole numbers
    asked = scheduler(zones("x", "x", "y", "z"), *residents)
    assert affinity_points(asked, app("p", "app=p", affinity=likes)) == [100.0, 60.0, 10.0, 0.0]
    assert affinity_points(asked, app("q", "app=q")) is None


def test_hard_spread_keeps_within_the_skew_of_the_emptiest_domain() -> None:
    nodes = zones("x", "x", "y", "")
    residents = (("n0", app("a", "app=a")), ("n1", app("b", "app=a")), ("n2", app("c", "app=a")))
    asked = scheduler(nodes, *residents)
    assert open_to(asked, app("p", "app=a", topologySpreadConstraints=[even("app=a")])) == ["n2"]
    # One that is not counted itself may go where 2 - 1 pods more are, and four zones are wanted where two are.
    assert open_to(asked, app("q", "app=q", topologySpreadConstraints=[even("app=a")])) == ["n0", "n1", "n2"]
    few = even("app=a", skew=2, minDomains=4)
    assert open_to(asked, app("r", "app=a", topologySpreadConstraints=[few])) == ["n2"]


def test_spread_counts_only_nodes_that_the_pod_may_use_unless_it_says_otherwise() -> None:
    residents = (("n0", app("a", "app=a")),)
    where: Json = {"nodeSelector": {HOST: "n0"}}
    honest = app("p", "app=a", topologySpreadConstraints=[even("app=a")], **where)
    assert open_to(scheduler(zones("x", "y"), *residents), honest) == ["n0"]
    wide = app("q", "app=a", topologySpreadConstraints=[even("app=a", nodeAffinityPolicy="Ignore")], **where)
    assert open_to(scheduler(zones("x", "y"), *residents), wide) == []
    nodes = zones("x", "y")
    nodes[1]["spec"]["taints"] = [{"key": "k", "effect": "NoSchedule"}]
    assert open_to(scheduler(nodes, *residents), app("r", "app=a", topologySpreadConstraints=[even("app=a")])) == []
    heeded = app("s", "app=a", topologySpreadConstraints=[even("app=a", nodeTaintsPolicy="Honor")])
    assert open_to(scheduler(nodes, *residents), heeded) == ["n0"]


def test_match_label_keys_count_pods_of_the_same_version_only() -> None:
    asked = scheduler(zones("x", "y"), ("n0", app("a", "app=a,version=1")))
    told = [even("app=a", matchLabelKeys=["version"])]
    assert open_to(asked, app("p", "app=a,version=2", topologySpreadConstraints=told)) == ["n0", "n1"]
    assert open_to(asked, app("q", "app=a,version=1", topologySpreadConstraints=told)) == ["n1"]


def test_soft_spread_weighs_counts_by_the_log_of_the_domains_and_gives_the_fullest_least() -> None:
    residents = (("n0", app("a", "app=a")), ("n1", app("b", "app=a")), ("n2", app("c", "app=a")))
    asked = scheduler(zones("x", "x", "y", ""), *residents)
    soft = app("p", "app=a", topologySpreadConstraints=[even("app=a", skew=2, hard=False)])
    # Two zones: 2 ln 4 + 1 = 3.77 -> 4 in x, ln 4 + 1 = 2.39 -> 2 in y: 100 (4 + 2 - s) / 4; n3 has no zone.
    assert spread_points(asked, soft) == [50.0, 50.0, 100.0, 0.0]


def test_replicas_without_constraints_are_spread_by_default_in_the_stock_profile_only() -> None:
    nodes = zones("x", "x", "y", "")
    resident = app("a", "app=a", owner="ReplicaSet/web")
    replica = app("p", owner="ReplicaSet/web")
    assert spread_points(scheduler(nodes, ("n0", resident)), replica) is None
    asked = scheduler(nodes, ("n0", resident), default_spread=True)
    # hostname: ln 6 where one is, + 2; zone: ln 5 in x (x, y and none are three domains), + 4 where there is a zone
    own, zone = math.log(6), math.log(5)
    raw = [round(own + zone + 6), round(zone + 6), 6, 2]
    assert spread_points(asked, replica) == [100 * (raw[0] + 2 - s) // raw[0] for s in raw]
    assert spread_points(asked, app("q", owner="ReplicaSet/other"))[0] < 100.0  # type: ignore[index]


def test_a_pod_that_waits_for_another_is_woken_when_that_is_bound_or_gone() -> None:
    # The follower comes first and cannot go before its leader; the shy one waits for the end of the leader in the zone.
    follower = app("follower", "app=f", 0.0, affinity=near(term("app=leader", ZONE)))
    leader = app("leader", "app=leader", 5.0, 10.0, nodeSelector={HOST: "n0"})
    shy = app("shy", "app=s", 6.0, nodeSelector={HOST: "n1"}, affinity=apart(term("app=leader", ZONE)))
    engine = run(made([follower, leader, shy], zones("x", "x", "y")))
    assert [o.bound_s for o in engine.outcomes] == [5.0, 5.0, 15.0]
    assert engine.outcomes[0].node in ("n0", "n1")


def test_a_hard_spread_lets_pods_go_as_the_others_come() -> None:
    # Two domains of one node each; n1 is full until 8: the second pod must wait for it, and the third for the second.
    spread = [even("app=a")]
    pods = [app("big", at_s=0.0, run_s=8.0, cpu="4", nodeSelector={HOST: "n1"})]
    pods += [app(f"a{k}", "app=a", 1.0 + k, 50.0, topologySpreadConstraints=spread) for k in range(3)]
    engine = run(made(pods, zones("x", "y")))
    assert [(o.node, o.bound_s) for o in engine.outcomes][1:3] == [("n0", 1.0), ("n1", 8.0)]
    assert engine.outcomes[3].bound_s == 8.0


def test_the_compiled_engine_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="constraints on where other pods are, as pod p has"):
        flatten(made([app("p", affinity=apart(term("app=a")))]))
