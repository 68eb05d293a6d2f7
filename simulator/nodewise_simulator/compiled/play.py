"""The compiled engine's loop: `nodewise_simulator.engine`, for immediate binding.

The reference engine is its oracle: a test plays random worlds through both and finds the same node for every pod.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nodewise.policies.economic import TERMS
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, nodes, view
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.credit import charge_displaced
from nodewise_simulator.compiled.fuse import OVERLOADS, Kernel, fuse, jit, of_scope, priced
from nodewise_simulator.compiled.kept import kept
from nodewise_simulator.scorer import score

_KERNEL = """# Written by nodewise_simulator.compiled.play; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.compiled.play import linked

play = linked({names!r})


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, policy, record, until):
    play(flat, state, policy, record, until)
"""


@cache
def player(names: tuple[str, ...]) -> Kernel:
    """`kernel(flat, state, policy, record, until)`: plays a world with a scorer that sees the named columns.

    Compiled on its first call, or taken from disk.
    """
    kernel: Kernel = kept(_KERNEL.format(names=names), linked(names), OVERLOADS).kernel
    return kernel


@cache
def linked(names: tuple[str, ...]) -> Kernel:
    """The kernel of `player`, not kept."""
    write_node, write_pod, write_cluster = (fuse(of_scope(names, scope)) for scope in ("node", "pod", "cluster"))
    write_pair = priced(of_scope(names, "pair"), TERMS)

    @jit
    def play(flat: Any, state: Any, policy: Any, record: Any, until: int) -> None:
        """Play on until all is over, or the pods before `until` have arrived."""
        pod_f, pod_i, true_s, node_f, node_class, names, masks, settings, delay_rate, described, stakes = flat
        node, slot_i, slot_f, count, counters, pod, pod_node, pending, queued, number = state[:10]
        cells, row_factor, col_factor, row_var, col_var = state[10:]
        mode, term_weights, weights, sizes, low_n, high_n, low_r, high_r, low_q, high_q = policy[:10]
        sharpness, uniforms, charge = policy[10:]
        rec_node, rec_pair, rec_request, rec_i, rec_f, record_from = record
        n, pods = len(node_f), len(pod_f)
        rows, ended = np.empty(n, np.int64), np.empty(slot_i.shape[2], np.int64)
        see_n, see_r = np.empty((n, len(low_n)), np.float32), np.empty((n, len(low_r)), np.float32)
        see_q = np.empty(len(low_q), np.float32)
        by_rule, by_net = np.empty(n, np.float32), np.empty(n, np.float32)
        freed = np.zeros(n, np.bool_)
        while True:
            arrival_s = pod_f[number[kn.NEXT], kn.CREATED] if number[kn.NEXT] < pods else np.inf
            end_s = np.inf
            for row in range(n):
                end_s = min(end_s, node[row, kn.NEXT_END])
            now_s = min(arrival_s, end_s)
            if now_s == np.inf or (arrival_s <= end_s and number[kn.NEXT] >= until):
                return
            any_freed = end_s == now_s
            freed[:] = False
            while True:  # pods that end now, in the order in which their ends were foreseen
                row = -1
                for k in range(n):
                    if node[k, kn.NEXT_END] == now_s and (row < 0 or counters[k] < counters[row]):
                        row = k
                if row < 0:
                    break
                freed[row] = True
                over = nodes.end(
                    pod_f, pod_i, node_f, delay_rate, node, slot_i, slot_f, count, counters, pod, number, row, now_s,
                    ended,
                )  # fmt: skip
                for k in range(over):
                    p = ended[k]
                    if pod_i[p, kn.TEACHES]:
                        run = (now_s - pod[p, kn.STARTED_S]) / pod_f[p, kn.SCALE]
                        bl.observe(settings, described, cells, row_factor, col_factor, row_var, col_var,
                                   pod_i[p, kn.WORKLOAD], node_class[row], run, pod[p, kn.SLOWDOWN])  # fmt: skip
                        number[kn.STALE] = 1
            fresh = number[kn.NEXT]
            while number[kn.NEXT] < pods and pod_f[number[kn.NEXT], kn.CREATED] == now_s:
                queued[pod_i[number[kn.NEXT], kn.SLA]] += 1.0
                cycle.enqueue(pod_i, pending, number)
            waiting, kept = number[kn.PENDING], 0
            for at in range(waiting):
                p = pending[at]
                m = 0
                if p >= fresh or (any_freed and cycle.could_fit(pod_f, pod_i, masks, node, freed, p)):
                    m = cycle.sample(pod_f, pod_i, masks, node, number, p, rows)
                if m == 0:
                    pending[kept] = p
                    kept += 1
                    continue
                chosen = 0
                if m > 1:  # a single feasible node is taken without asking
                    number[kn.ASKED] += 1
                    if number[kn.STALE]:
                        bl.tables(settings, described, cells, row_factor, col_factor, row_var, col_var)
                        number[kn.STALE] = 0
                    asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
                    best_s = view.best_run_s(pod_f, pod_i, settings, cells, node_class, p)
                    for k in range(m):
                        row = rows[k]
                        there, of_owner = view.of_node(
                            pod_f, pod_i, node_f, node_class, settings, delay_rate, node, slot_i, count, pod, cells, p,
                            row, now_s,
                        )  # fmt: skip
                        both = view.of_pair(pod_f, pod_i, settings, cells, p, node_class[row], best_s, of_owner)
                        write_node(see_n[k], 0, there)
                        by_rule[k] = -write_pair(see_r[k], 0, term_weights, there, asking, both)
                    chosen = cycle.best(by_rule, rows, m, pod_i[p, kn.CRC], names)
                    if mode != kn.RULE:
                        told = write_pod(see_q, 0, asking)
                        write_cluster(see_q, told, view.of_cluster(node_f, node, queued))
                        allowed = cycle.inside(see_q, low_q, high_q)
                        for k in range(m):
                            allowed &= cycle.inside(see_n[k], low_n, high_n) and cycle.inside(see_r[k], low_r, high_r)
                        if allowed:
                            score(weights, sizes, see_n[:m], see_r[:m], see_q, by_net[:m])
                            for k in range(m):
                                allowed &= np.isfinite(by_net[k])
                        number[kn.REFUSED] += not allowed
                        if allowed:
                            by_rules, logp = chosen, 0.0
                            if mode == kn.GREEDY:
                                chosen = cycle.best(by_net, rows, m, pod_i[p, kn.CRC], names)
                            else:
                                chosen, logp = cycle.draw(by_net, m, sharpness, uniforms[p])
                            number[kn.DEPARTED] += chosen != by_rules
                            at_record = number[kn.RECORDED]
                            if record_from <= p < until and at_record < len(rec_f):
                                rec_node[at_record, :m] = see_n[:m]
                                rec_pair[at_record, :m] = see_r[:m]
                                rec_request[at_record] = see_q
                                rec_i[at_record, 0], rec_i[at_record, 1], rec_i[at_record, 2] = p, m, chosen
                                rec_f[at_record] = logp
                                number[kn.RECORDED] += 1
                if charge:
                    charge_displaced(
                        pod_f, pod_i, true_s, node_f, node_class, masks, node, slot_i, slot_f, count, pod, p,
                        rows[chosen], now_s,
                    )  # fmt: skip
                nodes.start(
                    pod_f, pod_i, true_s, node_f, node_class, settings, delay_rate, node, slot_i, slot_f, count,
                    counters, pod, pod_node, number, p, rows[chosen], now_s,
                )  # fmt: skip
                queued[pod_i[p, kn.SLA]] -= 1.0
                if charge:
                    gained = bl.knowledge_gradient(cells, stakes, pod_i[p, kn.WORKLOAD], node_class[rows[chosen]])
                    pod[p, kn.TAUGHT] = stakes[bl.VOLUME, pod_i[p, kn.WORKLOAD], 0] * gained
            number[kn.PENDING] = kept

    return play
