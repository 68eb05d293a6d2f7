"""Our kinds: the files are those of the models, everything is bounded and told of, and each rule does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy import celtypes
from typer.testing import CliRunner

from nodewise.cli.main import application
from nodewise_operator.resources import KINDS, NodeProfile, PlacementPolicy, PolicyModel, Resource, TrainingRun
from nodewise_operator.resources.generate import crd, files, structural

Json = dict[str, Any]
MANIFESTS = Path(__file__).parents[2] / "manifests"
DIGEST = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
MODEL: Json = {"source": "https://models/p", "sha256": DIGEST, "algorithm": "PPO"}


def schema_of(kind: type[Resource]) -> Json:
    found: Json = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def places(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """(path, schema) of everything below; an item of a list is `[]`, a value of a map `{}`."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from places(field, f"{path}.{name}")
    if "items" in schema:
        yield from places(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from places(schema["additionalProperties"], f"{path}{{}}")


EVERYWHERE = [
    (f"{kind.__name__}{path}", schema)
    for kind in KINDS
    for name in ("spec", "status")
    for path, schema in places(schema_of(kind)["properties"][name], f".{name}")
]


# --- the files


def test_the_files_in_manifests_are_what_the_models_give() -> None:
    held = {file.name: file.read_text() for file in (MANIFESTS / "crds").iterdir()}
    assert held == files(), "run `python -m nodewise_operator.resources.generate`"


def test_the_command_prints_all_definitions_as_one_stream() -> None:
    ran = CliRunner().invoke(application("crds"), ["crds"])
    assert ran.exit_code == 0
    assert [*yaml.safe_load_all(ran.stdout)] == [crd(kind) for kind in KINDS]


def test_the_samples_are_read_by_the_models_and_lose_nothing() -> None:
    read = 0
    for file in (MANIFESTS / "samples").glob("*.yaml"):
        for manifest in yaml.safe_load_all(file.read_text()):
            kind = next(k for k in KINDS if k.__name__ == manifest["kind"])
            held = kind.model_validate(manifest).plain()["spec"]
            assert {key: held[key] for key in manifest["spec"] if key not in ("weights", "data")} == {
                key: value for key, value in manifest["spec"].items() if key not in ("weights", "data")
            }
            read += 1
    assert read == 5


# --- the schemas


@pytest.mark.parametrize(("path", "schema"), EVERYWHERE, ids=[path for path, _ in EVERYWHERE])
def test_everything_has_one_type_and_a_bound(path: str, schema: Json) -> None:
    bounds = {
        "string": schema.keys() & {"maxLength", "enum", "format"},
        "array": schema.keys() & {"maxItems"},
        "object": schema.keys() & {"properties", "maxProperties"},
        "integer": schema.keys() >= {"minimum", "maximum"},
        "number": schema.keys() >= {"minimum", "maximum"},
    }
    assert bounds[schema["type"]]
    assert not schema.keys() & {"$ref", "anyOf", "allOf", "oneOf", "nullable", "title", "const"}
    if schema["type"] == "array":
        assert "items" in schema


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_says_what_it_is(kind: type[Resource]) -> None:
    for path, schema in places(schema_of(kind)):
        for name, field in schema.get("properties", {}).items():
            if (path, name) not in {("", "apiVersion"), ("", "kind"), ("", "metadata")}:
                assert len(field.get("description", "")) > 10, f"{path}.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_the_conventions(kind: type[Resource]) -> None:
    spec = crd(kind)["spec"]
    version = spec["versions"][0]
    assert spec["names"]["categories"] == ["nodewise"]
    assert spec["names"]["shortNames"]
    assert version["subresources"] == {"status": {}}
    status = schema_of(kind)["properties"]["status"]["properties"]
    assert status["observedGeneration"]["type"] == "integer"
    conditions = status["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    assert {*conditions["items"]["required"]} == {"type", "status", "reason", "message", "lastTransitionTime"}
    columns = version["additionalPrinterColumns"]
    assert columns[-1]["name"] == "Age"
    assert sum("priority" not in column for column in columns) <= 7  # what a terminal of 100 columns shows


@pytest.mark.parametrize("kind", KINDS)
def test_every_printer_column_shows_a_field_that_is_there(kind: type[Resource]) -> None:
    known = {path for path, _ in places(schema_of(kind))} | {".metadata.creationTimestamp"}
    for column in kind.columns:
        path, _, rest = column.path.partition("[?")
        assert path in known, column
        if rest:  # a condition
            assert f"{path}[]{rest[rest.index(']') + 1 :]}" in known, column


def test_a_union_is_refused_with_its_schema() -> None:
    with pytest.raises(TypeError, match="a union of 2 types"):
        structural({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {})


# --- the rules, in the API server's language


def typed(value: Any, schema: Json) -> Any:
    """A value as the API server hands it to CEL: typed by the schema, not by how JSON writes it."""
    if schema["type"] == "object":
        fields = schema.get("properties", {})
        of = {key: fields.get(key) or schema.get("additionalProperties", {}) for key in value}
        return celtypes.MapType({celtypes.StringType(k): typed(v, of[k]) for k, v in value.items() if of[k]})
    if schema["type"] == "array":
        return celtypes.ListType([typed(each, schema["items"]) for each in value])
    if schema.get("format") == "date-time":
        return celtypes.TimestampType(value)
    of_type = {
        "string": celtypes.StringType,
        "integer": celtypes.IntType,
        "number": celtypes.DoubleType,
        "boolean": celtypes.BoolType,
    }
    return of_type[schema["type"]](value)


def defaulted(value: Any, schema: Json) -> Any:
    """With defaults filled in, which the API server does before it validates."""
    if schema["type"] == "array":
        return [defaulted(each, schema["items"]) for each in value]
    if "properties" not in schema:
        return value
    full = {k: f["default"] for k, f in schema["properties"].items() if "default" in f} | value
    return {k: defaulted(v, schema["properties"][k]) for k, v in full.items()}


PROGRAMS: dict[str, Any] = {}


def holds(rule: str, given: dict[str, Any]) -> bool:
    if rule not in PROGRAMS:
        environment = celpy.Environment()
        PROGRAMS[rule] = environment.program(environment.compile(rule))
    return bool(PROGRAMS[rule].evaluate(given))


def broken(value: Any, schema: Json, old: Any = None) -> list[str]:
    """Messages of the rules that a value breaks, anywhere in it; `old` is what it replaces."""
    found = []
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue  # rules of change are not evaluated on creation
        given = {"self": typed(value, schema)} | ({} if old is None else {"oldSelf": typed(old, schema)})
        if not holds(rule["rule"], given):
            found.append(rule["message"])
    if schema["type"] == "array":
        return found + [said for each in value for said in broken(each, schema["items"])]
    for key, field in schema.get("properties", {}).items():
        if schema["type"] == "object" and key in value:
            found += broken(value[key], field, None if old is None else old.get(key))
    return found


def said(kind: type[Resource], spec: Json, old: Json | None = None) -> list[str]:
    schema = schema_of(kind)["properties"]["spec"]
    before = None if old is None else defaulted(old, schema)
    return broken(defaulted(spec, schema), schema, before)


def needs(operator: str, *values: str) -> Json:
    requirement = {"key": "a", "operator": operator} | ({"values": [*values]} if values else {})
    return {"matchExpressions": [requirement]}


ZERO = {"latency": 0, "sla": 0, "energy": 0, "cost": 0}
# How the message begins: [(kind, spec)] that keep the rule, and that break it; a third part is the spec before.
RULES: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "policy and bundle exclude each other": (
        [(PlacementPolicy, {"policy": "economic"}), (PlacementPolicy, {"bundle": "b"}), (PlacementPolicy, {})],
        [(PlacementPolicy, {"policy": "learned", "bundle": "b"})],
    ),
    "namespaces and namespaceSelector exclude each other": (
        [
            (PlacementPolicy, {"namespaces": ["a"]}),
            (PlacementPolicy, {"namespaceSelector": {}}),
            (PlacementPolicy, {"namespaces": [], "namespaceSelector": {}}),
        ],
        [(PlacementPolicy, {"namespaces": ["a"], "namespaceSelector": {}})],
    ),
    "at least one weight must be above 0": (
        [
            (PlacementPolicy, {"weights": {**ZERO, "energy": 0.001}}),
            (PlacementPolicy, {"weights": {"latency": 0}}),
            (TrainingRun, {"minutes": 1, "weights": {"sla": 2}}),
        ],
        [(PlacementPolicy, {"weights": ZERO}), (TrainingRun, {"minutes": 1, "weights": ZERO})],
    ),
    "values are required with the operators In and NotIn": (
        [
            (PlacementPolicy, {"podSelector": needs("In", "x"), "namespaceSelector": needs("Exists")}),
            (NodeProfile, {"nodeClass": "c", "selector": needs("DoesNotExist")}),
        ],
        [
            (PlacementPolicy, {"podSelector": needs("NotIn")}),
            (PlacementPolicy, {"namespaceSelector": needs("DoesNotExist", "x")}),
            (NodeProfile, {"nodeClass": "c", "selector": needs("In")}),
        ],
    ),
    "idleWatts must not be above peakWatts": (
        [
            (NodeProfile, {"nodeClass": "c", "idleWatts": 50, "peakWatts": 50}),
            (NodeProfile, {"nodeClass": "c", "idleWatts": 50}),
            (NodeProfile, {"nodeClass": "c", "peakWatts": 50}),
        ],
        [(NodeProfile, {"nodeClass": "c", "idleWatts": 50.5, "peakWatts": 50})],
    ),
    "nodeClass cannot be changed": (
        [(NodeProfile, {"nodeClass": "c", "idleWatts": 1}, {"nodeClass": "c"}), (NodeProfile, {"nodeClass": "c"})],
        [(NodeProfile, {"nodeClass": "d"}, {"nodeClass": "c"})],
    ),
    "a PolicyModel cannot be changed": (
        [(PolicyModel, MODEL, dict(MODEL)), (PolicyModel, MODEL)],
        [(PolicyModel, MODEL | {"algorithm": "DQN"}, MODEL), (PolicyModel, MODEL | {"columns": ["a"]}, MODEL)],
    ),
    "an oci:// source must name its digest": (
        [(PolicyModel, MODEL), (PolicyModel, MODEL | {"source": f"oci://r/p@sha256:{DIGEST}"})],
        [(PolicyModel, MODEL | {"source": "oci://r/p:v1"})],
    ),
    "since must be before until": (
        [
            (TrainingRun, {"minutes": 1, "data": {"since": "2026-11-01T00:00:00Z", "until": "2026-11-01T00:00:01Z"}}),
            (TrainingRun, {"minutes": 1, "data": {"until": "2026-11-01T00:00:01Z"}}),
        ],
        [(TrainingRun, {"minutes": 1, "data": {"since": "2026-11-01T00:00:01Z", "until": "2026-11-01T00:00:01Z"}})],
    ),
    "lastHours excludes since and until": (
        [(TrainingRun, {"minutes": 1, "data": {"lastHours": 3}})],
        [
            (TrainingRun, {"minutes": 1, "data": {"lastHours": 3, "since": "2026-11-01T00:00:00Z"}}),
            (TrainingRun, {"minutes": 1, "data": {"lastHours": 3, "until": "2026-11-01T00:00:00Z"}}),
        ],
    ),
    "a TrainingRun cannot be changed": (
        [(TrainingRun, {"minutes": 1}, {"minutes": 1})],
        [(TrainingRun, {"minutes": 2}, {"minutes": 1})],
    ),
    "a TrainingRun needs an end": (
        [(TrainingRun, {"minutes": 1}), (TrainingRun, {"decisions": 1})],
        [(TrainingRun, {})],
    ),
}


def test_every_rule_is_shown_a_good_and_a_bad_object() -> None:
    held = {
        (kind, rule["message"])
        for kind in KINDS
        for _, schema in places(schema_of(kind))
        for rule in schema.get("x-kubernetes-validations", ())
    }
    for begins, cases in RULES.items():
        covered = {
            (k, m) for k, m in held if m.startswith(begins) and all(any(c[0] is k for c in side) for side in cases)
        }
        assert covered, f"no rule says {begins!r}"
        held -= covered
    assert not held


@pytest.mark.parametrize("begins", RULES)
def test_a_rule_passes_the_good_and_refuses_the_bad(begins: str) -> None:
    good, bad = RULES[begins]
    for case in good:
        assert said(*case) == [], case
    for case in bad:
        (message,) = said(*case)
        assert message.startswith(begins)
