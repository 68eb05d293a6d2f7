"""`azure-vm`: virtual machines of Azure's trace V1 as pods that hold their cores until they end; a packing problem.

- Nodes: the trace has no hosts. `hosts` in equal parts of four EC2 types that differ in memory per core, power and
  price (`_HOSTS`); all that they have may be given out.
- A pod is a VM of the part `part` (`dev` has lifetimes): its flavour's cores and memory, its lifetime on every host.
  VMs that outlive the trace end with it.
- Arrivals are the trace's, 5 minutes apart in tenants' batches. Batches are kept with the probability at which the part
  offers `load` of all cores; from an instant drawn by seed. More hosts than the trace fills are refused.
- All are production, without priority; a VM is late if it begins more than 5 minutes, the trace's resolution, after it
  was asked for. Workload: the flavour. Nobody tells a lifetime.
"""

from __future__ import annotations

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.types import SlaClass
from nodewise_simulator.scenarios.traced import GIB, Traced, as_scenario, folder, need, pod, requests
from nodewise_simulator.traces import azure_vm as trace_of
from nodewise_simulator.world import Json, node_manifest, world

# vCPU, GiB, USD/h (EC2 on demand, us-east-1, 2026-07-20), idle and full W per vCPU (Cloud Carbon Footprint)
_HOSTS = {
    "m4.16xlarge": (64, 256, 3.200, 0.7128, 3.6853),  # Broadwell
    "c5.18xlarge": (72, 144, 3.060, 0.6517, 4.0837),  # Skylake or Cascade Lake: their mean
    "m5.24xlarge": (96, 384, 4.608, 0.6517, 4.0837),
    "r5.12xlarge": (48, 384, 3.024, 0.6517, 4.0837),
}
GRACE_S = 300.0


@as_scenario
def azure_vm(
    seed: int, trace: str = "", load: float = 0.9, pods: int = 3000, warm: int = 2000, hosts: int = 20,
    part: str = "dev",
) -> Traced:  # fmt: skip
    """`pods` counted after `warm`. `trace` is the folder of the flavour and lifetime files.

    Raises UserError for bad files, a part without lifetimes, and for more hosts or pods than the trace can fill.
    """
    need("azure-vm", "0 < load < 2, pods >= 1, warm >= 0 and hosts >= 4",
         ok=0.0 < load < 2.0 and pods >= 1 and warm >= 0 and hosts >= len(_HOSTS))  # fmt: skip
    where = folder(
        "azure-vm", trace, "azure-v1-vm",
        f"flav_map.txt, v1.interval_map.txt, v1.{part}.txt[.gz] and v1.{part}.c2100000.txt[.gz]",
        "to fetch from resources/ of github.com/huaweicloud/trace_generation_rnn",
    )  # fmt: skip
    found = trace_of.load(where, part)
    lives = ~np.isnan(found.life_s) & (found.life_s > 0.0)
    if not lives.any():
        raise UserError(f"{where}: part {part!r} has no lifetimes; take part=dev, or add its v1.{part}.c2100000.txt")
    rng = np.random.default_rng([seed, 53])
    manifests = [_node(kind, k) for at, kind in enumerate(_HOSTS) for k in range(len(range(at, hosts, len(_HOSTS))))]
    room_milli = sum(float(n["status"]["allocatable"]["cpu"].removesuffix("m")) for n in manifests)
    span_s = max(float(found.arrival_s[-1] - found.arrival_s[0]), 1.0)
    natural_milli = float((found.cpu_milli * found.life_s)[lives].sum()) / span_s
    keep = load * room_milli / natural_milli
    need("azure-vm", f"hosts that the trace can fill: at load {load:g} {int(hosts / keep)} at most", ok=keep <= 1.0)
    batches = np.unique(found.batch)
    rows = np.flatnonzero(lives & np.isin(found.batch, batches[rng.random(len(batches)) < keep]))
    total = warm + pods
    need("azure-vm", f"warm + pods of {len(rows)} at most at this load: the trace has no more", ok=total <= len(rows))
    first = int(rng.integers(0, len(rows) - total + 1))
    rows = rows[first : first + total]
    made = [
        pod(
            f"vm-{k:05d}", float(found.arrival_s[row] - found.arrival_s[rows[0]]),
            f"vm-{found.cpu_milli[row]}m-{found.memory_mib[row]}Mi", SlaClass.PRODUCTION,
            np.full(len(_HOSTS), found.life_s[row]), requests(found.cpu_milli[row], found.memory_mib[row]),
            deadline_s=float(found.life_s[row]) + GRACE_S, job=f"batch-{found.batch[row]}",
        )
        for k, row in enumerate(rows)
    ]  # fmt: skip
    left_out = {
        **found.dropped,
        "VMs without a lifetime, or of none": int((~lives).sum()),
        "VMs of the window that outlive the trace (cut there, kept)": int(found.running[rows].sum()),
    }
    return Traced(world("azure-vm", seed, manifests, tuple(_HOSTS), made, warm=warm), left_out)


def _node(kind: str, index: int) -> Json:
    vcpu, gib, usd, idle_w, full_w = _HOSTS[kind]
    return node_manifest(
        f"{kind.replace('.', '-')}-{index:02d}", cpu_milli=vcpu * 1000.0, memory_bytes=gib * GIB, instance_type=kind,
        price_usd_per_h=usd, idle_w=vcpu * idle_w, peak_w=vcpu * full_w, pods=10**4,
    )  # fmt: skip
