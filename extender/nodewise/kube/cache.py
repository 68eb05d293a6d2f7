"""From the watches of nodes and pods to `ClusterState`.

Pods are watched without a field selector. A selection of unfinished pods would tell that a pod left it, not how it
ended (the last event carries the previous content, see `ACTIVE_PODS` in `nodewise.kube.api`), and waiting pods have no
node to select by.
What has finished is learned from once, also from what the cluster still remembers when we start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nodewise.core.feasible import has_room
from nodewise.core.pods import NodeSpec, PodState, node_spec, pod_state
from nodewise.core.state import ClusterState
from nodewise.core.types import ClusterView, PodRequest, Rows
from nodewise.kube.overrides import Override, by_class


@dataclass(frozen=True, slots=True)
class SeenNode:
    """One v1.Node as kept."""

    uid: str
    spec: NodeSpec


@dataclass(frozen=True, slots=True)
class SeenPod:
    """One v1.Pod as kept."""

    version: str
    state: PodState
    ours: bool
    waits: bool
    """It wants a node and the scheduler may look for one: no gates, not being deleted."""
    nominated: str
    """Node that a scheduler's preemption holds for it."""


def seen_node(node: dict[str, Any]) -> SeenNode:
    """Project a v1.Node. Raises as `node_spec` does; the informer counts that."""
    return SeenNode(node["metadata"]["uid"], node_spec(node))


def seen_pod(pod: dict[str, Any], scheduler_name: str) -> SeenPod:
    """Project a v1.Pod; `scheduler_name` says whose pods are ours, empty for everybody's."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    state = pod_state(pod)
    return SeenPod(
        version=meta.get("resourceVersion") or "",
        state=state,
        ours=is_ours(spec, scheduler_name),
        waits=not (state.node or state.done or spec.get("schedulingGates") or meta.get("deletionTimestamp")),
        nominated=status.get("nominatedNodeName") or "",
    )


def is_ours(spec: dict[str, Any], scheduler_name: str) -> bool:
    """Whether a pod is placed by our scheduler."""
    return not scheduler_name or (spec.get("schedulerName") or "default-scheduler") == scheduler_name


class Cache:
    """Owned by the event loop: informer callbacks and requests, one after the other.

    `on_bound(request, node)` is told once for each pod of ours that gets a node while we watch.
    """

    def __init__(self, state: ClusterState, on_bound: Callable[[PodRequest, str], None]) -> None:
        self.state = state
        self.expired = 0  # assumed pods whose binding was never seen
        self.learned = 0  # pods that were seen to succeed
        self._on_bound = on_bound
        self._nodes: dict[str, SeenNode] = {}  # by name
        self._overrides: dict[str, Override] = {}  # by node class
        self._versions: dict[str, str] = {}  # uid -> resourceVersion of every pod there is
        self._bound: dict[str, SeenPod] = {}
        self._finished: set[str] = set()
        self._waiting: dict[str, PodRequest] = {}
        self._nominated: dict[str, int] = {}  # uid -> priority of those that are charged to a node they wait for
        self._listed = False

    @property
    def waiting(self) -> int:
        """Pods of ours that want a node."""
        return len(self._waiting)

    @property
    def nominated(self) -> int:
        """Pods of anybody that wait for a node which a preemption holds for them, and are charged to it."""
        return len(self._nominated)

    @property
    def bound(self) -> int:
        """Pods that hold a node."""
        return len(self._bound)

    @property
    def nodes(self) -> int:
        """Nodes there are."""
        return len(self._nodes)

    # --- from the watch of nodes

    def replace_nodes(self, nodes: list[SeenNode]) -> None:
        """All nodes there are."""
        for name in self._nodes.keys() - {node.spec.name for node in nodes}:
            self._remove_node(name)
        for node in nodes:
            self._put_node(node)

    def node_event(self, kind: str, node: SeenNode) -> None:
        """One change of a node."""
        if kind != "DELETED":
            self._put_node(node)
        elif (known := self._nodes.get(node.spec.name)) and known.uid == node.uid:  # else the name has a new owner
            self._remove_node(node.spec.name)

    def _put_node(self, node: SeenNode) -> None:
        if self._nodes.get(node.spec.name) != node:  # most changes of a node are its kubelet's signs of life
            self._nodes[node.spec.name] = node
            self.state.put_node(self._as_told(node.spec))

    def _as_told(self, node: NodeSpec) -> NodeSpec:
        told = self._overrides.get(node.node_class)
        return told.applied(node) if told else node

    def _remove_node(self, name: str) -> None:
        del self._nodes[name]
        self.state.remove_node(name)

    # --- from the watch of NodeProfiles

    def replace_overrides(self, told: Iterable[Override]) -> None:
        """All that owners of nodes say of price and power."""
        before, self._overrides = self._overrides, by_class(told)
        for node in self._nodes.values():
            if before.get(node.spec.node_class) != self._overrides.get(node.spec.node_class):
                self.state.put_node(self._as_told(node.spec))

    # --- from the watch of pods

    def replace_pods(self, pods: list[SeenPod]) -> None:
        """All pods there are. The finished come first: what they took is free, and nobody slowed them that we know."""
        for uid in self._versions.keys() - {pod.state.request.uid for pod in pods}:
            self._forget(uid)
        changed = [pod for pod in pods if self._versions.get(pod.state.request.uid) != pod.version]
        new: list[SeenPod] = []
        for pod in sorted(changed, key=lambda p: not p.state.done):
            if pod.state.done or not pod.state.node or pod.state.request.uid in self._bound:
                self._put_pod(pod)
            else:
                self._begin(pod)
                new.append(pod)
        self.state.place_all((pod.state.request, pod.state.node, pod.state.started_s) for pod in new)
        for pod in new:
            if pod.state.ready:
                self.state.ran(pod.state.request.uid)
        self._listed = True

    def pod_event(self, kind: str, pod: SeenPod) -> None:
        """One change of a pod."""
        if kind != "DELETED":
            self._put_pod(pod)
            return
        if pod.state.done:
            self._end(pod)
        self._forget(pod.state.request.uid)

    def _put_pod(self, pod: SeenPod) -> None:
        uid = pod.state.request.uid
        self._versions[uid] = pod.version
        if pod.state.done:
            self._end(pod)
        elif pod.state.node:
            self._hold(pod)
        else:
            self._wait(pod)

    def _wait(self, pod: SeenPod) -> None:
        request = pod.state.request
        uid = request.uid
        if not (pod.waits and pod.ours):
            self._waiting.pop(uid, None)
            if not pod.nominated:
                self._nominated.pop(uid, None)
                self.state.remove(uid)
                return
        if pod.nominated and (uid in self._nominated or not self.state.node_of(uid)):
            # Room that a preemption made is spoken for. An assumption of ours is younger and stands above it.
            self._nominated[uid] = request.priority
            self.state.place(request, pod.nominated)
        elif uid in self._nominated:
            del self._nominated[uid]
            self.state.remove(uid)
        if pod.waits and pod.ours:
            self._waiting[uid] = request
            self.state.queue(request)

    def _hold(self, pod: SeenPod) -> None:
        request = pod.state.request
        before = self._bound.get(request.uid)
        if before is not None and before.state.request != request:  # resized in place
            self.state.remove(request.uid)
        self._begin(pod)
        self.state.place(request, pod.state.node, pod.state.started_s)
        if pod.state.ready:
            self.state.ran(request.uid)

    def _begin(self, pod: SeenPod) -> None:
        request = pod.state.request
        new = request.uid not in self._bound
        self._versions[request.uid] = pod.version
        self._waiting.pop(request.uid, None)
        self._nominated.pop(request.uid, None)
        self._bound[request.uid] = pod
        if new and pod.ours and self._listed:
            self._on_bound(request, pod.state.node)

    def _end(self, pod: SeenPod) -> None:
        request = pod.state.request
        if request.uid in self._finished:
            return
        if pod.state.node and request.uid not in self._bound:
            self._hold(pod)  # it began and ended while nobody looked
        self._finished.add(request.uid)
        self._drop(request.uid)
        self.learned += pod.state.succeeded
        self.state.finish(request.uid, pod.state.started_s, pod.state.finished_s, succeeded=pod.state.succeeded)

    def _forget(self, uid: str) -> None:
        self._versions.pop(uid, None)
        self._finished.discard(uid)
        self._drop(uid)
        self.state.remove(uid)

    def _drop(self, uid: str) -> None:
        self._bound.pop(uid, None)
        self._waiting.pop(uid, None)
        self._nominated.pop(uid, None)

    # --- from requests

    def ask(self, request: PodRequest) -> None:
        """A scheduler looks for a node for this pod: it is nowhere now, whatever was assumed before."""
        uid = request.uid
        if uid in self._bound or uid in self._finished:  # an old request, sent again
            return
        self._nominated.pop(uid, None)
        self.state.remove(uid)
        self.state.queue(request)

    def unclaimed(self, request: PodRequest, view: ClusterView, rows: Rows) -> Rows:
        """Those of the candidate `rows` where the pod takes no room that is held for another; all if there are none.

        A scheduler does not see what another one's preemption made room for, so such a node may well be a candidate.
        As in kube-scheduler, a pod holds room against those that are not more important.
        """
        held = {self.state.node_of(uid) for uid, priority in self._nominated.items() if priority >= request.priority}
        claimed = [view.nodes.row[node] for node in held if node]
        if not claimed:
            return rows
        fits = ~np.isin(rows, claimed) | has_room(request, view.nodes, rows)
        return rows[fits] if fits.any() else rows

    def settle(self, request: PodRequest, node: str, expires_s: float) -> bool:
        """Charge `node` for the pod until its binding is seen or `expires_s`; an empty name leaves it waiting.

        Returns whether the node was charged.
        """
        uid = request.uid
        if uid in self._bound or uid in self._finished:
            return False
        if node in self._nodes:
            self.state.place(request, node, expires_s=expires_s)
            return True
        if uid not in self._waiting:  # no watch has shown it, so none would take it off the queue
            self.state.remove(uid)
        return False

    def expire(self, now_s: float) -> None:
        """Give up assumptions that time has overtaken; their pods wait again."""
        gone = self.state.expire(now_s)
        self.expired += gone
        if gone:
            for request in self._waiting.values():
                self.state.queue(request)  # does nothing for those that are somewhere


def without_claims(request: PodRequest, spec: dict[str, Any]) -> PodRequest:
    """The request, marked as pinned if the pod mounts a claim by name.

    Claims are not watched, so an unbound one, whose zone our choice would pin, cannot be told from a bound one.
    """
    claims = any("persistentVolumeClaim" in volume for volume in spec.get("volumes") or ())
    return replace(request, pinned=True) if claims and not request.pinned else request
