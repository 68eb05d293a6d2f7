"""Selectors, tolerations and node classes, as Kubernetes matches them."""

from typing import Any

import pytest

from nodewise.core.labels import matches_term, node_class, told_archs, tolerates

Json = dict[str, Any]

LABELS = {"kubernetes.io/arch": "arm64", "disk": "ssd", "cores": "8", "odd": "x"}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("term", "matches"),
    [
        (expression("disk", "In", "hdd", "ssd"), True),
        (expression("disk", "In", "hdd"), False),
        (expression("disk", "NotIn", "hdd"), True),
        (expression("absent", "NotIn", "hdd"), True),  # as Kubernetes: a node without the label matches
        (expression("disk", "Exists"), True),
        (expression("absent", "Exists"), False),
        (expression("absent", "DoesNotExist"), True),
        (expression("cores", "Gt", "7"), True),
        (expression("cores", "Gt", "8"), False),
        (expression("cores", "Lt", "9"), True),
        (expression("odd", "Gt", "1"), False),
        (expression("absent", "Lt", "1"), False),
        (expression("cores", "Gt"), False),
        (expression("disk", "Like", "s"), False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}, False),
        ({"matchExpressions": [{"key": k, "operator": "Exists"} for k in ("disk", "absent")]}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_a_term_of_node_affinity(term: Json, matches: bool) -> None:
    assert matches_term(LABELS, "n1", term) is matches


TAINT = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        ({"key": "dedicated", "value": "ml", "effect": "NoSchedule"}, True),
        ({"key": "dedicated", "operator": "Equal", "value": "ml"}, True),
        ({"key": "dedicated", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "dedicated", "value": "web"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"value": "ml"}, False),
        ({}, False),
    ],
)
def test_a_toleration(toleration: Json, covers: bool) -> None:
    assert tolerates([{"key": "x", "value": "y"}, toleration], TAINT) is covers
    assert not tolerates([], TAINT)


def test_a_toleration_without_value_covers_a_taint_without_value() -> None:
    assert tolerates([{"key": "spot"}], {"key": "spot", "effect": "NoSchedule"})


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"nodewise.dev/node-class": "mine", "node.kubernetes.io/instance-type": "m7"}, "mine"),
        ({"node.kubernetes.io/instance-type": "m7", "kubernetes.io/arch": "amd64"}, "m7"),
        ({"node.kubernetes.io/instance-type": "g5", "nvidia.com/gpu.product": "A10G"}, "g5/A10G"),
        ({"kubernetes.io/arch": "arm64"}, "arm64"),
        ({}, "unknown"),
    ],
)
def test_the_class_of_a_node(labels: dict[str, str], name: str) -> None:
    assert node_class(labels) == name


def required(*terms: Json) -> Json:
    affinity = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": affinity}}


ARM, BOTH = (expression("kubernetes.io/arch", "In", *values) for values in (("arm64",), ("arm64", "amd64")))


@pytest.mark.parametrize(
    ("spec", "archs"),
    [
        ({}, ()),
        ({"nodeSelector": {"kubernetes.io/arch": "amd64"}} | required(ARM), ("amd64",)),
        (required(ARM), ("arm64",)),
        (required(BOTH), ("amd64", "arm64")),
        (required(ARM, BOTH), ("amd64", "arm64")),
        (required(ARM, expression("disk", "Exists")), ()),  # the other alternative leaves it open
        (required(expression("kubernetes.io/arch", "NotIn", "arm64")), ()),
    ],
)
def test_the_architectures_a_pod_names(spec: Json, archs: tuple[str, ...]) -> None:
    assert told_archs(spec) == archs
