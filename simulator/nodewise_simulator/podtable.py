"""What the compiled engine and the metrics read of pods, whether they are `SimPod`s or columns."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodewise.core.types import Floats
from nodewise_simulator.columns import Forms, Ints, PodColumns
from nodewise_simulator.world import SimPod


@dataclass(frozen=True, slots=True)
class Asked:
    """What P pods ask for; times in seconds."""

    created_s: Floats  # [P]
    deadline_s: Floats  # [P] inf: none
    sla: Ints  # [P]
    cpu_milli: Floats  # [P]
    memory_bytes: Floats  # [P]
    gpus_milli: Floats  # [P]


@dataclass(frozen=True, slots=True)
class Hidden:
    """What no policy sees of P pods on C node classes; see `SimPod`."""

    true_run_s: Floats  # [P, C]
    sensitivity: Floats  # [P]
    noise: Floats  # [P]
    noise_factor: Floats  # [P]


def asked(pods: Sequence[SimPod]) -> Asked:
    """The requests of a world's pods."""
    if isinstance(pods, PodColumns):
        of_form = forms(pods)
        sla = np.array([r.sla for r in of_form.requests], np.int64)[of_form.form]
        deadline_s = pods.created_s + pods.deadline_after_s
        return Asked(pods.created_s, deadline_s, sla, pods.cpu_milli, pods.memory_bytes, pods.gpus_milli)
    requests = [p.request for p in pods]
    created_s, deadline_s, cpu, memory, gpus = _floats(
        [(r.created_s, r.deadline_s, r.cpu_milli, r.memory_bytes, r.gpus_milli) for r in requests], 5
    )
    return Asked(created_s, deadline_s, np.array([r.sla for r in requests], np.int64), cpu, memory, gpus)


def nonzero(pods: Sequence[SimPod]) -> tuple[Floats, Floats]:
    """CPU and memory as in-tree scores count them [P]: see `PodRequest.cpu_nonzero_milli`."""
    if isinstance(pods, PodColumns):
        return pods.cpu_milli, pods.memory_bytes
    cpu, memory = _floats([(p.request.cpu_nonzero_milli, p.request.memory_nonzero_bytes) for p in pods], 2)
    return cpu, memory


def expected_s(pods: Sequence[SimPod]) -> Floats:
    """What the authors expect [P]; nan where they do not say."""
    return pods.expected_s if isinstance(pods, PodColumns) else np.array([p.request.expected_run_s for p in pods])


def hidden(pods: Sequence[SimPod]) -> Hidden:
    """The truth about a world's pods."""
    if isinstance(pods, PodColumns):
        return Hidden(pods.true_run_s, pods.sensitivity, pods.noise, pods.noise_factor)
    sensitivity, noise, factor = _floats([(p.sensitivity, p.noise, p.noise_factor) for p in pods], 3)
    return Hidden(np.stack([p.true_run_s for p in pods]), sensitivity, noise, factor)


def forms(pods: Sequence[SimPod]) -> Forms:
    """The forms of a world's pods; without columns every pod is one of its own."""
    if isinstance(pods, PodColumns):
        return pods.forms
    return Forms(np.arange(len(pods)), tuple(p.request for p in pods), tuple(p.manifest["spec"] for p in pods))


def identities(pods: Sequence[SimPod]) -> tuple[Ints, Ints, Ints]:
    """Of each pod [P]: the rank of its uid, the uid's CRC-32, and the first pod of its owner (-1: it has none)."""
    if isinstance(pods, PodColumns):
        owned = np.array([bool(t.owner_kind) for t in pods.templates])[pods.template]
        return *pods.identities(), np.where(owned, pods.owner, -1)
    requests = [p.request for p in pods]
    rank = np.empty(len(pods), np.int64)
    rank[np.argsort([r.uid for r in requests], kind="stable")] = np.arange(len(pods))
    crc = np.array([zlib.crc32(r.uid.encode()) for r in requests], np.int64)
    first: dict[str, int] = {}
    owner = [first.setdefault(f"{r.namespace}/{r.owner}", k) if r.owner else -1 for k, r in enumerate(requests)]
    return rank, crc, np.array(owner, np.int64)


def _floats(rows: Sequence[tuple[float, ...]], width: int) -> Floats:
    """Columns [width, P] of rows."""
    return np.ascontiguousarray(np.array(rows, float).reshape(-1, width).T)
