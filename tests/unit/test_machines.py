"""What machines cost and draw where nobody says so, and who wins where somebody does."""

from typing import Any

import pytest

from nodewise.core import machines
from nodewise.core.machines import UNKNOWN, machine, of_type
from nodewise.core.pods import node_spec
from nodewise_simulator.scenarios.hetero import hetero

Json = dict[str, Any]
TYPE, SPOT = "node.kubernetes.io/instance-type", {"karpenter.sh/capacity-type": "spot"}
NFD = "feature.node.kubernetes.io/cpu-model"
MILAN = {f"{NFD}.vendor_id": "AMD", f"{NFD}.family": "25", f"{NFD}.id": "1"}


def node(labels: dict[str, str], annotations: dict[str, str] | None = None, cpu: str = "16") -> Json:
    ours = {f"nodewise.dev/{key}": value for key, value in (annotations or {}).items()}
    return {"metadata": {"name": "n", "labels": labels, "annotations": ours}, "status": {"allocatable": {"cpu": cpu}}}


@pytest.mark.parametrize(
    ("instance_type", "usd_per_h"),
    [
        ("m5.xlarge", 0.192), ("m7i.24xlarge", 4.8384), ("c7g.medium", 0.03625), ("m7i-flex.large", 0.09576),
        ("t3.nano", 0.0052), ("t3.medium", 0.0416), ("t4g.2xlarge", 0.2688), ("g5.12xlarge", 5.672),
        ("n1-standard-4", 4 * 0.031611 + 15 * 0.004237), ("e2-medium", 0.033503), ("n2-standard-8", 0.388472),
        ("Standard_D4s_v5", 0.192), ("Standard_D2ps_v5", 0.077), ("Standard_DS2_v2", 0.146),
    ],
)  # fmt: skip
def test_published_prices(instance_type: str, usd_per_h: float) -> None:
    assert of_type(instance_type).price_usd_per_h == pytest.approx(usd_per_h, rel=1e-4)


@pytest.mark.parametrize(
    "unheard_of",
    ["", "m5", "m5.", "m5.huge", "m5.metal", "m99.xlarge", "t3.4xlarge", "n2-standard-", "Standard_D4q_v5"],
)
def test_a_type_that_nobody_listed_is_unknown(unheard_of: str) -> None:
    assert of_type(unheard_of) == UNKNOWN


def test_power_is_that_of_the_cpu_generation_and_of_the_gpus() -> None:
    sapphire_rapids = of_type("c7i.4xlarge")
    assert (sapphire_rapids.idle_w, sapphire_rapids.peak_w) == pytest.approx((16 * 1.0363, 16 * 4.1605))
    several = of_type("m5.xlarge")  # Skylake or Cascade Lake: the mean
    assert several.idle_w == pytest.approx(4 * (0.6130 + 0.6903) / 2)
    assert several.power_source == "Cloud Carbon Footprint, Skylake and Cascade Lake"
    t4 = of_type("g4dn.12xlarge")
    assert (t4.idle_w, t4.peak_w) == pytest.approx((48 * 0.6903 + 4 * 10, 48 * 4.0632 + 4 * 70))
    assert of_type("g6.xlarge").price_usd_per_h == 0.8048  # the power of its GPU is not published: none is better
    assert (of_type("g6.xlarge").peak_w, of_type("g6.xlarge").power_source) == (0.0, "")


def every_type() -> list[str]:
    ec2 = [f"{family}.{size}" for family in machines._EC2_FAMILIES for size in ("large", "xlarge", "4xlarge")]
    burstable = [f"{family}.{size}" for family in machines._EC2_BURSTABLE for size in machines._BURSTABLE_VCPUS]
    azure = [f"Standard_{letter}4{rest}" for letter, rest in machines._AZURE_SERIES]
    return [*ec2, *burstable, *azure, *(f"{series}-4" for series in machines._GCP_SERIES), *machines._TYPES]


@pytest.mark.parametrize("instance_type", every_type())
def test_every_row_has_a_source_and_makes_sense(instance_type: str) -> None:
    found = of_type(instance_type)
    assert 0.001 < found.price_usd_per_h < 100.0
    assert found.price_source
    assert (found.peak_w > found.idle_w > 0.0) if found.power_source else (found.idle_w == found.peak_w == 0.0)


def test_the_prices_of_scenario_hetero_are_in_the_table() -> None:
    for manifest in hetero(1, pods=1, warm=0).node_manifests:
        told = node_spec(manifest)
        bare = {**manifest, "metadata": {**manifest["metadata"], "annotations": {}}}
        assert node_spec(bare).price_usd_per_h == pytest.approx(told.price_usd_per_h, rel=2e-3)
        assert told.price_source == "annotation nodewise.dev/price-usd-per-hour"
        assert node_spec(bare).price_source == "EC2 on demand, us-east-1, 2026-07-20"
        assert node_spec(bare).peak_w > node_spec(bare).idle_w > 0.0


def test_a_spot_node_is_cheaper_by_a_factor_that_can_be_set_and_as_fast() -> None:
    spot, other = (node_spec(node({TYPE: "m5.xlarge"} | more)) for more in (SPOT, {}))
    assert (spot.price_usd_per_h, other.price_usd_per_h) == pytest.approx((0.21 * 0.192, 0.192))
    assert spot.price_source == "EC2 on demand, us-east-1, 2026-07-20, times 0.21 for spot"
    assert (spot.node_class, spot.idle_w, spot.peak_w) == (other.node_class, other.idle_w, other.peak_w)
    assert node_spec(node({TYPE: "m5.xlarge"} | SPOT), 0.5).price_usd_per_h == pytest.approx(0.096)
    assert machine(SPOT, 4.0) == UNKNOWN


@pytest.mark.parametrize(
    ("told", "price", "idle_w", "peak_w"),
    [
        ({"price-usd-per-hour": "1.5", "idle-watts": "10", "peak-watts": "20"}, 1.5, 10.0, 20.0),
        ({"price-usd-per-hour": "0", "idle-watts": "0", "peak-watts": "0"}, 0.0, 0.0, 0.0),  # said, not missing
        ({"price-usd-per-hour": "0.05"}, 0.05, 16 * 1.0363, 16 * 4.1605),  # what is paid: not taken 0.21 times
        ({"peak-watts": "50"}, 0.714 * 0.21, 0.0, 50.0),  # the two watts have one source
        ({"price-usd-per-hour": "cheap", "idle-watts": "-1", "peak-watts": "inf"}, 0.714 * 0.21, 16.5808, 66.568),
    ],
)
def test_what_the_owner_annotated_wins(told: dict[str, str], price: float, idle_w: float, peak_w: float) -> None:
    spec = node_spec(node({TYPE: "c7i.4xlarge"} | SPOT, told))
    assert (spec.price_usd_per_h, spec.idle_w, spec.peak_w) == pytest.approx((price, idle_w, peak_w))
    assert spec.price_source.startswith("annotation" if price in (0.0, 0.05, 1.5) else "EC2")
    assert spec.power_source


def test_a_board_without_a_type_draws_what_its_cpu_does_and_has_no_price() -> None:
    board = node_spec(node({"kubernetes.io/arch": "amd64", TYPE: "k3s"} | MILAN, cpu="8"))
    assert (board.idle_w, board.peak_w) == pytest.approx((8 * 0.4556, 8 * 1.9573))
    assert (board.price_usd_per_h, board.price_source) == (0.0, "")
    for unknown in (
        {},
        MILAN | {f"{NFD}.id": "x"},
        MILAN | {f"{NFD}.family": "99"},
        MILAN | {"nvidia.com/gpu.product": "X"},
    ):
        assert machine(unknown, 8.0) == UNKNOWN
