"""HEFT and PEFT: which pod of a DAG comes first, and where. Baselines that know the whole DAG, as no extender does.

HEFT (Topcuoglu, Hariri, Wu 2002): by upward rank, the longest way to the end of the job; to the node of the earliest
finish. PEFT (Arabnejad, Barbosa 2014): by the mean of the optimistic cost table, to the node with the least sum of
finish time and optimistic cost. Both plan a DAG as it arrives and know nothing of the next: jobs go by arrival, pods of
a job by rank. Here rank is pod priority, which kube-scheduler's queue goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nodewise import __version__
from nodewise.core.raw import raw
from nodewise.core.types import ClusterView, Floats, PodRequest, Rows, Scores
from nodewise.policies.timed import EARLIEST_FINISH_TIME
from nodewise_simulator.engine import Outcome
from nodewise_simulator.fates import Fates, fates
from nodewise_simulator.world import SimPod, World

Children = Sequence[Sequence[tuple[int, float]]]
"""Of each task those that wait for it, and what handing over costs between two processors [s]."""


def children_of(world: World) -> Children:
    """Who waits for whom, with the network's cost between nodes of a zone."""
    net = world.network
    made: list[list[tuple[int, float]]] = [[] for _ in world.pods]
    for index, pod in enumerate(world.pods):
        for parent in pod.parents:
            cost_s = net.latency_s + world.pods[parent].output_bytes / net.bytes_per_s
            made[parent].append((index, cost_s))
    return made


def upward_rank(run_s: Floats, children: Children) -> Floats:
    """Longest way to the end [T], s: the mean of `run_s` [T, K], and the most of handing over and rank of a child."""
    rank: Floats = run_s.mean(axis=1)
    for task in _leaves_first(children):
        rank[task] += max((cost_s + rank[child] for child, cost_s in children[task]), default=0.0)
    return rank


def optimistic_cost(run_s: Floats, children: Children) -> Floats:
    """Least time from a task's end to the end of its job, if it ran on processor k [T, K]; all processors are free.

    OCT(t, p) = max over children c of min over q of OCT(c, q) + run(c, q) + (cost of handing over if q is not p).
    """
    table = np.zeros_like(run_s)
    for task in _leaves_first(children):
        for child, cost_s in children[task]:
            ahead = table[child] + run_s[child]
            table[task] = np.maximum(table[task], np.minimum(ahead, ahead.min() + cost_s))
    return table


def believed_run_s(world: World) -> Floats:
    """What pods tell of their run time, alike on all nodes [P, N]; one that tells nothing is the mean of the others."""
    told = np.array([pod.request.expected_run_s for pod in world.pods])
    usual = float(np.nanmean(told)) if np.isfinite(told).any() else 1.0
    return np.repeat(np.where(np.isnan(told), usual, told)[:, None], len(world.nodes), axis=1)


def true_run_s(world: World) -> Floats:
    """Run time alone on each node [P, N]."""
    table = np.stack([pod.true_run_s for pod in world.pods])
    return table[:, [world.class_of[node.node_class] for node in world.nodes]]


def job_of(world: World) -> Rows:
    """Number of each pod's job [P], by arrival: pods of one owner, or that wait for one another, are one job."""
    job = np.arange(len(world.pods))

    def root(index: int) -> int:
        while job[index] != index:
            job[index] = job[job[index]]
            index = int(job[index])
        return index

    owned: dict[str, int] = {}
    for index, pod in enumerate(world.pods):
        for other in (*pod.parents, owned.setdefault(pod.request.owner or pod.request.uid, index)):
            a, b = sorted((root(index), root(other)))
            job[b] = a
    roots = np.array([root(index) for index in range(len(job))])
    return np.asarray(np.unique(roots, return_inverse=True)[1])


def ranked(world: World, rank: Floats) -> World:
    """The same world with pod priorities by job, first come first, and within a job by rank [P], highest first."""
    job = job_of(world)
    order = np.lexsort((-np.arange(len(rank)), rank, -job))  # the last is served first
    priority = np.empty(len(rank), np.int64)
    priority[order] = np.arange(len(rank))
    return replace(world, pods=tuple(_at(pod, int(value)) for pod, value in zip(world.pods, priority, strict=True)))


@dataclass(frozen=True, slots=True)
class DagPolicy:
    """Earliest believed finish, plus what is left of the job from there if `cost` [P, N] says it."""

    name: str
    row: dict[str, int]
    """Position of each pod by uid."""
    column: dict[str, int]
    """Position of each node by name."""
    cost: Floats

    @property
    def digest(self) -> str:
        """It changes only with Nodewise itself."""
        return f"{self.name}@{__version__}"

    def score(self, pod: PodRequest, view: ClusterView, rows: Rows) -> Scores:
        """Score of each candidate row [M]."""
        values = raw(pod, view, rows)
        finish_s = -EARLIEST_FINISH_TIME.fn(values.node, values.pod, values.pair)
        index = self.row.get(pod.uid, self.row.get(pod.uid.rpartition("-")[0], 0))  # a pod made for one that was lost
        left_s = self.cost[index, [self.column[view.nodes.name[row]] for row in rows]]
        return np.asarray(-(finish_s + left_s), np.float32)


def heft(world: World, *, oracle: bool = False) -> tuple[World, DagPolicy]:
    """HEFT: jobs as they come, pods by the longest way to the end of their job, to the node of the earliest finish.

    The world in that order, and who places. `oracle`: ranks by true run times, not by what is told.
    """
    run_s = true_run_s(world) if oracle else believed_run_s(world)
    return ranked(world, upward_rank(run_s, children_of(world))), _policy("heft", world, np.zeros_like(run_s))


def peft(world: World, *, oracle: bool = False) -> tuple[World, DagPolicy]:
    """PEFT: as heft, by its optimistic cost table, to the least sum of finish time and optimistic cost.

    Without a network its table is alike for all nodes: then only the order differs.
    """
    run_s = true_run_s(world) if oracle else believed_run_s(world)
    table = optimistic_cost(run_s, children_of(world))
    return ranked(world, table.mean(axis=1)), _policy("peft", world, table)


PLANS: Mapping[str, Callable[..., tuple[World, DagPolicy]]] = {"heft": heft, "peft": peft}
"""What has to see a world before it is played."""


def job_metrics(world: World, outcomes: Sequence[Outcome] | Fates) -> dict[str, float]:
    """Completion of whole jobs whose first pod is counted: mean and p95 [s], and ÷ the critical path at best [1].

    Jobs that did not end are left out; `jobs_unfinished` says how many.
    """
    job, run_s = job_of(world), true_run_s(world).min(axis=1)
    way_s = upward_rank(run_s[:, None], children_of(world))
    ends = fates(world, outcomes).finished_s
    begins = np.array([pod.request.created_s for pod in world.pods])
    took, slow, unfinished = [], [], 0
    rows_of: list[list[int]] = [[] for _ in range(int(job.max()) + 1)]
    for index, number in enumerate(job):
        rows_of[number].append(index)
    for rows in rows_of:
        if rows[0] < world.warm:
            continue
        end_s = float(ends[rows].max())
        if np.isnan(end_s):
            unfinished += 1
            continue
        took.append(end_s - float(begins[rows].min()))
        slow.append(took[-1] / float(way_s[rows].max()))
    if not took:
        return {"jobs_unfinished": float(unfinished)}
    return {
        "job_completion_mean": float(np.mean(took)),
        "job_completion_p95": float(np.percentile(took, 95)),
        "job_slowdown_mean": float(np.mean(slow)),
        "jobs_unfinished": float(unfinished),
    }


def _leaves_first(children: Children) -> list[int]:
    """Every task after all that wait for it. Raises ValueError if tasks wait in a circle."""
    left = [len(found) for found in children]
    parents: list[list[int]] = [[] for _ in children]
    for task, found in enumerate(children):
        for child, _ in found:
            parents[child].append(task)
    order = [task for task, count in enumerate(left) if count == 0]
    for task in order:  # grows as it goes
        for parent in parents[task]:
            left[parent] -= 1
            if left[parent] == 0:
                order.append(parent)
    if len(order) < len(children):
        raise ValueError("tasks wait for one another in a circle")
    return order


def _policy(name: str, world: World, cost: Floats) -> DagPolicy:
    rows = {pod.request.uid: k for k, pod in enumerate(world.pods)}
    return DagPolicy(name, rows, {node.name: k for k, node in enumerate(world.nodes)}, cost)


def _at(pod: SimPod, priority: int) -> SimPod:
    spec = {**pod.manifest["spec"], "priority": priority}
    return replace(pod, manifest={**pod.manifest, "spec": spec}, request=replace(pod.request, priority=priority))
