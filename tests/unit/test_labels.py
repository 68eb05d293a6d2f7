"""Selectors, tolerations and node classes, as Kubernetes matches them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodewise.core.labels import Capacity, capacity, class_term, matches_term, node_class, told_archs, tolerates

Json = dict[str, Any]

BOARD = {
    "kubernetes.io/arch": "amd64",
    "feature.node.kubernetes.io/cpu-model.vendor_id": "Intel",
    "feature.node.kubernetes.io/cpu-model.family": "6",
    "feature.node.kubernetes.io/cpu-model.id": "143",
}
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
        # what says nothing of the machine, or nothing that its type does not say
        ({"node.kubernetes.io/instance-type": "k3s", "kubernetes.io/arch": "arm64"}, "arm64"),
        ({"node.kubernetes.io/instance-type": "g4ad.xlarge", "amd.com/gpu.product-name": "V520"}, "g4ad.xlarge"),
        ({"node.kubernetes.io/instance-type": "m5", "karpenter.sh/capacity-type": "spot"}, "m5"),
        ({"kubernetes.io/arch": "amd64", "feature.node.kubernetes.io/pci-0300_1a03.present": "true"}, "amd64"),
        # machines without a type
        (BOARD, "amd64-intel-6-143"),
        ({**BOARD, "node.kubernetes.io/instance-type": "m7i.large"}, "m7i.large"),
        ({**BOARD, "nvidia.com/gpu.product": "T4"}, "amd64/T4"),
        ({**BOARD, "amd.com/gpu.product-name": "MI300X"}, "amd64-intel-6-143/MI300X"),
        ({**BOARD, "feature.node.kubernetes.io/pci-0302_10de.present": "true"}, "amd64-intel-6-143/nvidia-gpu"),
    ],
)
def test_the_class_of_a_node(labels: dict[str, str], name: str) -> None:
    assert node_class(labels) == name


SOME_LABELS = st.fixed_dictionaries(
    {},
    optional={
        "nodewise.dev/node-class": st.sampled_from(["", "mine", "m5"]),
        "node.kubernetes.io/instance-type": st.sampled_from(["", "m5", "k3s"]),
        "kubernetes.io/arch": st.sampled_from(["amd64", "arm64"]),
        "nvidia.com/gpu.product": st.sampled_from(["", "T4"]),
        "amd.com/gpu.product-name": st.just("MI300X"),
        "feature.node.kubernetes.io/cpu-model.vendor_id": st.sampled_from(["Intel", "AMD"]),
        "feature.node.kubernetes.io/cpu-model.family": st.just("6"),
        "feature.node.kubernetes.io/pci-0302_10de.present": st.sampled_from(["true", "false"]),
        "karpenter.sh/capacity-type": st.sampled_from(["spot", "on-demand"]),
    },
)


@given(SOME_LABELS, SOME_LABELS)
def test_only_nodes_of_a_class_match_its_term(labels: dict[str, str], others: dict[str, str]) -> None:
    term = class_term(labels)
    assert matches_term(labels, "n", term)
    assert matches_term(labels | {"kubernetes.io/hostname": "n2"}, "n2", term)
    assert node_class(others) == node_class(labels) or not matches_term(others, "n", term)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ({}, Capacity.UNKNOWN),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, Capacity.SPOT),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, Capacity.ON_DEMAND),
        ({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, Capacity.UNKNOWN),
        ({"karpenter.sh/capacity-type": "spot"}, Capacity.SPOT),
        ({"karpenter.sh/capacity-type": "on-demand"}, Capacity.ON_DEMAND),
        ({"cloud.google.com/gke-spot": "true"}, Capacity.SPOT),
        ({"cloud.google.com/gke-preemptible": "true"}, Capacity.SPOT),
        ({"kubernetes.azure.com/scalesetpriority": "spot"}, Capacity.SPOT),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND", "karpenter.sh/capacity-type": "spot"}, Capacity.SPOT),
    ],
)
def test_how_a_node_is_paid_for(labels: dict[str, str], kind: Capacity) -> None:
    assert capacity(labels) is kind


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
