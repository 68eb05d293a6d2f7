"""Which accelerator of its node each pod has. kube-scheduler keeps no such book, so this is the simulator's alone.

A pod takes a share of one device (`SimPod.device_milli`) or whole devices, as its manifest says. Without anybody who
chooses, a share goes to the fullest device that has room for it, whole devices are the first free ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nodewise.core.pods import NodeSpec
from nodewise.core.types import Floats
from nodewise_simulator.world import SimPod

_WHOLE = 1000.0


@runtime_checkable
class Devices(Protocol):
    """What an extender that chooses the accelerator also has."""

    def device(self, pod: SimPod, node: str, free_milli: Floats) -> int:
        """The accelerator that the pod is to share, of those of the node, which have `free_milli` [D] left."""
        ...


class DeviceBook:
    """Free milli-devices of every node. Kept from the first pod that shares one; before, counts suffice."""

    def __init__(self, nodes: Sequence[NodeSpec], chooser: Devices | None) -> None:
        self._names, self._chooser = [n.name for n in nodes], chooser
        counts = np.array([int(n.gpus_allocatable_milli // _WHOLE) for n in nodes], np.int64)
        width = int(counts.max(initial=0))
        self._free = np.where(np.arange(width) < counts[:, None], _WHOLE, 0.0)  # [N, D]
        self._taken: dict[str, tuple[int, tuple[int, ...], float]] = {}
        self.used = False
        """Whether any pod was seen that shares a device."""

    def device_of(self, uid: str) -> int:
        """The device that a pod shares; -1 if none."""
        return self._taken[uid][1][0] if uid in self._taken else -1

    def fits(self, pod: SimPod) -> NDArray[np.bool_]:
        """Nodes where a device has room for the pod's share, or where there are enough whole ones [N]."""
        if pod.device_milli > 0.0:
            return np.asarray((self._free >= pod.device_milli).any(axis=1))
        whole = int(pod.request.gpus_milli // _WHOLE)
        return np.asarray((self._free >= _WHOLE).sum(axis=1) >= whole)

    def assume(self, pod: SimPod, row: int) -> None:
        """Give a pod its devices on the node of this row."""
        if pod.request.gpus_milli <= 0.0:
            return
        self.used |= pod.device_milli > 0.0
        free = self._free[row]
        if pod.device_milli > 0.0:
            wanted, devices = pod.device_milli, (self._choose(pod, row, free),)
        else:
            wanted = _WHOLE
            devices = tuple(np.flatnonzero(free >= _WHOLE)[: int(pod.request.gpus_milli // _WHOLE)].tolist())
        self._free[row, list(devices)] -= wanted
        self._taken[pod.request.uid] = (row, devices, wanted)

    def forget(self, uid: str) -> None:
        """Take them back."""
        row, devices, wanted = self._taken.pop(uid, (0, (), 0.0))
        self._free[row, list(devices)] += wanted

    def free_milli(self, row: int) -> Floats:
        """What is left of each device of a node [D]; devices that it does not have have nothing left."""
        return np.array(self._free[row])

    def _choose(self, pod: SimPod, row: int, free: Floats) -> int:
        fitting = np.flatnonzero(free >= pod.device_milli)
        if self._chooser is not None:
            told = self._chooser.device(pod, self._names[row], free.copy())
            if told in fitting:
                return told
        return int(fitting[np.argmin(free[fitting])])
