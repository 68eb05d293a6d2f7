"""Servers that each serve what they were sent, first come, first served: every dispatcher here is one weighted sum.

A task is sent, when it arrives, to the server with the least `weight × wait + key`, where the wait is the seconds of
work still in front of it there. Earliest finish has weight 1 and the service time as its key; a rule without regard to
waits has weight 0; a server that a rule never takes has key infinity.
"""

from __future__ import annotations

import heapq

import numpy as np

from nodewise.core.types import Floats

WEIGHTS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
"""The family `weight × wait + service` that `tuned-index` is chosen from."""

TRAINING_SEEDS = (900_001, 900_002, 900_003, 900_004, 900_005, 900_006)
"""Traces on which weights are chosen; results are told for other seeds."""


def serve(arrival_s: Floats, service_s: Floats, key: Floats, weights: Floats) -> Floats:
    """Response time of every task, [N, L], for L weights at once.

    Shapes: arrival_s [N], not decreasing; service_s and key [N, S]; weights [L, S] or [L, 1]. Ties go to the first
    server.
    """
    from nodewise_simulator.sources.kernels import dispatch

    every = np.broadcast_to(weights, (len(weights), service_s.shape[1]))
    return np.asarray(dispatch(*(np.array(a, float, order="C") for a in (arrival_s, service_s, key, every))))


def serve_shortest_queue(arrival_s: Floats, service_s: Floats) -> Floats:
    """Response times, [N], if a task joins the server with the fewest tasks; ties go to the first server."""
    from nodewise_simulator.sources.kernels import join_shortest

    return np.asarray(join_shortest(*(np.array(a, float, order="C") for a in (arrival_s, service_s))))


def pooled_srpt(arrival_s: Floats, work: Floats, speed: float) -> Floats:
    """Response times, [N], of one server as fast as all together that always serves the least remaining work.

    Shortest-remaining-processing-time is optimal for the mean on one server (Schrage 1968), and one server can imitate
    any schedule of the single ones, so that its mean bounds theirs from below.
    """
    response_s, waiting, now_s, k = np.empty(len(work)), list[tuple[float, int]](), 0.0, 0
    arrivals, works = arrival_s.tolist(), work.tolist()
    while k < len(arrivals) or waiting:
        if not waiting:
            now_s = max(now_s, arrivals[k])
        while k < len(arrivals) and arrivals[k] <= now_s:
            heapq.heappush(waiting, (works[k], k))
            k += 1
        left, task = waiting[0]
        end_s = now_s + left / speed
        if k < len(arrivals) and arrivals[k] < end_s:
            heapq.heapreplace(waiting, (left - (arrivals[k] - now_s) * speed, task))
            now_s = arrivals[k]
        else:
            heapq.heappop(waiting)
            response_s[task], now_s = end_s - arrivals[task], end_s
    return response_s
