"""Status of a PlacementPolicy: what is in force, how it goes, who is silent, and what is worth a write."""

from __future__ import annotations

from typing import Any

import pytest

from nodewise.channel.messages import PolicyReport, Report
from nodewise_operator.channel_hook import remember
from nodewise_operator.placement_status import (
    ALL_EARS,
    Hearing,
    Reported,
    differs,
    differs_at_heart,
    overruling,
    policy_status,
    senseless,
)
from nodewise_operator.resources import PlacementPolicy

Json = dict[str, Any]
NOW_S = 1_790_000_000.0


def policy(mode: str = "Active", generation: int = 2, **more: Any) -> Json:
    return {"metadata": {"name": "p", "generation": generation}, "spec": {"mode": mode}} | more


def reported(extender: str = "e-1", ago_s: float = 1.0, **told: Any) -> Reported:
    given: Json = {"name": "p", "generation": 2, "mode": "active", "policy": "economic", "digest": "d"} | told
    held = [PolicyReport(**given)]
    report = Report(extender=extender, time_s=0.0, policy="hetero", digest="x", placement_policies=held)
    return Reported(report, NOW_S - ago_s)


def of(obj: Json, *reports: Reported, hearing: Hearing = ALL_EARS) -> tuple[Json, dict[str, tuple[str, str]]]:
    status = policy_status(obj, reports, NOW_S, hearing=hearing)
    PlacementPolicy.model_validate({"spec": obj["spec"], "status": status})
    return status, {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_two_extenders_are_added_up_and_told_of_one_by_one() -> None:
    busy = reported(
        "e-1", decisions=900, bound_winner=880, bound_other=1, fallbacks={"deadline": 3, "features-out-of-range": 20},
        neutral={"off": 4},
    )  # fmt: skip
    idle = reported("e-2", decisions=100, bound_winner=90, bound_other=0, policy="hetero", digest="h")
    status, said = of(policy(), idle, busy)
    assert said == {"Ready": ("True", "InForce"), "Degraded": ("False", "AsNamed"), "Stale": ("False", "Heard")}
    assert status["policy"] == "economic, hetero"
    assert (status["inForce"], status["decisions"], status["fallbacks"]) == ("2/2", 1000, 23)
    assert status["agreement"] == "99.8%"  # 970 of 971, rounded down: 100.0% would say that all agreed
    first, second = status["extenders"]
    assert first == {
        "name": "e-1", "mode": "Active", "policy": "economic", "digest": "d", "generation": 2, "decisions": 900,
        "boundWinner": 880, "boundOther": 1, "agreement": "99.8%", "neutral": {"off": 4},
        "fallbacks": {"deadline": 3, "features-out-of-range": 20}, "reportedAt": "2026-09-21T14:13:19Z",
    }  # fmt: skip
    assert (second["name"], second["agreement"]) == ("e-2", "100.0%")
    assert "fallbacks" not in second


def test_before_the_first_binding_there_is_no_agreement() -> None:
    status, _ = of(policy(), reported())
    assert "agreement" not in status


def test_a_generation_that_is_not_in_force_everywhere_is_not_ready() -> None:
    status, said = of(policy(generation=3), reported("e-1", generation=3), reported("e-2"))
    assert said["Ready"] == ("False", "NotEverywhere")
    assert status["inForce"] == "1/2"
    assert status["conditions"][0]["message"] == "generation 3 is in force on 1 of 2 extenders"


def test_an_extender_that_does_not_know_the_policy_yet_counts_too() -> None:
    unaware = Reported(Report(extender="e-2", time_s=0.0, policy="x", digest="y"), NOW_S)
    status, said = of(policy(), reported(), unaware)
    assert (status["inForce"], said["Ready"][1], len(status["extenders"])) == ("1/2", "NotEverywhere", 1)


def test_a_refused_bundle_is_degraded_in_the_extenders_own_words() -> None:
    status, said = of(policy(), reported(refused="bundle b: no such folder"))
    assert (said["Ready"], said["Degraded"]) == (("False", "Refused"), ("True", "Refused"))
    assert status["conditions"][0]["message"] == "on e-1: bundle b: no such folder"
    assert status["extenders"][0]["refused"] == "bundle b: no such folder"


@pytest.mark.parametrize(("decisions", "fallbacks", "degraded"), [(100, 51, "True"), (100, 50, "False"), (19, 19, "False")])  # fmt: skip  # noqa: E501
def test_fallbacks_in_most_of_many_decisions_are_degraded(decisions: int, fallbacks: int, degraded: str) -> None:
    _, said = of(policy(), reported(decisions=decisions, fallbacks={"deadline": fallbacks}))
    assert said["Degraded"][0] == degraded


def test_a_silent_extender_is_stale_after_thirty_seconds_and_forgotten_after_five_minutes() -> None:
    status, said = of(policy(), reported("e-1"), reported("e-2", ago_s=31.0))
    assert said["Stale"] == ("True", "Silent")
    assert said["Ready"] == ("True", "InForce")  # wherever anything is known
    assert status["inForce"] == "1/1"
    assert status["conditions"][2]["message"] == "not heard: e-2 (since 14:12:49 UTC)"
    assert of(policy(), reported("e-1", ago_s=31.0))[1]["Ready"] == ("Unknown", "Silent")
    status, said = of(policy(), reported("e-1"), reported("e-2", ago_s=301.0))
    assert said["Stale"] == ("False", "Heard")
    assert [one["name"] for one in status["extenders"]] == ["e-1"]


@pytest.mark.parametrize(("mode", "ready"), [("Advise", "True"), ("Off", "True"), ("Shadow", "False"), ("Active", "False")])  # fmt: skip  # noqa: E501
def test_only_shadow_and_active_need_an_extender(mode: str, ready: str) -> None:
    status, said = of(policy(mode))
    assert said["Ready"][0] == ready
    assert "inForce" not in status


@pytest.mark.parametrize(
    ("hearing", "ready", "says"),
    [
        (Hearing(channel=False, leads=1.0), ("Unknown", "NotHeard"), "or set the chart's channel.tls.mode"),
        (Hearing(channel=False), ("Unknown", "NotHeard"), "extenders have no channel to the operator"),
        (Hearing(channel=True, leads=1.0), ("Unknown", "NotHeard"), "a scheduler leads, but no extender reports"),
        (Hearing(channel=False, leads=0.0), ("False", "NoExtender"), "see why it does not run"),
        (Hearing(channel=True, leads=0.0), ("False", "NoExtender"), "install Nodewise's scheduler"),
    ],
)
def test_an_operator_that_hears_nobody_says_whether_there_may_be_somebody(
    hearing: Hearing, ready: tuple[str, str], says: str
) -> None:
    status, said = of(policy(), hearing=hearing)
    assert said == {"Ready": ready, "Degraded": ("Unknown", ready[1]), "Stale": ("Unknown", ready[1])}
    assert says in status["conditions"][0]["message"]
    assert of(policy("Advise"), hearing=hearing)[1]["Ready"] == ("True", "NoExtenderNeeded")
    assert of(policy(), reported(), hearing=hearing)[1]["Ready"] == ("True", "InForce")


@pytest.mark.parametrize("mode", ["Active", "Advise"])
def test_a_name_that_no_policy_has_is_refused_by_the_operator_where_no_extender_reports(mode: str) -> None:
    def named(hearing: Hearing, name: str) -> tuple[str, str]:
        status, said = of({**policy(mode), "spec": {"mode": mode, "policy": name}}, hearing=hearing)
        if said["Ready"][1] == "UnknownPolicy":
            assert status["conditions"][0]["message"].startswith("there is no policy 'nonsense'; choose one of ")
        return said["Ready"]

    for hearing in (Hearing(channel=False, leads=1.0), Hearing(channel=True), Hearing(channel=False, leads=0.0)):
        assert named(hearing, "nonsense") == ("False", "UnknownPolicy")
        for known in ("economic", "learned"):
            assert named(hearing, known)[1] in ("NotHeard", "NoExtender", "NoExtenderNeeded")


def test_a_conditions_time_is_that_of_its_last_change() -> None:
    before, _ = of(policy(), reported())
    later = policy_status(policy(status=before), [Reported(reported().report, NOW_S + 50)], NOW_S + 60)
    assert later["conditions"] == before["conditions"]
    broken = policy_status(policy(status=before), [Reported(reported(refused="x").report, NOW_S + 50)], NOW_S + 60)
    times = {c["type"]: c["lastTransitionTime"] for c in broken["conditions"]}
    assert times["Stale"] == "2026-09-21T14:13:20Z"
    assert times["Ready"] == times["Degraded"] == "2026-09-21T14:14:20Z"


def test_a_new_time_of_a_report_is_no_change_and_counts_are_a_small_one() -> None:
    before, _ = of(policy(), reported(decisions=1))
    again, _ = of(policy(), reported(ago_s=2.0, decisions=1))
    more, _ = of(policy(), reported(decisions=2, bound_winner=1))
    other, _ = of(policy(), reported(decisions=1, policy="index"))
    changes = [(differs(each, before), differs_at_heart(each, before)) for each in (again, more, other)]
    assert changes == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize(("odd", "says"), [({"mode": "wild"}, "reports on p makes no sense"), ({"decisions": -1}, "greater than"), ({"fallbacks": {"a": 1 << 52}}, "more than")])  # fmt: skip  # noqa: E501
def test_a_report_that_makes_no_sense_is_named(odd: Json, says: str) -> None:
    assert says in senseless(reported("e-2", **odd))
    assert senseless(reported()) == ""


def named(name: str, **spec: Any) -> Json:
    return {"metadata": {"name": name, "uid": name, "generation": 1}, "spec": {"mode": "Active"} | spec}


def test_of_two_policies_for_the_same_pods_the_loser_says_who_wins() -> None:
    pods = {"podSelector": {"matchLabels": {"a": "b"}}, "namespaces": ["x"]}
    told = [
        named("loser", **pods), named("winner", **pods, priority=5), named("elsewhere", **pods | {"namespaces": ["y"]}),
        named("wider", namespaces=["x", "y"]), named("tie-b", namespaces=["z"]), named("tie-a", namespaces=["z"]),
    ]  # fmt: skip
    found = overruling({each["metadata"]["name"]: each for each in told})
    assert set(found) == {"loser", "tie-b"}  # what is narrower has pods of its own, and so has what is wider
    assert found["loser"].startswith(
        "PlacementPolicy winner selects all pods of this one and comes before it (priority 5 is above 0): "
    )
    assert found["tie-b"].startswith("PlacementPolicy tie-a selects all pods")
    status = policy_status(policy(), [reported()], NOW_S, found["loser"])
    PlacementPolicy.model_validate({"spec": policy()["spec"], "status": status})
    ready = status["conditions"][0]
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "Overruled", found["loser"])


def test_a_policy_that_was_made_anew_inherits_no_report_of_the_old_one() -> None:
    old = reported(uid="old", decisions=900)
    metadata = {"name": "p", "generation": 2, "uid": "new"}
    status, said = of(policy(metadata=metadata), old)
    assert (status["decisions"], status["inForce"], said["Ready"][1]) == (0, "0/1", "NotEverywhere")
    assert of(policy(metadata=metadata), reported(uid="new", decisions=3))[0]["decisions"] == 3
    assert of(policy(metadata=metadata), reported(decisions=3))[0]["decisions"] == 3  # an older extender


def test_without_an_extender_nobody_can_tell_whether_a_bundle_is_any_good() -> None:
    assert of(policy(bundle="no-such"))[1]["Degraded"] == ("Unknown", "NoExtender")
    assert of(policy(), reported(ago_s=31.0))[1]["Degraded"] == ("Unknown", "Silent")


def test_an_extender_that_said_goodbye_is_forgotten_at_once() -> None:
    reports: dict[str, Reported] = {}
    remember(reports, reported("e-1"))
    remember(reports, reported("e-2"))
    remember(reports, Reported(Report(extender="e-1", time_s=0.0, policy="x", digest="y", ended=True), NOW_S))
    assert list(reports) == ["e-2"]
