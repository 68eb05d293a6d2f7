"""The card of a bundle: round trip, and a sentence for every malformed one."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewise.core import columns
from nodewise.core.card import CardColumn, PolicyCard, check_columns, column_now
from nodewise.core.errors import UserError

Json = dict[str, Any]

CARD = PolicyCard(
    name="ppo-7", algorithm="ppo", columns=(column_now("delay_cents", 0.0, 12.5), column_now("has_gpu")), opset=17,
    commit="abc123", command="train --seed 7", scenarios=("hetero",), seeds=(1, 2), results={"cost_ratio": 0.93},
    files={"head.onnx": "0" * 64},
)  # fmt: skip


def as_json(**changes: Any) -> Json:
    told: Json = json.loads(CARD.to_json())
    return {k: v for k, v in {**told, **changes}.items() if v is not ...}


def column_json(**changes: Any) -> Json:
    return as_json(columns=[{k: v for k, v in {**as_json()["columns"][0], **changes}.items() if v is not ...}])


def test_a_card_survives_the_round_trip_and_its_digest_with_it() -> None:
    again = PolicyCard.from_json(CARD.to_json())
    assert again == CARD
    assert again.digest == CARD.digest
    assert len(CARD.digest) == 64
    assert CARD.column_names == ("delay_cents", "has_gpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "ppo-8"}, {"files": {"head.onnx": "1" * 64}}, {"seeds": (1, 3)}, {"results": {}},
        {"columns": CARD.columns[::-1]},
    ],
)  # fmt: skip
def test_any_change_changes_the_digest(changes: Json) -> None:
    assert replace(CARD, **changes).digest != CARD.digest


def test_the_digest_does_not_depend_on_how_the_file_is_laid_out() -> None:
    shuffled = json.dumps(dict(reversed(as_json().items())))
    assert PolicyCard.from_json(shuffled).digest == CARD.digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the card is not JSON"),
        ("{", "the card is not JSON"),
        ("[" * 100_000, "the card is not JSON"),
        (CARD.to_json().replace("0.93", "NaN"), "the card is not JSON (NaN is not a finite number)"),
        (CARD.to_json().replace("0.93", "1e999"), "the card is not JSON (1e999 is not a finite number)"),
        ("[]", "the card must be an object, not []"),
        ("{}", "the card is of format None and this version reads 2"),
        (as_json(format=1), "the card is of format 1 and this version reads 2"),
        (as_json(format=3), "the card is of format 3 and this version reads 2; a newer Nodewise made it"),
        (as_json(format=True), "the card is of format True"),
        (as_json(surprise=1), "the card has an entry 'surprise' that this version does not know"),
        (as_json(created="2026-11-21T00:00:00Z"), "the card has an entry 'created' that this version does not know"),
        (as_json(name=...), "the card has no 'name'"),
        (as_json(name="  "), "'name' of the card must be a text, not '  '"),
        (as_json(name="a\nb"), r"a policy cannot be called 'a\nb': its name has up to 63 of a-z"),
        (as_json(name="Ppo"), "a policy cannot be called 'Ppo'"),
        (as_json(name="-ppo"), "a policy cannot be called '-ppo'"),
        (as_json(name="p" * 500), "a policy cannot be called 'pppppppppppppppppppppppppppppppppppp...: its name"),
        (as_json(algorithm=3), "'algorithm' of the card must be a text, not 3"),
        (as_json(opset="17"), "'opset' of the card must be a whole number, not '17'"),
        (as_json(opset=True), "'opset' of the card must be a whole number, not True"),
        (as_json(scenarios="hetero"), "'scenarios' of the card must be a list, not 'hetero'"),
        (as_json(scenarios=[1]), "the card's scenarios must be a text, not 1"),
        (as_json(seeds=[1.5]), "the card's seeds must be a whole number, not 1.5"),
        (as_json(results=[]), "'results' of the card must be an object, not []"),
        (as_json(columns={}), "'columns' of the card must be a list, not {}"),
        (as_json(columns=[]), "the card names no columns"),
        (as_json(columns=["delay_cents"]), "column 0 of the card must be an object, not 'delay_cents'"),
        (as_json(columns=as_json()["columns"][:1] * 2), "the card names column 'delay_cents' twice"),
        (column_json(name=...), "column 0 of the card has no 'name'"),
        (column_json(mean=0.5), "column 0 of the card has an entry 'mean'"),
        (column_json(low="0"), "'low' of the card's column 'delay_cents' must be a number, not '0'"),
        (column_json(high=10**400), "'high' of the card's column 'delay_cents' must be a number, not 1000"),
        (column_json(high=False), "'high' of the card's column 'delay_cents' must be a number, not False"),
        (column_json(low=2000.0), "the card's column 'delay_cents' has a range from 2000.0 to 1000.0, which is empty"),
        (column_json(observed_low=13), "the card's column 'delay_cents' has a range from 13.0 to 12.5"),
        (column_json(observed_high=None), "column 'delay_cents' has only one end of its observed range"),
        (column_json(observed_low=[]), "'observed_low' of the card's column 'delay_cents' must be a number, not []"),
        (as_json(files=[]), "'files' of the card must be an object, not []"),
        (as_json(files={"../x": "0" * 64}), "the card names a file '../x', which is not a plain file name"),
        (as_json(files={".hidden": "0" * 64}), "the card names a file '.hidden'"),
        (as_json(files={"head.onnx": "0"}), "the card's sha256 of file 'head.onnx' is malformed"),
        (as_json(files={"head.onnx": 0}), "the card's sha256 of file 'head.onnx' is malformed"),
    ],
)
def test_a_malformed_card_is_one_sentence_that_names_the_thing(text: str | Json, says: str) -> None:
    with pytest.raises(UserError) as refused:
        PolicyCard.from_json(text if isinstance(text, str) else json.dumps(text))
    sentence = str(refused.value)
    assert sentence.startswith(says) or says in sentence
    assert "\n" not in sentence
    assert "again" in sentence  # what to do


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_no_value_anywhere_in_a_card_is_more_than_a_user_error(data: Any) -> None:
    told = as_json()
    told[data.draw(st.sampled_from(sorted(told)))] = data.draw(JSON)
    if isinstance(told["columns"], list) and told["columns"] and isinstance(told["columns"][0], dict):
        inner = told["columns"][0]
        inner[data.draw(st.sampled_from(["name", "unit", "low", "high", "observed_low"]))] = data.draw(JSON)
    try:
        card = PolicyCard.from_json(json.dumps(told))
        assert PolicyCard.from_json(card.to_json()).digest == card.digest
        check_columns(card)
    except UserError:
        pass


def test_a_card_of_todays_columns_is_accepted_and_a_new_column_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    check_columns(CARD)
    newer = columns.COLUMNS | {"brand_new": columns.COLUMNS["has_gpu"]}
    monkeypatch.setattr("nodewise.core.card.COLUMNS", newer)
    check_columns(CARD)


def test_a_removed_column_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodewise.core.card.COLUMNS", {"has_gpu": columns.COLUMNS["has_gpu"]})
    with pytest.raises(UserError, match=r"'ppo-7' looks at column 'delay_cents', which .* does not have.* abc123"):
        check_columns(CARD)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: replace(c, unit="USD"), "'delay_cents' with unit 'USD', which is 'cents' in this version"),
        (lambda c: replace(c, low=-1.0), "'delay_cents' with low -1.0, which is 0.0 in this version"),
        (lambda c: replace(c, high=10.0), "'delay_cents' with high 10.0, which is 1000.0 in this version"),
    ],
)
def test_an_edited_column_is_refused_by_name(edit: Callable[[CardColumn], CardColumn], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_columns(replace(CARD, columns=(edit(CARD.columns[0]), CARD.columns[1])))
