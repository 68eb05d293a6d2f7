"""Pods of a world as columns: an array per number, and a manifest only for who asks for one.

`World.pods` may be a `PodColumns`: the compiled engine and the metrics read its arrays, everybody else finds `SimPod`s
that are made when they are looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nodewise.core.annotations import DEADLINE, EXPECTED
from nodewise.core.errors import UserError
from nodewise.core.pods import pod_request
from nodewise.core.types import Floats, PodRequest
from nodewise_simulator.world import QUANTUM_S, Json, SimPod, pod_manifest

Ints = NDArray[np.int64]

_MIB = 2.0**20
_BATCH = 65_536
"""Names that are text at one time."""


@dataclass(frozen=True, slots=True)
class Template:
    """What pods have in common, as their manifests say it."""

    name: str
    """Pod number 17 is called NAME-00017."""
    annotations: Mapping[str, str]
    """All but the times: the SLA class and the workload."""
    spec: Mapping[str, Any]
    """Beside the one container: priority, affinity, tolerations, …"""
    owner_kind: str = "Job"
    """Empty: nobody owns them."""


@dataclass(frozen=True, slots=True)
class Forms:
    """F forms of pods: those of one form are alike in all but names and numbers."""

    form: Ints  # [P] numbered by first appearance
    requests: tuple[PodRequest, ...]  # [F] of the first pod of each
    specs: tuple[Mapping[str, Any], ...]  # [F]


def told(seconds: Floats) -> Floats:
    """Times as an annotation tells them: with three decimals, as Python's `:.3f` rounds; nan and inf stay."""
    thousandths = seconds * 1000.0
    with np.errstate(invalid="ignore"):
        made = np.rint(thousandths) / 1000.0
        tied = np.abs(np.abs(thousandths - np.floor(thousandths)) - 0.5) < 1e-6
    for k in np.flatnonzero(tied):  # the product may have been rounded across the half
        made[k] = float(f"{seconds[k]:.3f}")
    return np.asarray(made)


@dataclass(frozen=True, eq=False)
class PodColumns(Sequence[SimPod]):
    """P pods in order of arrival, C node classes. Each asks for some CPU and memory.

    Raises UserError for columns of unlike lengths, for numbers that no manifest says or no pod can hide, and for pods
    that are not in order of arrival.
    """

    templates: tuple[Template, ...]
    template: Ints  # [P] index into `templates`
    created_s: Floats  # [P] multiples of `QUANTUM_S`
    cpu_milli: Floats  # [P] whole
    memory_bytes: Floats  # [P] whole
    gpus_milli: Floats  # [P] multiples of 1000
    deadline_after_s: Floats  # [P] since creation, as `told`; inf: none
    expected_s: Floats  # [P] as `told`; nan: not told
    true_run_s: Floats  # [P, C] hidden, as are all that follow but the owner: see `SimPod`
    sensitivity: Floats  # [P]
    noise: Floats  # [P]
    noise_factor: Floats  # [P]
    owner: Ints  # [P] position of the first pod of the same owner; no matter where the template has no `owner_kind`
    _made: dict[int, SimPod] = field(default_factory=dict, init=False, repr=False)
    _read: dict[int, PodRequest] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        pods = len(self.template)
        for name in _COLUMNS:
            if len(getattr(self, name)) != pods:
                raise UserError(f"column {name} has {len(getattr(self, name))} rows, and template has {pods}")
        with np.errstate(invalid="ignore"):  # inf has no remainder, and is refused for that
            refused = self._refused()
        for name, wrong in refused.items():
            if wrong.any():
                k = int(np.flatnonzero(wrong)[0])
                raise UserError(f"column {name} of pod {k} is {getattr(self, name)[k]}, which no pod can have")
        if len(early := np.flatnonzero(np.diff(self.created_s) < 0.0)):
            k = int(early[0]) + 1
            raise UserError(f"pod {k} is created before pod {k - 1}; put the rows in order of created_s")

    def _refused(self) -> dict[str, NDArray[np.bool_]]:
        """By column, the pods whose number no pod can have [P]."""
        after, said_s, alone_s = self.deadline_after_s, self.expected_s, self.true_run_s
        return {
            "template": (self.template < 0) | (self.template >= len(self.templates)),
            "created_s": ~(self.created_s >= 0.0) | (self.created_s / QUANTUM_S % 1.0 != 0.0),
            "cpu_milli": ~(self.cpu_milli >= 1.0) | (self.cpu_milli % 1.0 != 0.0),
            "memory_bytes": ~(self.memory_bytes >= 1.0) | (self.memory_bytes % 1.0 != 0.0),
            "gpus_milli": ~(self.gpus_milli >= 0.0) | (self.gpus_milli % 1000.0 != 0.0),
            "deadline_after_s": ~(after > 0.0) | (np.isfinite(after) & (told(after) != after)),
            "expected_s": ~np.isnan(said_s) & (~((said_s > 0.0) & (said_s < np.inf)) | (told(said_s) != said_s)),
            "true_run_s": ~((alone_s >= QUANTUM_S) & (alone_s < np.inf)).all(axis=1),
            "sensitivity": ~((self.sensitivity >= 0.0) & (self.sensitivity < np.inf)),
            "noise": ~((self.noise >= 0.0) & (self.noise < np.inf)),
            "noise_factor": ~((self.noise_factor > 0.0) & (self.noise_factor < np.inf)),
            "owner": (self.owner < 0) | (self.owner > np.arange(len(self))),
        }

    def __len__(self) -> int:
        return len(self.template)

    @overload
    def __getitem__(self, index: int) -> SimPod: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[SimPod, ...]: ...

    def __getitem__(self, index: int | slice) -> SimPod | tuple[SimPod, ...]:
        """One pod, the same at each look; of a slice, a tuple."""
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        k = range(len(self))[index]
        if k not in self._made:
            self._made[k] = self._pod(k)
        return self._made[k]

    def __iter__(self) -> Iterator[SimPod]:
        return (self[k] for k in range(len(self)))

    def part(self, size: int) -> PodColumns:
        """The first of them, whose owners are among them."""
        return replace(self, **{name: getattr(self, name)[:size] for name in _COLUMNS})

    def manifest(self, k: int) -> Json:
        """The v1.Pod."""
        like = self.templates[self.template[k]]
        said = dict(like.annotations)
        if self.expected_s[k] == self.expected_s[k]:
            said[EXPECTED] = f"{self.expected_s[k]:.3f}"
        if self.deadline_after_s[k] < np.inf:
            said[DEADLINE] = f"{self.deadline_after_s[k]:.3f}"
        memory = self.memory_bytes[k]
        requests = {
            "cpu": f"{self.cpu_milli[k]:.0f}m",
            "memory": f"{memory:.0f}" if memory % _MIB else f"{memory / _MIB:.0f}Mi",
        }
        if self.gpus_milli[k]:
            requests["nvidia.com/gpu"] = f"{self.gpus_milli[k] / 1000.0:.0f}"
        made = pod_manifest(self._name(k), float(self.created_s[k]), said, requests, **like.spec)
        if like.owner_kind:
            name = self._name(int(self.owner[k]))
            made["metadata"]["ownerReferences"] = [
                {"apiVersion": "batch/v1", "kind": like.owner_kind, "name": name, "uid": f"{name}-job",
                 "controller": True}
            ]  # fmt: skip
        return made

    def read_as(self, t: int, k: int) -> PodRequest:
        """Pod `k` of template `t` as the extender reads it. Others of its template differ in names and numbers only."""
        if t not in self._read:
            self._read[t] = pod_request(self.manifest(k))[0]
        like, name = self._read[t], self._name(k)
        kind = self.templates[t].owner_kind
        created_s, cpu_milli, memory_bytes = (float(c[k]) for c in (self.created_s, self.cpu_milli, self.memory_bytes))
        return replace(
            like, uid=f"{name}-uid", name=name, owner=f"{kind}/{self._name(int(self.owner[k]))}" if kind else "",
            created_s=created_s, deadline_s=created_s + float(self.deadline_after_s[k]),
            expected_run_s=float(self.expected_s[k]), gpus_milli=float(self.gpus_milli[k]),
            cpu_milli=cpu_milli, cpu_nonzero_milli=cpu_milli, memory_bytes=memory_bytes,
            memory_nonzero_bytes=memory_bytes,
        )  # fmt: skip

    @cached_property
    def forms(self) -> Forms:
        """Of one template, those whose authors tell a run time and those whose do not."""
        code = 2 * self.template + np.isnan(self.expected_s)
        _, first, of = np.unique(code, return_index=True, return_inverse=True)
        order = np.argsort(first)
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        at = first[order].tolist()
        requests = tuple(self.read_as(int(self.template[k]), k) for k in at)
        return Forms(number[of], requests, tuple(self.manifest(k)["spec"] for k in at))

    def identities(self) -> tuple[Ints, Ints]:
        """Rank of each pod's uid among all, in order of text [P], and its CRC-32 [P]."""
        heads = [t.name.encode() for t in self.templates]
        pods = len(self)
        width = max(map(len, heads), default=0) + max(5, len(str(pods))) + len("--uid")
        uids, crc = np.empty(pods, f"S{width}"), np.empty(pods, np.int64)
        for begin in range(0, pods, _BATCH):
            numbers = self.template[begin : begin + _BATCH].tolist()
            text = [b"%s-%05d-uid" % (heads[t], k) for k, t in enumerate(numbers, begin)]
            uids[begin : begin + len(text)] = text
            crc[begin : begin + len(text)] = [zlib.crc32(uid) for uid in text]
        rank = np.empty(pods, np.int64)
        rank[np.argsort(uids, kind="stable")] = np.arange(pods)
        return rank, crc

    def _name(self, k: int) -> str:
        return f"{self.templates[self.template[k]].name}-{k:05d}"

    def _pod(self, k: int) -> SimPod:
        return SimPod(
            self.manifest(k), self.read_as(int(self.template[k]), k), self.true_run_s[k], float(self.sensitivity[k]),
            noise=float(self.noise[k]), noise_factor=float(self.noise_factor[k]),
        )  # fmt: skip


_COLUMNS = tuple(f.name for f in fields(PodColumns) if f.name != "templates" and not f.name.startswith("_"))
