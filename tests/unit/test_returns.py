"""What a learner is told that placements cost; figures worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, flatten
from nodewise_simulator.compiled.run import State, play_rule
from nodewise_simulator.world import SimPod, node_manifest, pod_manifest, sim_pod, world
from nodewise_training.returns import expected_cents, leave_one_out, normalised, to_others_cents

NAN = math.nan


def one_node() -> Flat:
    """A batch pod of a quarter of a node, that runs 28 s of which a factor of 1.4 is its own noise; and from 10 s on a
    production pod of the whole node, that waits for it and then runs 16 s."""
    node = node_manifest("n", cpu_milli=4000, memory_bytes=2.0**30, instance_type="c", price_usd_per_h=3.6, idle_w=10.0,
                         peak_w=90.0)  # fmt: skip

    def pod(name: str, sla: str, at_s: float, cpu: str, due_s: float, run_s: float, **noise: Any) -> SimPod:
        told = {"nodewise.dev/sla-class": sla, "nodewise.dev/deadline-seconds": f"{due_s:.9f}"}
        return sim_pod(pod_manifest(name, at_s, told, {"cpu": cpu}), np.array([run_s]), **noise)

    pods = [
        pod("a", "batch", 0.0, "1", 20.0, 28.0, noise=0.5, noise_factor=1.4),
        pod("b", "production", 10.0, "4", 18.0 + 16.0 / math.exp(0.05), 16.0),
    ]
    return flatten(world("t", 0, [node], ("c",), pods, warm=0))


def test_a_cost_is_expected_over_the_pods_own_noise() -> None:
    flat = one_node()
    state = State.start(flat)
    # A: median 20 s, mean 20 exp(0.5² / 2) = 22.663 s, and 20 s to its deadline: late with probability 1/2.
    #   0.005 a second, 3 if late, 20 W at 4e-6 cents a joule, a quarter of 0.1 cents a second for the node.
    a = 0.005 * 22.662969 + 1.5 + 20 * 4e-6 * 22.662969 + 0.025 * 22.662969
    # B: begins at 28 s; late with the probability of one sigma, taken as 0.05 though it has no noise of its own.
    b = (18 + 16) / 60 + 10 * 0.8413447 + 80 * 4e-6 * 16 + 0.1 * 16
    play_rule(flat, state, 1)
    assert np.isnan(state.pod[0, kn.FINISHED_S])
    assert expected_cents(flat, state, np.array([0])) == pytest.approx([a], rel=1e-6)  # foreseen
    play_rule(flat, state)
    assert state.pod[:, kn.STARTED_S].tolist() == [0.0, 28.0]
    assert expected_cents(flat, state, np.array([1, 0])) == pytest.approx([b, a], rel=1e-6)


def test_others_are_charged_with_harm_and_room_and_paid_for_what_was_taught() -> None:
    state = State.start(one_node())
    state.pod[0, [kn.HARM, kn.DISPLACED, kn.TAUGHT]] = 1.0, 0.25, 2.0
    state.pod[1, [kn.HARM, kn.DISPLACED, kn.TAUGHT]] = 2.0, 0.5, 100.0
    charged = to_others_cents(state, np.array([1, 0]), 0.5)
    np.testing.assert_array_equal(charged, [2.5 - 3.0, 1.25 - 1.0])  # of what is taught, 3 cents count at most


def test_an_advantage_is_how_much_less_a_pod_cost_than_in_the_other_rollouts() -> None:
    costs = np.array([[1.0, NAN, 5.0, NAN], [3.0, 4.0, NAN, NAN], [8.0, 6.0, NAN, NAN]])
    expected = [[4.5, NAN, NAN, NAN], [1.5, 2.0, NAN, NAN], [-6.0, -2.0, NAN, NAN]]
    np.testing.assert_array_equal(leave_one_out(costs), expected)


def test_advantages_are_in_their_standard_deviations_and_cut() -> None:
    advantage = np.array([[3.0, NAN, -3.0], [3.0, -3.0, NAN]])
    np.testing.assert_array_equal(normalised(advantage, 4.0), [[1.0, NAN, -1.0], [1.0, -1.0, NAN]])
    np.testing.assert_array_equal(normalised(advantage, 0.5), [[0.5, NAN, -0.5], [0.5, -0.5, NAN]])
    np.testing.assert_array_equal(normalised(np.zeros((2, 2)), 4.0), np.zeros((2, 2)))
