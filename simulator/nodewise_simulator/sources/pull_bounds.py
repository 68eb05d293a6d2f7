"""Assignments of whole queues to nodes, and what no assignment can beat."""

from __future__ import annotations

import numpy as np

from nodewise.core.types import Floats

Assignment = np.ndarray[tuple[int], np.dtype[np.int64]]


def earliest_completion(told_s: Floats) -> Assignment:
    """Longest first, each to the node on which it ends first: [N] nodes. A node may be left idle for a faster one."""
    ends_s = np.zeros(told_s.shape[1])
    nodes = np.zeros(len(told_s), np.int64)
    for task in np.argsort(-told_s.mean(axis=1), kind="stable"):
        node = int((ends_s + told_s[task]).argmin())
        ends_s[node] += told_s[task, node]
        nodes[task] = node
    return nodes


def makespan(time_s: Floats, nodes: Assignment) -> float:
    """Seconds until all tasks are done on the nodes that they are assigned to."""
    return float(np.bincount(nodes, time_s[np.arange(len(nodes)), nodes], minlength=time_s.shape[1]).max())


def prefix_bound(base_s: Floats, slowness: Floats) -> float:
    """Makespan below which nothing gets on nodes of separable speed.

    The k largest tasks keep at most k nodes busy, so the k fastest do not do them sooner than their sum ÷ their speed;
    and all nodes do not do all tasks sooner than that.
    """
    tasks, speeds = np.sort(base_s)[::-1], np.sort(1.0 / slowness)[::-1]
    most = min(len(tasks), len(speeds))
    sums = np.cumsum(tasks)[:most] / np.cumsum(speeds)[:most]
    return float(max(sums.max(), tasks.sum() / speeds.sum()))


def mixed_integer(time_s: Floats, limit_s: float) -> tuple[Assignment, float]:
    """The best assignment that HiGHS finds within its time, and what it proves that none is below.

    It looks only below `earliest_completion`, which stands where it finds nothing.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]

    tasks, nodes = time_s.shape
    known = earliest_completion(time_s)
    cost, once, load = _programme(time_s)
    whole = np.append(np.ones(tasks * nodes), 0)
    most = np.append(np.ones(tasks * nodes), makespan(time_s, known))
    constraints = [LinearConstraint(once, 1, 1), LinearConstraint(load, -np.inf, 0)]
    found = milp(
        cost, constraints=constraints, integrality=whole, bounds=Bounds(0, most), options={"time_limit": limit_s}
    )
    if found.x is None:
        return known, linear_bound(time_s)
    return found.x[:-1].reshape(tasks, nodes).argmax(axis=1), float(found.mip_dual_bound)


def linear_bound(time_s: Floats) -> float:
    """The same for any nodes, also where speed goes by type.

    Tasks may be cut, but no part of one goes where the whole would end after the bound (Lenstra, Shmoys and Tardos
    1990): the least T for which the linear programme without those pairs stays within T.
    """
    steps = np.unique(time_s[time_s >= time_s.min(axis=1).max()])
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if _relaxed(time_s, float(steps[middle])) <= steps[middle + 1]:
            high = middle
        else:
            low = middle + 1
    return max(_relaxed(time_s, float(steps[low])), float(steps[low]))


def _relaxed(time_s: Floats, most_s: float) -> float:
    """Makespan of the linear programme, if no task goes where it takes longer than `most_s`."""
    from scipy.optimize import linprog

    cost, once, load = _programme(time_s)
    limits = np.column_stack([np.zeros(len(cost)), np.append((time_s.ravel() <= most_s).astype(float), np.inf)])
    found = linprog(cost, A_ub=load, b_ub=np.zeros(len(load)), A_eq=once, b_eq=np.ones(len(once)), bounds=limits)
    return float(found.fun)


def _programme(time_s: Floats) -> tuple[Floats, Floats, Floats]:
    """Cost, "each task once" [N, N·9 + 1] and "no node above the makespan" [9, N·9 + 1]; the makespan is last."""
    tasks, nodes = time_s.shape
    once, load = np.zeros((tasks, tasks * nodes + 1)), np.zeros((nodes, tasks * nodes + 1))
    for task in range(tasks):
        once[task, task * nodes : (task + 1) * nodes] = 1.0
        load[np.arange(nodes), task * nodes + np.arange(nodes)] = time_s[task]
    load[:, -1] = -1.0
    return np.append(np.zeros(tasks * nodes), 1.0), once, load
