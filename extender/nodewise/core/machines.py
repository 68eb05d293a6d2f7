"""What machines cost and draw, as published: the values where nobody annotated the node, each with its source.

**Prices** are on demand, in US dollars an hour, without discounts, licences, disks and traffic:

- EC2: us-east-1, Linux, from the price table of Karpenter's AWS provider (`zz_generated.pricing_aws.go`, generated
  2026-07-20, at 1d927085dd81), which is linear in the vCPUs of a family but for bare metal, left out here.
- Google Cloud: us-central1, public price list as of 2024; the n1 figures are OpenCost's default rates of 0.031611 a
  vCPU and 0.004237 a GiB (`configs/default.json`), and the others follow the same scheme.
- Azure: East US, Linux, pay as you go, public price list as of 2024.

They differ by region by up to a half: annotate nodes (`nodewise.dev/price-usd-per-hour`) to say what is really paid.

**Power** is of the CPU generation, in watts per vCPU idle and at full use, from Cloud Carbon Footprint's coefficients
(`ccf-coefficients` at b0032d928c78, `output/`, made from SPECpower_ssj2008 results to March 2026), and of the GPU as in
the PWR plugin (CCGrid 2025, `open-gpu-share/utils/const.go` at 3bfd53fe011b). Teads' estimates of whole instances are
higher, and missing for newer families: the two are not mixed, or new machines would look thrifty for that alone; the
first Graviton, which has no coefficient, is the exception. Where a family runs on several generations it gets their
mean. A generation without a figure that one can trust is left out (EPYC 5th generation: few results).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nodewise.core import labels as lb

SPOT_PRICE_FACTOR = 0.21
"""Spot price ÷ on-demand price; OpenCost's default rates (0.006655 ÷ 0.031611 a vCPU). A market: it varies widely."""

_EC2 = "EC2 on demand, us-east-1, 2026-07-20"
_GCP = "Google Cloud on demand, us-central1, 2024"
_AZURE = "Azure pay as you go, East US, 2024"
_CCF = "Cloud Carbon Footprint"
_PWR = "PWR (CCGrid 2025)"

_WATTS_PER_VCPU: Mapping[str, tuple[float, float]] = {
    "Sandy Bridge": (2.2122, 8.6309),
    "Ivy Bridge": (1.7074, 5.5569),
    "Haswell": (1.8574, 5.5954),
    "Broadwell": (0.7128, 3.6853),
    "Skylake": (0.6130, 4.1042),
    "Cascade Lake": (0.6903, 4.0632),
    "Ice Lake": (0.7668, 3.7582),
    "Sapphire Rapids": (1.0363, 4.1605),
    "Emerald Rapids": (0.8140, 4.4820),
    "Granite Rapids": (0.5816, 2.5275),
    "EPYC 1st generation": (0.8468, 2.6042),
    "EPYC 2nd generation": (0.4743, 1.6930),
    "EPYC 3rd generation": (0.4556, 1.9573),
    "EPYC 4th generation": (0.7391, 2.2822),
    # Published as equal to EPYC 2nd generation, not measured.
    "Graviton2": (0.4743, 1.6930),
    "Graviton3": (0.4743, 1.6930),
    "Graviton4": (0.4743, 1.6930),
    # Teads, aws-instances.csv, a1.4xlarge ÷ 16: 19.0 W idle, 67.9 W at 100 %.
    "Graviton": (1.19, 4.24),
}
"""CPU generation → W per vCPU, idle and at full use."""

_GPU_WATTS: Mapping[str, tuple[float, float]] = {"T4": (10, 70), "A10": (30, 150), "V100": (30, 300), "A100": (50, 400)}
"""GPU → W each, idle and at full use."""

_GENERATIONS: Mapping[tuple[str, int, int], tuple[str, ...]] = {
    ("Intel", 6, 45): ("Sandy Bridge",),
    ("Intel", 6, 62): ("Ivy Bridge",),
    ("Intel", 6, 63): ("Haswell",),
    ("Intel", 6, 79): ("Broadwell",),
    ("Intel", 6, 85): ("Skylake", "Cascade Lake"),  # told apart by the stepping only
    ("Intel", 6, 106): ("Ice Lake",),
    ("Intel", 6, 143): ("Sapphire Rapids",),
    ("Intel", 6, 207): ("Emerald Rapids",),
    ("Intel", 6, 173): ("Granite Rapids",),
    ("AMD", 23, 1): ("EPYC 1st generation",),
    ("AMD", 23, 49): ("EPYC 2nd generation",),
    ("AMD", 25, 1): ("EPYC 3rd generation",),
    ("AMD", 25, 17): ("EPYC 4th generation",),
}
"""Server CPUs by Node Feature Discovery's vendor, family and model; Linux `arch/x86/include/asm/intel-family.h`,
`arch/x86/kernel/cpu/amd.c`."""

_SKYLAKE_ON = ("Skylake", "Cascade Lake")
_ICE_LAKE, _SAPPHIRE, _GRANITE = ("Ice Lake",), ("Sapphire Rapids",), ("Granite Rapids",)
_EPYC1, _EPYC2, _EPYC3, _EPYC4 = ((f"EPYC {n} generation",) for n in ("1st", "2nd", "3rd", "4th"))
_G2, _G3, _G4 = ("Graviton2",), ("Graviton3",), ("Graviton4",)

_EC2_FAMILIES: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "m4": (0.05, ("Haswell", "Broadwell")), "m5": (0.048, _SKYLAKE_ON), "m5a": (0.043, _EPYC1),
    "m5ad": (0.0515, _EPYC1), "m5d": (0.0565, _SKYLAKE_ON), "m5n": (0.0595, ("Cascade Lake",)),
    "m6a": (0.0432, _EPYC3), "m6g": (0.0385, _G2), "m6gd": (0.0452, _G2), "m6i": (0.048, _ICE_LAKE),
    "m6id": (0.059325, _ICE_LAKE), "m6in": (0.069615, _ICE_LAKE), "m7a": (0.05796, _EPYC4), "m7g": (0.0408, _G3),
    "m7i": (0.0504, _SAPPHIRE), "m7i-flex": (0.04788, _SAPPHIRE), "m8g": (0.04488, _G4), "m8i": (0.05292, _GRANITE),
    "c5": (0.0425, _SKYLAKE_ON), "c5a": (0.0385, _EPYC2), "c5d": (0.048, _SKYLAKE_ON), "c5n": (0.054, ("Skylake",)),
    "c6a": (0.03825, _EPYC3), "c6g": (0.034, _G2), "c6gd": (0.0384, _G2), "c6gn": (0.0432, _G2),
    "c6i": (0.0425, _ICE_LAKE), "c6id": (0.0504, _ICE_LAKE), "c6in": (0.0567, _ICE_LAKE), "c7a": (0.05132, _EPYC4),
    "c7g": (0.03625, _G3), "c7gn": (0.0624, _G3), "c7i": (0.044625, _SAPPHIRE), "c7i-flex": (0.042395, _SAPPHIRE),
    "c8g": (0.03988, _G4), "c8i": (0.046855, _GRANITE),
    "r4": (0.0665, ("Broadwell",)), "r5": (0.063, _SKYLAKE_ON), "r5a": (0.0565, _EPYC1), "r5d": (0.072, _SKYLAKE_ON),
    "r6a": (0.0567, _EPYC3), "r6g": (0.0504, _G2), "r6i": (0.063, _ICE_LAKE), "r7a": (0.07608, _EPYC4),
    "r7g": (0.05355, _G3), "r7i": (0.06615, _SAPPHIRE), "r8g": (0.05891, _G4),
    "i3": (0.078, ("Broadwell",)), "a1": (0.0255, ("Graviton",)),
}  # fmt: skip
"""Family → USD per vCPU and hour, CPU generations. Those of x86 as seen in Vantage's CoreMark runs of 2025-12, except
m5n, m6id, c6id, c7gn and i3, where nobody ran it or AWS names the CPU."""

_EC2_BURSTABLE: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "t3": (0.0052, _SKYLAKE_ON), "t3a": (0.0047, _EPYC1), "t4g": (0.0042, _G2),
}  # fmt: skip
"""Family → USD an hour of its nano, CPU generations; each size costs twice the one before."""
_BURSTABLE_VCPUS = {"nano": 2, "micro": 2, "small": 2, "medium": 2, "large": 2, "xlarge": 4, "2xlarge": 8}
"""From the smallest size on."""

_TYPES: Mapping[str, tuple[float, str, int, tuple[str, ...], int, str]] = {
    "g4dn.xlarge": (0.526, _EC2, 4, ("Cascade Lake",), 1, "T4"),
    "g4dn.2xlarge": (0.752, _EC2, 8, ("Cascade Lake",), 1, "T4"),
    "g4dn.4xlarge": (1.204, _EC2, 16, ("Cascade Lake",), 1, "T4"),
    "g4dn.8xlarge": (2.176, _EC2, 32, ("Cascade Lake",), 1, "T4"),
    "g4dn.12xlarge": (3.912, _EC2, 48, ("Cascade Lake",), 4, "T4"),
    "g4dn.16xlarge": (4.352, _EC2, 64, ("Cascade Lake",), 1, "T4"),
    "g5.xlarge": (1.006, _EC2, 4, _EPYC2, 1, "A10"),
    "g5.2xlarge": (1.212, _EC2, 8, _EPYC2, 1, "A10"),
    "g5.4xlarge": (1.624, _EC2, 16, _EPYC2, 1, "A10"),
    "g5.8xlarge": (2.448, _EC2, 32, _EPYC2, 1, "A10"),
    "g5.12xlarge": (5.672, _EC2, 48, _EPYC2, 4, "A10"),
    "g5.16xlarge": (4.096, _EC2, 64, _EPYC2, 1, "A10"),
    "g5.24xlarge": (8.144, _EC2, 96, _EPYC2, 4, "A10"),
    "g5.48xlarge": (16.288, _EC2, 192, _EPYC2, 8, "A10"),
    "g6.xlarge": (0.8048, _EC2, 4, _EPYC3, 1, "L4"),
    "g6.2xlarge": (0.9776, _EC2, 8, _EPYC3, 1, "L4"),
    "g6.4xlarge": (1.3232, _EC2, 16, _EPYC3, 1, "L4"),
    "g6.8xlarge": (2.0144, _EC2, 32, _EPYC3, 1, "L4"),
    "g6.12xlarge": (4.6016, _EC2, 48, _EPYC3, 4, "L4"),
    "g6e.xlarge": (1.861, _EC2, 4, _EPYC3, 1, "L40S"),
    "g6e.2xlarge": (2.24208, _EC2, 8, _EPYC3, 1, "L40S"),
    "g6e.4xlarge": (3.00424, _EC2, 16, _EPYC3, 1, "L40S"),
    "g6e.8xlarge": (4.52856, _EC2, 32, _EPYC3, 1, "L40S"),
    "p3dn.24xlarge": (31.212, _EC2, 96, ("Skylake",), 8, "V100"),
    "p4d.24xlarge": (21.957642, _EC2, 96, ("Cascade Lake",), 8, "A100"),
    "p5.48xlarge": (55.04, _EC2, 192, _EPYC3, 8, "H100"),
    "e2-micro": (0.008376, _GCP, 2, (), 0, ""),
    "e2-small": (0.016751, _GCP, 2, (), 0, ""),
    "e2-medium": (0.033503, _GCP, 2, (), 0, ""),
    "a2-highgpu-1g": (3.673385, _GCP, 12, ("Cascade Lake",), 1, "A100"),
    "a2-highgpu-2g": (7.34677, _GCP, 24, ("Cascade Lake",), 2, "A100"),
    "a2-highgpu-4g": (14.69354, _GCP, 48, ("Cascade Lake",), 4, "A100"),
    "a2-highgpu-8g": (29.38708, _GCP, 96, ("Cascade Lake",), 8, "A100"),
    "Standard_DS2_v2": (0.146, _AZURE, 2, (), 0, ""),
    "Standard_B2s": (0.0416, _AZURE, 2, (), 0, ""),
    "Standard_NC4as_T4_v3": (0.526, _AZURE, 4, _EPYC2, 1, "T4"),
}
"""Type → USD an hour, its source, vCPUs, CPU generations, GPUs, GPU."""

_E2 = ("Haswell", "Broadwell", "Skylake", "EPYC 2nd generation", "EPYC 3rd generation")
_N1 = ("Sandy Bridge", "Ivy Bridge", "Haswell", "Broadwell", "Skylake")
_GCP_SERIES: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "e2-standard": (0.033503, _E2), "e2-highcpu": (0.024734, _E2), "e2-highmem": (0.045196, _E2),
    "n1-standard": (0.0475, _N1), "n1-highcpu": (0.035424, _N1), "n1-highmem": (0.059152, _N1),
    "n2-standard": (0.048559, ("Cascade Lake", "Ice Lake")),
    "n2d-standard": (0.042246, ("EPYC 2nd generation", "EPYC 3rd generation")),
    "t2d-standard": (0.042246, _EPYC3), "t2a-standard": (0.0385, ()), "c2-standard": (0.0522, ("Cascade Lake",)),
}  # fmt: skip
"""Series → USD per vCPU and hour, the CPU generations that Google documents for it (t2a: Ampere Altra, no figure)."""

_AZURE_SERIES: Mapping[tuple[str, str], tuple[float, tuple[str, ...]]] = {
    ("D", "s_v3"): (0.048, ("Broadwell", "Skylake", "Cascade Lake")), ("D", "s_v4"): (0.048, ("Cascade Lake",)),
    ("D", "s_v5"): (0.048, _ICE_LAKE), ("D", "ds_v5"): (0.0565, _ICE_LAKE), ("D", "as_v5"): (0.043, _EPYC3),
    ("D", "ps_v5"): (0.0385, ()), ("E", "s_v5"): (0.063, _ICE_LAKE), ("E", "as_v5"): (0.0565, _EPYC3),
    ("F", "s_v2"): (0.0423, _SKYLAKE_ON),
}  # fmt: skip
"""Series → USD per vCPU and hour, the CPU generations that Azure documents for it (ps_v5: Ampere Altra, no figure)."""

_EC2_SIZE = re.compile(r"(?P<family>[a-z0-9-]+)\.(?:(?P<small>medium|large)|(?P<times>\d{0,2})xlarge)", re.ASCII)
_GCP_TYPE = re.compile(r"(?P<series>[a-z0-9]+-(?:standard|highcpu|highmem))-(?P<vcpus>\d{1,3})", re.ASCII)
_AZURE_TYPE = re.compile(r"Standard_(?P<letter>[DEF])(?P<vcpus>\d{1,3})(?P<rest>[a-z]{1,2}_v\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of a machine; 0 is unknown, and then its source is empty."""

    price_usd_per_h: float = 0.0
    price_source: str = ""
    idle_w: float = 0.0
    peak_w: float = 0.0
    power_source: str = ""


UNKNOWN = Machine()


def machine(labels: Mapping[str, str], vcpus: float, spot_price_factor: float = SPOT_PRICE_FACTOR) -> Machine:
    """What is published of the node with these labels, all of it 0 if nothing is.

    `vcpus` are the node's CPUs, which the power of a board without a type goes by (its allocatable ones will do);
    `spot_price_factor` is what the price of a spot node is multiplied by.
    """
    found = of_type(lb.instance_type(labels))
    if not lb.instance_type(labels) and not lb.gpu_product(labels):
        found = _with_power(found, _generations(labels), vcpus)
    if lb.capacity(labels) is not lb.Capacity.SPOT or not found.price_source:
        return found
    price = found.price_usd_per_h * spot_price_factor
    return replace(
        found, price_usd_per_h=price, price_source=f"{found.price_source}, times {spot_price_factor:g} for spot"
    )


def of_type(instance_type: str) -> Machine:
    """What is published of a machine of this type, such as `m5.xlarge`, `n2-standard-4` or `Standard_D4s_v5`."""
    if instance_type in _TYPES:
        price, source, vcpus, cpu, gpus, gpu = _TYPES[instance_type]
        return _with_power(Machine(price, source), cpu, vcpus, gpus, gpu)
    family, _, size = instance_type.partition(".")
    if family in _EC2_BURSTABLE and size in _BURSTABLE_VCPUS:
        nano_usd_per_h, cpu = _EC2_BURSTABLE[family]
        price = nano_usd_per_h * 2 ** list(_BURSTABLE_VCPUS).index(size)
        return _with_power(Machine(price, _EC2), cpu, _BURSTABLE_VCPUS[size])
    if (match := _EC2_SIZE.fullmatch(instance_type)) and match["family"] in _EC2_FAMILIES:
        vcpus = {"medium": 1, "large": 2}.get(match["small"]) or 4 * int(match["times"] or 1)
        return _linear(*_EC2_FAMILIES[match["family"]], _EC2, vcpus)
    if (match := _GCP_TYPE.fullmatch(instance_type)) and match["series"] in _GCP_SERIES:
        return _linear(*_GCP_SERIES[match["series"]], _GCP, int(match["vcpus"]))
    if (match := _AZURE_TYPE.fullmatch(instance_type)) and (match["letter"], match["rest"]) in _AZURE_SERIES:
        return _linear(*_AZURE_SERIES[match["letter"], match["rest"]], _AZURE, int(match["vcpus"]))
    return UNKNOWN


def _linear(usd_per_vcpu_h: float, cpu: tuple[str, ...], source: str, vcpus: int) -> Machine:
    return _with_power(Machine(usd_per_vcpu_h * vcpus, source), cpu, vcpus)


def _with_power(known: Machine, cpu: tuple[str, ...], vcpus: float, gpus: int = 0, gpu: str = "") -> Machine:
    """The machine with the power of its CPUs and GPUs, or without any if that of either is not known."""
    if not cpu or vcpus <= 0 or (gpus and gpu not in _GPU_WATTS):
        return known
    gpu_w = _GPU_WATTS.get(gpu, (0.0, 0.0))
    idle_w, peak_w = (
        vcpus * sum(_WATTS_PER_VCPU[each][k] for each in cpu) / len(cpu) + gpus * gpu_w[k] for k in (0, 1)
    )
    source = f"{'Teads' if cpu == ('Graviton',) else _CCF}, {' and '.join(cpu)}" + (f"; {_PWR}, {gpu}" if gpus else "")
    return replace(known, idle_w=idle_w, peak_w=peak_w, power_source=source)


def _generations(labels: Mapping[str, str]) -> tuple[str, ...]:
    """CPU generations that Node Feature Discovery's labels leave open; none if it is no server CPU we know."""
    try:
        family, model = int(labels.get(lb.CPU_FAMILY, "")), int(labels.get(lb.CPU_MODEL, ""))
    except ValueError:
        return ()
    return _GENERATIONS.get((labels.get(lb.CPU_VENDOR, ""), family, model), ())
