"""Hints in annotations: what is malformed is ignored with a reason, and never an error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewise.core.annotations import DEADLINE, EXPECTED, SLA_CLASS, WORKLOAD, hints
from nodewise.core.types import SlaClass


def test_all_four_hints_are_read() -> None:
    told = hints(
        {SLA_CLASS: " Production ", DEADLINE: "90", EXPECTED: "1.5e1", WORKLOAD: " train "}, priority=-1,
        qos_best_effort=True,
    )  # fmt: skip
    assert told.sla is SlaClass.PRODUCTION
    assert (told.deadline_after_s, told.expected_run_s, told.workload) == (90.0, 15.0, "train")
    assert told.ignored == ()


@pytest.mark.parametrize(
    ("priority", "qos_best_effort", "sla"),
    [
        (1000, False, SlaClass.PRODUCTION),
        (1000, True, SlaClass.PRODUCTION),
        (0, False, SlaClass.BATCH),
        (0, True, SlaClass.BEST_EFFORT),
        (-1, False, SlaClass.BEST_EFFORT),
    ],
)
def test_without_a_class_the_priority_tells(priority: int, qos_best_effort: bool, sla: SlaClass) -> None:
    told = hints({}, priority, qos_best_effort)
    assert told.sla is sla
    assert (told.deadline_after_s, told.workload, told.ignored) == (math.inf, "", ())
    assert math.isnan(told.expected_run_s)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (SLA_CLASS, "gold", "sla-class:unknown"),
        (SLA_CLASS, "", "sla-class:unknown"),
        (DEADLINE, "soon", "deadline-seconds:not-a-number"),
        (DEADLINE, "", "deadline-seconds:not-a-number"),
        (DEADLINE, "10s", "deadline-seconds:not-a-number"),
        (DEADLINE, "0", "deadline-seconds:out-of-range"),
        (DEADLINE, "-5", "deadline-seconds:out-of-range"),
        (DEADLINE, "inf", "deadline-seconds:out-of-range"),
        (DEADLINE, "nan", "deadline-seconds:out-of-range"),
        (DEADLINE, "1e12", "deadline-seconds:out-of-range"),
        (EXPECTED, "a while", "expected-seconds:not-a-number"),
        (EXPECTED, "nan", "expected-seconds:out-of-range"),
        (EXPECTED, "-0", "expected-seconds:out-of-range"),
        (WORKLOAD, "  ", "workload:empty"),
        (WORKLOAD, "w" * 254, "workload:too-long"),
    ],
)
def test_a_malformed_hint_is_as_good_as_none_and_its_reason_is_kept(key: str, value: str, reason: str) -> None:
    told, none = hints({key: value}, 0, False), hints({}, 0, False)
    assert told.ignored == (reason,)
    assert (told.sla, told.deadline_after_s, told.workload) == (none.sla, none.deadline_after_s, none.workload)
    assert math.isnan(told.expected_run_s)


def test_one_bad_hint_does_not_cost_the_others() -> None:
    told = hints({SLA_CLASS: "gold", DEADLINE: "60", EXPECTED: "x"}, 0, False)
    assert told.deadline_after_s == 60.0
    assert told.ignored == ("sla-class:unknown", "expected-seconds:not-a-number")


KEYS = st.sampled_from([SLA_CLASS, DEADLINE, EXPECTED, WORKLOAD]) | st.text()
VALUES = st.text() | st.floats().map(str) | st.integers().map(str) | st.sampled_from(["production", "BATCH"])


@given(st.dictionaries(KEYS, VALUES), st.integers(-(2**31), 2**31), st.booleans())
def test_no_annotations_are_ever_an_error(annotations: dict[str, str], priority: int, best_effort: bool) -> None:
    told = hints(annotations, priority, best_effort)
    assert told.deadline_after_s > 0.0
    assert math.isnan(told.expected_run_s) or 0.0 < told.expected_run_s < math.inf
    assert len(told.workload) <= 253
    assert len(told.ignored) <= 4
