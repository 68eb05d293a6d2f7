"""What a learner is told of what a pod did to others; figures worked out by hand."""

import numpy as np

from nodewise.core.types import Floats
from nodewise.policies.economic import TERMS
from nodewise_simulator import scenarios
from nodewise_simulator.compiled import beliefs, run
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import flatten
from nodewise_simulator.compiled.run import State, play_net, play_rule
from nodewise_simulator.world import SimPod, node_manifest, pod_manifest, sim_pod, world

from .worlds import GIB, placed, random_net

# --- harm ------------------------------------------------------------------------------------------------------------


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


# --- room ------------------------------------------------------------------------------------------------------------


def displaced(elsewhere_s: float, prices_usd_per_h: tuple[float, ...] = (3.6,), again: bool = False) -> Floats:
    """What A, C and B (and B's twin) are charged with for the room that they took, cents.

    A (2.5 of the 4 cores of node x) runs from 0 s on, C (half a core) beside it from 4 s on. B, of 2 cores, arrives at
    10 s and fits only on other nodes, of these prices. Its median run is 20 s on x, `elsewhere_s` on the first of the
    others, and 300 s on the second. Its twin arrives at 11 s.
    """
    names = ("x", "y", "z")[: 1 + len(prices_usd_per_h)]
    nodes = [
        node_manifest(name, cpu_milli=4000, memory_bytes=GIB, instance_type=f"of-{name}", price_usd_per_h=price)
        for name, price in zip(names, (3.6, *prices_usd_per_h), strict=True)
    ]
    median_s = np.array([20.0, elsewhere_s, 300.0])[: len(names)]

    def resident(name: str, at_s: float, cpu: str, run_s: float, sensitivity: float) -> SimPod:
        manifest = pod_manifest(name, at_s, {"nodewise.dev/sla-class": "batch"}, {"cpu": cpu})
        manifest["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "x"}
        return sim_pod(manifest, np.full(len(names), run_s), sensitivity)

    def comer(name: str, at_s: float) -> SimPod:
        manifest = pod_manifest(name, at_s, {"nodewise.dev/sla-class": "production"}, {"cpu": "2"})
        manifest["spec"]["nodeSelector"] = {"kubernetes.io/arch": "amd64"}
        return sim_pod(manifest, 1.25 * median_s, 0.4, noise=0.2, noise_factor=1.25)

    pods = [resident("a", 0.0, "2500m", 28.0, 0.5), resident("c", 4.0, "500m", 16.0, 0.25), comer("b", 10.0)]
    pods += [comer("b2", 11.0)] if again else []
    flat = flatten(world("t", 0, nodes, tuple(f"of-{name}" for name in names), pods, warm=0))
    state = State.start(flat)
    run._play(flat, state, (kn.RULE, np.ones(len(TERMS))), run._NO_NET, 0.0, np.zeros(0), None, 0, None, charge=True)
    assert state.pod[:, kn.BOUND_S].tolist() == [0.0, 4.0, 10.0, 11.0][: len(pods)]
    assert state.pod_node[:2].tolist() == [0, 0]
    assert set(state.pod_node[2:]) == {len(names) - 1}  # z is believed to be as fast as y, and has no price
    return state.pod[:, kn.DISPLACED]


# A second of B costs 1/60 cents of delay and half of 0.1 cents for the node. It runs exp(0.2² / 2) times its median:
#   on y 44.888859 s: 2.9925906 cents;
#   on x, if A were not there, 20.404027 s and 0.4 * 0.125 of the 12.5 s that C has left (16 s of work at 4 s, at
#   1 / (1 + 0.25 * 0.625): to 22.5 s): 1.4019351 cents; and C loses 0.5 * 0.25 / 1.15625 of 12.5 s, each second at
#   0.005 + 0.0125 cents: 0.0236486 cents.
GAINED = 2.9925906 - (1.4019351 + 0.0236486)


def test_a_pod_is_charged_with_what_its_room_would_have_saved_another() -> None:
    # C is not: without it there would still be too little room.
    np.testing.assert_allclose(displaced(44.0), [GAINED, 0.0, 0.0], atol=2e-7)


def test_who_was_displaced_is_taken_to_go_to_the_best_of_the_other_nodes_wherever_it_went() -> None:
    np.testing.assert_allclose(displaced(44.0, (3.6, 0.0)), [GAINED, 0.0, 0.0], atol=2e-7)


def test_room_is_not_charged_for_while_another_is_taken_to_have_it() -> None:
    np.testing.assert_allclose(displaced(44.0, again=True), [GAINED, 0.0, 0.0, 0.0], atol=2e-7)


def test_who_is_better_off_elsewhere_was_not_displaced() -> None:
    np.testing.assert_array_equal(displaced(20.0), [0.0, 0.0, 0.0])


# --- told, not shown -------------------------------------------------------------------------------------------------


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
