"""Who decides in training: `economic` with weights of its terms, or a scorer, its best or a draw; all is recorded."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nodewise.policies.economic import TERMS
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, loop, view
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.credit import charge_displaced
from nodewise_simulator.compiled.fuse import OVERLOADS, Kernel, fuse, inlined, of_scope, priced, spliced
from nodewise_simulator.compiled.kept import kept
from nodewise_simulator.scorer import score

_KERNEL = """# Written by nodewise_simulator.compiled.play; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.compiled.play import linked

play = linked({names!r})


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, policy, record, until):
    play(flat, state, policy, record, until, True)
"""


@cache
def player(names: tuple[str, ...]) -> Kernel:
    """`kernel(flat, state, policy, record, until)`: plays a world with a scorer that sees the named columns.

    Compiled on its first call, or taken from disk.
    """
    kernel: Kernel = kept(_KERNEL.format(names=names), linked(names), OVERLOADS).kernel
    return kernel


@inlined
def _copy(source: Any, target: Any) -> None:
    for k in range(len(source)):
        target[k] = source[k]


@cache
def linked(names: tuple[str, ...]) -> Kernel:
    """The kernel of `player`, not kept."""
    write_node, write_pod, write_cluster = (fuse(of_scope(names, scope)) for scope in ("node", "pod", "cluster"))
    write_pair = priced(of_scope(names, "pair"), TERMS)

    @spliced
    def pick(flat: Any, state: Any, desk: Any, policy: Any, record: Any, until: int, p: int, now_s: float) -> Any:
        pod_f, pod_i, true_s, node_f, names, masks, settings, described, stakes = flat
        node, node_i, slot_i, slot_f, pod, _, _, queued, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        resident, _, totals, in_row, in_column, present, _, _ = desk[:8]
        mode, term_weights, weights, sizes, low_n, high_n, low_r, high_r, low_q, high_q = policy[:10]
        sharpness, uniforms, charge, rows, see_n, see_r, see_q, by_rule, by_net = policy[10:]
        rec_node, rec_pair, rec_request, rec_i, rec_f, record_from = record
        m = cycle.sample(pod_f, pod_i, masks, node, number, p, rows)
        if m == 0:
            return -1
        chosen = 0
        if m > 1:  # a single feasible node is taken without asking
            number[kn.ASKED] += 1
            if number[kn.STALE]:
                bl.renew(
                    settings, described, cells, row_factor, col_factor, row_var, col_var,
                    in_row, in_column,
                )  # fmt: skip
                number[kn.STALE] = 0
            asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
            best_s = view.best_run_s(pod_f, pod_i, settings, cells, present, p)
            for k in range(m):
                row = rows[k]
                c, count = node_i[kn.CLASS, row], node_i[kn.COUNT, row]
                dk.tell_time(settings, node, resident, cells, count, c, row, now_s)
                of_owner = dk.of_owner(resident, count, pod_i[p, kn.OWNER], row)
                there = view.of_node(node, row)
                both = view.of_pair(pod_f, pod_i, settings, cells, p, c, best_s, of_owner)
                write_node(see_n[k], 0, there)
                by_rule[k] = -write_pair(see_r[k], 0, term_weights, there, asking, both)
            chosen = cycle.best(by_rule, rows, m, pod_i[p, kn.CRC], names)
            if mode != kn.RULE:
                told = write_pod(see_q, 0, asking)
                write_cluster(see_q, told, dk.of_cluster(node.shape[1], totals, queued))
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
                        for k in range(m):
                            _copy(see_n[k], rec_node[at_record, k])
                            _copy(see_r[k], rec_pair[at_record, k])
                        _copy(see_q, rec_request[at_record])
                        rec_i[at_record, 0], rec_i[at_record, 1], rec_i[at_record, 2] = p, m, chosen
                        rec_f[at_record] = logp
                        number[kn.RECORDED] += 1
        row = rows[chosen]
        if charge:
            w, c = pod_i[p, kn.WORKLOAD], node_i[kn.CLASS, row]
            charge_displaced(
                pod_f, pod_i, true_s, node_f, node_i, masks, node, slot_i, slot_f, pod, p,
                row, now_s,
            )  # fmt: skip
            pod[p, kn.TAUGHT] = stakes[bl.VOLUME, w, 0] * bl.knowledge_gradient(cells, stakes, w, c)
        return row

    return loop.looped(pick, credit=True)
