"""NodeProfiles from beliefs: known speeds come back, intervals hold them, and what nobody knows is called unknown."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nodewise.core.estimator import Observation, Posterior, RunTimeEstimator
from nodewise.core.pods import NodeSpec, node_spec
from nodewise.kube.overrides import Override, by_class, override
from nodewise_operator.profiles import Known, class_selector, figure, object_name, plan, profile_status
from nodewise_operator.resources import NodeProfile
from nodewise_operator.speeds import Learned, overall, speeds

Json = dict[str, Any]
NOW_S = 1_790_000_000.0


def learned(log_mean: list[list[float]], mean_sd: list[list[float]], seen: list[list[float]]) -> Learned:
    """Workloads a, b, … on classes slow and fast."""
    noise_sd = np.full(len(seen), 0.4)
    posterior = Posterior(np.array(log_mean, float), np.array(mean_sd, float), noise_sd, np.array(seen, float))
    return Learned(tuple("abcdef"[: len(seen)]), ("slow", "fast"), posterior)


def member(node_class: str, name: str, **annotations: str) -> NodeSpec:
    told = {f"nodewise.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    labels = {"nodewise.dev/node-class": node_class}
    return node_spec({"metadata": {"name": name, "labels": labels, "annotations": told}})


TWICE = learned([[math.log(10), math.log(5)]], [[0.03, 0.04]], [[9, 4]])


def types(status: Json) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


# --- speeds


def test_a_speed_is_the_reference_run_time_over_ones_own_with_the_errors_of_both() -> None:
    (found,) = speeds(TWICE, "fast", "slow")
    assert (found.workload, found.samples, found.reference_samples) == ("a", 4, 9)
    assert math.exp(found.log_ratio) == pytest.approx(2.0)
    assert found.sd == pytest.approx(0.05)  # 3-4-5


def test_the_reference_is_the_class_with_most_finished_pods() -> None:
    assert TWICE.reference() == "slow"
    assert learned([[0, 0]], [[1, 1]], [[3, 3]]).reference() == "fast"  # the first by name
    assert learned([[0, 0]], [[1, 1]], [[0, 0]]).reference() == ""


def test_the_reference_stays_until_another_class_has_more_than_twice_as_many_pods() -> None:
    assert learned([[0, 0]], [[1, 1]], [[8, 4]]).reference("fast") == "fast"
    assert learned([[0, 0]], [[1, 1]], [[9, 4]]).reference("fast") == "slow"
    assert learned([[0, 0]], [[1, 1]], [[9, 4]]).reference("gone") == "slow"
    there = {
        "slow": {"metadata": {"name": "slow"}, "spec": {"nodeClass": "slow"}, "status": {"referenceClass": "fast"}}
    }
    (made,) = plan(Known(learned([[0, 0]], [[1, 1]], [[8, 4]]), ()), there, NOW_S)
    assert made.status["referenceClass"] == "fast"


def test_workloads_that_did_not_finish_on_both_classes_say_nothing() -> None:
    both = learned([[0, 0], [0, 0], [0, 0]], [[1, 1]] * 3, [[1, 0], [0, 1], [1, 1]])
    assert [s.workload for s in speeds(both, "fast", "slow")] == ["c"]
    assert speeds(both, "fast", "gone") == []


def test_alike_workloads_have_no_spread_and_a_narrower_interval_than_each() -> None:
    alike = learned([[0, -math.log(2)]] * 4, [[0.1, 0.0]] * 4, [[5, 5]] * 4)
    found = overall(speeds(alike, "fast", "slow"))
    assert found is not None
    assert math.exp(found.log_ratio) == pytest.approx(2.0)
    assert found.sd == pytest.approx(0.05)
    assert found.spread_sd == 0.0


def test_workloads_that_feel_a_class_differently_widen_the_interval_and_show_as_spread() -> None:
    """Two effects 0 and 0.4 with variance 0.01: Q = 8, scale = 100, so the variance between is 0.07."""
    unlike = learned([[0, 0], [0, -0.4]], [[0.1, 0.0]] * 2, [[5, 5]] * 2)
    found = overall(speeds(unlike, "fast", "slow"))
    assert found is not None
    assert found.log_ratio == pytest.approx(0.2)
    assert found.spread_sd == pytest.approx(math.sqrt(0.07))
    assert found.sd == pytest.approx(math.sqrt(0.08 / 2))


def test_the_reference_class_has_speed_one_exactly() -> None:
    found = overall(speeds(TWICE, "slow", "slow"))
    assert found is not None
    assert (found.log_ratio, found.sd) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_hidden_speeds_of_four_classes_come_back_within_ten_percent_after_300_pods(seed: int) -> None:
    hidden = {"slow": 1.0, "plain": 1.6, "fast": 2.5, "huge": 4.0}
    draw, estimator = random.Random(seed), RunTimeEstimator()
    for k in range(300):
        workload, node_class = f"w{k % 6}", draw.choice([*hidden])
        run_s = 40.0 * (1 + k % 6) / hidden[node_class] * math.exp(draw.gauss(0.0, 0.1))
        estimator.learn(Observation(str(k), workload, False, node_class, run_s, 1.0))
    known = Learned.of(estimator)
    for node_class, speed in hidden.items():
        if node_class != (reference := known.reference()):
            found = overall(speeds(known, node_class, reference))
            assert found is not None
            wanted = speed / hidden[reference]
            assert math.exp(found.log_ratio) == pytest.approx(wanted, rel=0.1)
            assert abs(found.log_ratio - math.log(wanted)) < 3 * found.sd  # the interval is honest


# --- what is written


def test_a_class_without_an_object_gets_one_with_its_labels_and_figures() -> None:
    nodes = (
        member("fast", "n1", price_usd_per_hour="0.4", idle_watts="50", peak_watts="150"),
        member("fast", "n2", price_usd_per_hour="0.6", idle_watts="70", peak_watts="250"),
    )
    (made,) = plan(Known(TWICE, nodes), {}, NOW_S)
    assert made.name == "fast"
    assert made.spec is not None
    assert made.spec["nodeClass"] == "fast"
    assert made.spec["selector"]["matchLabels"]["nodewise.dev/node-class"] == "fast"
    status = made.status
    assert status["nodes"] == 2
    assert status["referenceClass"] == "slow"
    assert status["overall"] == {
        "speed": 2.0, "lower": 1.81, "upper": 2.21, "interval": "1.81-2.21", "workloads": 1,
    }  # fmt: skip
    assert status["workloads"] == [
        {"workload": "a", "speed": 2.0, "lower": 1.81, "upper": 2.21, "samples": 4, "referenceSamples": 9}
    ]
    assert status["sampleCount"] == 4
    assert status["price"]["source"] == "annotation nodewise.dev/price-usd-per-hour"
    assert (status["price"]["usdPerHour"], status["power"]["idleWatts"], status["power"]["peakWatts"]) == (0.5, 60, 200)
    assert types(status) == {
        "Learned": ("True", "Observed"), "Priced": ("True", "Known"), "Powered": ("True", "Known"),
    }  # fmt: skip
    assert status["observedGeneration"] == 1
    NodeProfile.model_validate({"spec": made.spec, "status": status})


def test_what_the_owner_wrote_overrides_what_was_found_and_says_so() -> None:
    nodes = (member("fast", "n1", price_usd_per_hour="0.4", idle_watts="50", peak_watts="150"),)
    spec = {"nodeClass": "fast", "priceUsdPerHour": 0.0, "peakWatts": 300}
    (made,) = plan(Known(TWICE, nodes), {"f": {"metadata": {"name": "f", "generation": 3}, "spec": spec}}, NOW_S)
    assert made.status["price"] == {"usdPerHour": 0.0, "source": "spec of NodeProfile f"}
    power = made.status["power"]
    assert (power["idleWatts"], power["peakWatts"]) == (50, 300)
    assert power["source"].startswith("spec of NodeProfile f; annotations nodewise.dev/idle-watts")
    assert made.status["observedGeneration"] == 3


def test_of_several_profiles_for_a_class_the_first_by_name_that_says_anything_overrides() -> None:
    def profile(name: str, **spec: float) -> Override:
        return override({"metadata": {"name": name}, "spec": {"nodeClass": "c", **spec}})

    told = by_class([profile("c", idleWatts=3), profile("b", idleWatts=2, peakWatts=1), profile("a")])
    once = told["c"].applied(member("c", "n1"))
    assert (once.idle_w, once.peak_w, once.power_source) == (2, 2, "spec of NodeProfile b")  # never below idle
    assert told["c"].applied(once) == once
    assert once.price_source == ""


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (learned([[0, 0]], [[1, 1]], [[0, 0]]), "NothingSeen"),
        (learned([[0, 0], [0, 0]], [[1, 1]] * 2, [[3, 0], [0, 1]]), "NothingInCommon"),
        (learned([[0, 0]], [[0.3, 0.3]], [[3, 1]]), "Uncertain"),
    ],
)
def test_what_is_not_known_well_is_not_called_learned(known: Learned, reason: str) -> None:
    status = profile_status(known, [member("fast", "n1")], known.reference(), {"spec": {"nodeClass": "fast"}}, NOW_S)
    assert types(status) == {
        "Learned": ("False", reason), "Priced": ("False", "Unknown"), "Powered": ("False", "Unknown"),
    }  # fmt: skip


def test_nothing_is_written_until_something_is_visibly_different() -> None:
    nodes = (member("fast", "n1"),)
    (made,) = plan(Known(TWICE, nodes), {}, NOW_S)
    there = {
        "fast": {
            "metadata": {"name": "fast", "generation": 1},
            "spec": made.spec,
            "status": {**made.status, "benchmarks": [{}]},
        }
    }
    assert plan(Known(TWICE, nodes), there, NOW_S + 3600) == []
    a_hair = learned([[math.log(10.004), math.log(5)]], [[0.03, 0.04]], [[9.4, 4.3]])
    assert plan(Known(a_hair, nodes), there, NOW_S + 3600) == []
    (other,) = plan(Known(TWICE, (*nodes, member("fast", "n2"))), there, NOW_S + 3600)
    assert (other.name, other.spec, other.status["nodes"]) == ("fast", None, 2)
    assert other.status["conditions"] == made.status["conditions"]  # none has changed, so neither has its time


def test_a_class_that_cannot_be_written_is_named_and_keeps_no_other_from_being_written() -> None:
    wrong = replace(member("fast", "n1"), price_usd_per_h=250_000.0, price_source="a mistake")
    told: list[str] = []
    made = plan(Known(TWICE, (wrong, member("slow", "n2"))), {}, NOW_S, complain=told.append)
    assert [each.name for each in made] == ["slow"]
    assert [why.split(":")[0] for why in told] == ["fast"]
    assert "250000" in told[0]
    there = {"f": {"metadata": {"name": "f"}, "spec": {"nodeClass": "fast"}}}
    assert [each.name for each in plan(Known(TWICE, (wrong, member("slow", "n2"))), there, NOW_S)] == ["slow"]


def test_a_class_whose_nodes_have_gone_keeps_its_profile_and_a_users_own_name_is_used() -> None:
    mine = {"my-fast": {"metadata": {"name": "my-fast", "generation": 1}, "spec": {"nodeClass": "fast"}}}
    (made,) = plan(Known(TWICE, ()), mine, NOW_S)
    assert (made.name, made.spec, made.status["nodes"], made.status["sampleCount"]) == ("my-fast", None, 0, 4)
    assert types(made.status)["Priced"] == ("Unknown", "NoNodes")


def test_a_set_reference_holds_as_long_as_anything_was_seen_of_it() -> None:
    nodes = (member("slow", "n1"),)
    (made,) = plan(Known(TWICE, nodes), {}, NOW_S, reference="fast")
    assert made.status["overall"]["speed"] == 0.5
    (made,) = plan(Known(TWICE, nodes), {}, NOW_S, reference="gone")
    assert made.status["overall"]["interval"] == "reference"


def test_names_of_objects_are_the_classes_as_far_as_kubernetes_allows() -> None:
    assert object_name("m5.2xlarge") == "m5.2xlarge"
    assert object_name("p4d.24xlarge/NVIDIA-A100-SXM4-40GB") == "p4d.24xlarge-nvidia-a100-sxm4-40gb"
    assert object_name("a..-b_") == "a.b"
    assert object_name("x/y", {"x-y"}).startswith("x-y-")
    assert object_name("x/y", {"x-y"}) != object_name("x_y", {"x-y"})
    assert object_name("…")  # of nothing but what is not allowed
    assert len(object_name("a" * 253)) <= 253


def test_a_class_is_selected_by_the_labels_it_was_read_from() -> None:
    own = {"nodewise.dev/node-class": "c", "kubernetes.io/arch": "arm64"}
    assert class_selector(own) == {"matchLabels": {"nodewise.dev/node-class": "c"}}
    typed = class_selector({"node.kubernetes.io/instance-type": "m5.large", "kubernetes.io/hostname": "n"})
    assert typed["matchLabels"] == {"node.kubernetes.io/instance-type": "m5.large"}
    assert {"key": "nodewise.dev/node-class", "operator": "DoesNotExist"} in typed["matchExpressions"]


def test_a_figure_has_three_digits() -> None:
    assert [figure(v) for v in (1.23456, 0.0012345, 1234.5)] == [1.23, 0.00123, 1230.0]
