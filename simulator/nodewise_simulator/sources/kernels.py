"""The loops over tasks of `servers`, compiled. Imported on first use: numba takes a second to load, and two to
compile them the first time.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from nodewise.core.types import Floats


@nb.njit("f8[:,::1](f8[::1], f8[:,::1], f8[:,::1], f8[:,::1])", error_model="numpy", nogil=True, cache=True)
def dispatch(arrival_s: Floats, service_s: Floats, key: Floats, weights: Floats) -> Floats:
    """Response times, [N, L]; see `servers.serve`, weights [L, S]."""
    tasks, servers = service_s.shape
    response_s = np.empty((tasks, len(weights)))
    for lane in range(len(weights)):
        free_s = np.zeros(servers)
        for k in range(tasks):
            now_s, chosen, best, taken_s = arrival_s[k], 0, np.inf, 0.0
            for s in range(servers):
                wait_s = max(free_s[s] - now_s, 0.0)
                value = weights[lane, s] * wait_s + key[k, s]
                if value < best:
                    chosen, best, taken_s = s, value, wait_s
            response_s[k, lane] = taken_s + service_s[k, chosen]
            free_s[chosen] = now_s + response_s[k, lane]
    return response_s


@nb.njit("f8[::1](f8[::1], f8[:,::1])", error_model="numpy", nogil=True, cache=True)
def join_shortest(arrival_s: Floats, service_s: Floats) -> Floats:
    """Response times, [N]; see `servers.serve_shortest_queue`."""
    tasks, servers = service_s.shape
    response_s = np.empty(tasks)
    end_s = np.empty((servers, tasks))  # of the tasks sent to each server, in order
    sent, done = np.zeros(servers, np.int64), np.zeros(servers, np.int64)
    for k in range(tasks):
        chosen = 0
        for s in range(servers):
            while done[s] < sent[s] and end_s[s, done[s]] <= arrival_s[k]:
                done[s] += 1
            if sent[s] - done[s] < sent[chosen] - done[chosen]:
                chosen = s
        begin_s = end_s[chosen, sent[chosen] - 1] if sent[chosen] > done[chosen] else arrival_s[k]
        end_s[chosen, sent[chosen]] = begin_s + service_s[k, chosen]
        response_s[k] = end_s[chosen, sent[chosen]] - arrival_s[k]
        sent[chosen] += 1
    return response_s
