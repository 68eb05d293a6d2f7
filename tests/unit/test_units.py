"""Quantities and timestamps."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nodewise.core.units import epoch_s, milli, quantity, stamp, whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0), ("1", 1.0), ("500m", 0.5), ("1.5Gi", 1.5 * 2**30), ("2e3", 2000.0), ("1E3", 1000.0), ("3E", 3e18),
        ("12Ki", 12288.0), ("1M", 1e6), ("100n", 1e-7), ("7u", 7e-6), (".5", 0.5), ("5.", 5.0), ("+1k", 1000.0),
        ("-2T", -2e12), ("1P", 1e15), ("1Ti", 2.0**40), ("1Pi", 2.0**50), ("1Ei", 2.0**60), (" 4 ", 4.0), (2, 2.0),
        (0.25, 0.25),
    ],
)  # fmt: skip
def test_quantities(text: str | float, value: float) -> None:
    assert quantity(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "m", "1 Gi", "1gi", "1KB", "0x10", "nan", "inf", "1e", "--1", "1.2.3", "1e999", "9" * 400]
)
def test_what_is_not_a_quantity_is_a_value_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        quantity(text)


@pytest.mark.parametrize(
    ("text", "thousandths", "ones"),
    [("100m", 100, 1), ("0.1", 100, 1), ("1", 1000, 1), ("0.3", 300, 1), ("1n", 1, 1), ("1001u", 2, 1), ("0", 0, 0),
     ("1.1", 1100, 2), ("2500m", 2500, 3), ("0.57", 570, 1), ("16000000000.5", 16000000000500, 16000000001)],
)  # fmt: skip
def test_thousandths_and_ones_are_rounded_up_exactly(text: str, thousandths: float, ones: float) -> None:
    assert (milli(text), whole(text)) == (thousandths, ones)


@pytest.mark.parametrize(
    ("text", "time_s"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:00.000001Z", 1e-6),
        ("2026-11-21T12:00:00Z", 1795262400.0),
        ("2026-11-21T13:30:00+01:30", 1795262400.0),
        ("2026-11-21t07:00:00-05:00", 1795262400.0),
        ("2026-11-21T12:00:00.25z", 1795262400.25),
        ("2024-02-29T00:00:00Z", 1709164800.0),
        ("2016-12-31T23:59:60Z", 1483228799.0),  # a leap second
    ],
)
def test_timestamps(text: str, time_s: float) -> None:
    assert epoch_s(text) == time_s


@pytest.mark.parametrize(
    "text",
    ["", "2026-11-21", "2026-11-21 12:00:00Z", "2026-11-21T12:00:00", "2026-02-30T00:00:00Z", "26-11-21T12:00:00Z",
     "2026-11-21T25:00:00Z", "2026-11-21T12:00:00.Z"],
)  # fmt: skip
def test_what_is_not_a_timestamp_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # by us or by datetime
        epoch_s(text)


@given(st.integers(-(2**30) * 64, 2**37 * 64 // 2).map(lambda n: n / 64))
def test_times_on_a_grid_of_a_64th_of_a_second_survive_the_round_trip_exactly(time_s: float) -> None:
    assert epoch_s(stamp(time_s)) == time_s


@given(st.floats(0.0, 4e9))
@example(5.9999999999)
def test_any_time_survives_to_a_nanosecond_or_its_own_precision(time_s: float) -> None:
    assert abs(epoch_s(stamp(time_s)) - time_s) <= max(6e-10, 1e-15 * time_s)


def test_decimals_are_written_only_where_there_are_any() -> None:
    assert stamp(1795262400.0) == "2026-11-21T12:00:00Z"
    assert stamp(1795262400.5) == "2026-11-21T12:00:00.5Z"
    assert stamp(-0.5) == "1969-12-31T23:59:59.5Z"
