"""The engine and kube-scheduler's cycle in numba: `nodewise_simulator.engine`, `.scheduler` and `nodewise.core.state`
once more, over flat arrays, for immediate binding. The reference engine is its oracle: a test plays random worlds
through both and finds the same node for every pod.

Arrays are those of `flat.Flat` (read) and `state.State` (written); indices are named here because numba wants plain
integers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nodewise.core.raw import Cluster, Node, Pair, Pod
from nodewise.core.table import OVERDUE
from nodewise.policies.economic import TERMS
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled.fuse import Kernel, fuse, jit, of_scope, weighted_sum
from nodewise_simulator.scheduler import MIN_FEASIBLE
from nodewise_simulator.scorer import score
from nodewise_simulator.world import QUANTUM_S

# Flat.pod_f
CREATED, DEADLINE, CPU, CPU_NZ, MEM, MEM_NZ, GPU, EXPECTED, SCALE, SENSITIVITY, DELAY, LATE, LOSS, NOISE, FACTOR = range(15)
# Flat.pod_i
SLA, PRIORITY, WORKLOAD, ENDS, TEACHES, OWNER, RANK, CRC, MASK = range(9)
# Flat.node_f
CPU_ROOM, MEM_ROOM, GPU_ROOM, POD_ROOM, PRICE, IDLE, PEAK = range(7)
# Flat.settings, after those of the estimator
CONTENTION, HORIZON, ENERGY = range(9, 12)
# State.node
FREE, SUMS, PRESSURE, RATE, BY_SLA, UPDATED, NEXT_END = 0, 4, 9, 10, 11, 14, 15
NODE_WIDTH = 16
# State.slot_i: which pods run (in order of start), which are resident (in order of uid)
RUNNING, RESIDENT = range(2)
# State.slot_f
LEFT, SPEED, HURT = range(3)
# State.pod
BOUND_S, STARTED_S, FINISHED_S, SLOWDOWN, HARM = range(5)
# State.number
NEXT, PENDING, COUNTER, START, STALE, ASKED, DEPARTED, REFUSED, RECORDED = range(9)
NUMBERS = 9

LEAST_NOISE = 0.05
"""Sigma of a pod that has no noise of its own, so that the price of its lateness has a slope to learn from."""
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

RULE, GREEDY, SAMPLE = range(3)
"""Who decides: a weighted sum of cost terms, the scorer's best, or a draw from its softmax."""


@jit
def advance_node(pod_f, node_f, node, slot_i, slot_f, count, pod, row, now_s):
    """Let what runs on a node run until now, and charge each pod with what it did to the others meanwhile.

    Without pod i, pod j of sensitivity s beside the share P would have gained s × (share of i) ÷ (1 + s × P) of the
    time that passed; HARM adds up what that was worth to all j, in cents.
    """
    passed_s = now_s - node[row, UPDATED]
    hurt = 0.0
    for j in range(count[row]):
        slot_f[LEFT, row, j] -= passed_s * slot_f[SPEED, row, j]
        hurt += slot_f[HURT, row, j]
    room = max(node_f[row, CPU_ROOM], 1.0)
    for j in range(count[row]):
        p = slot_i[RUNNING, row, j]
        pod[p, HARM] += passed_s * (pod_f[p, CPU] / room) * (hurt - slot_f[HURT, row, j])
    node[row, UPDATED] = now_s


@jit
def worth_of_a_second(pod_f, node_f, pod, p, row, now_s, left_s):
    """What a second of delay costs a running pod, in cents: delay, node-hours, and the chance of becoming late.

    Its own noise is hidden from everybody, and integrated out: the rest of its run is taken as log-normal about what
    was foreseeable.
    """
    worth = pod_f[p, DELAY]
    share = pod_f[p, CPU] / max(node_f[row, CPU_ROOM], 1.0)
    share = min(max(share, pod_f[p, MEM] / max(node_f[row, MEM_ROOM], 1.0)), 1.0)
    worth += share * node_f[row, PRICE] * (100.0 / 3600.0)
    if pod_f[p, DEADLINE] < np.inf:
        median_s = max((now_s - pod[p, STARTED_S] + left_s) / pod_f[p, FACTOR], 1e-3)
        sigma = max(pod_f[p, NOISE], LEAST_NOISE)
        slack_s = max(pod_f[p, DEADLINE] - pod[p, STARTED_S], 1e-3)
        z = (math.log(slack_s) - math.log(median_s)) / sigma
        worth += pod_f[p, LATE] * math.exp(-0.5 * z * z) * INV_SQRT_2PI / (sigma * median_s)
    return worth


@jit
def reschedule(pod_f, node_f, node, slot_i, slot_f, count, counters, pod, number, row, now_s):
    """New speeds after the set of pods on a node changed, and when the next of them ends."""
    number[COUNTER] += 1
    counters[row] = number[COUNTER]
    if count[row] == 0:
        node[row, NEXT_END] = np.inf
        return
    requested = 0.0
    for j in range(count[row]):
        requested += pod_f[slot_i[RUNNING, row, j], CPU]
    room = max(node_f[row, CPU_ROOM], 1.0)
    next_s = np.inf
    for j in range(count[row]):
        p = slot_i[RUNNING, row, j]
        speed = 1.0 / (1.0 + pod_f[p, SENSITIVITY] * ((requested - pod_f[p, CPU]) / room))
        slot_f[SPEED, row, j] = speed
        left_s = slot_f[LEFT, row, j] / speed
        next_s = min(next_s, left_s)
        worth = worth_of_a_second(pod_f, node_f, pod, p, row, now_s, left_s)
        slot_f[HURT, row, j] = worth * pod_f[p, SENSITIVITY] * speed
    ticks = max(math.ceil(next_s / QUANTUM_S - 1e-9), 1)
    node[row, NEXT_END] = now_s + ticks * QUANTUM_S


@jit
def sum_residents(pod_f, pod_i, node_f, delay_rate, node, slot_i, count, row):
    """What is requested on a node and by whom, added up in order of uid."""
    for k in range(SUMS, UPDATED):
        node[row, k] = 0.0
    for j in range(count[row]):
        p = slot_i[RESIDENT, row, j]
        for k in range(5):
            node[row, SUMS + k] += pod_f[p, CPU + k]
        node[row, RATE] += delay_rate[pod_i[p, SLA]]
        node[row, BY_SLA + pod_i[p, SLA]] += 1.0
    node[row, PRESSURE] = node[row, SUMS] / max(node_f[row, CPU_ROOM], 1.0)


@jit
def take_room(pod_f, node, row, p, sign):
    """Take (-1) or give back (1) the pod's room."""
    node[row, FREE] += sign * pod_f[p, CPU]
    node[row, FREE + 1] += sign * pod_f[p, MEM]
    node[row, FREE + 2] += sign * pod_f[p, GPU]
    node[row, FREE + 3] += sign


@jit
def fits(pod_f, node, row, p):
    """Whether the pod's requests fit; what is not asked for is not looked at."""
    cpu, mem, gpu = pod_f[p, CPU], pod_f[p, MEM], pod_f[p, GPU]
    return (
        (node[row, FREE] >= cpu or cpu == 0.0)
        and (node[row, FREE + 1] >= mem or mem == 0.0)
        and (node[row, FREE + 2] >= gpu or gpu == 0.0)
        and node[row, FREE + 3] >= 1.0
    )


@jit
def bind(pod_f, pod_i, true_s, node_f, node_class, settings, delay_rate, node, slot_i, slot_f, count, counters, pod,
         pod_node, number, p, row, now_s):  # fmt: skip
    """Put a pod on a node, where it starts at once."""
    take_room(pod_f, node, row, p, -1.0)
    pod_node[p] = row
    pod[p, BOUND_S] = pod[p, STARTED_S] = now_s
    pod[p, SLOWDOWN] = 1.0 + settings[CONTENTION] * node[row, PRESSURE]
    pod[p, HARM] = 0.0
    advance_node(pod_f, node_f, node, slot_i, slot_f, count, pod, row, now_s)
    last = count[row]
    slot_i[RUNNING, row, last] = p
    slot_f[LEFT, row, last] = true_s[p, node_class[row]]
    at = last
    while at > 0 and pod_i[slot_i[RESIDENT, row, at - 1], RANK] > pod_i[p, RANK]:
        slot_i[RESIDENT, row, at] = slot_i[RESIDENT, row, at - 1]
        at -= 1
    slot_i[RESIDENT, row, at] = p
    count[row] = last + 1
    sum_residents(pod_f, pod_i, node_f, delay_rate, node, slot_i, count, row)
    reschedule(pod_f, node_f, node, slot_i, slot_f, count, counters, pod, number, row, now_s)


@jit
def leave(slot_i, count, row, p):
    """Take a pod out of the residents of a node; `count` still counts it."""
    at = 0
    while slot_i[RESIDENT, row, at] != p:
        at += 1
    for j in range(at, count[row] - 1):
        slot_i[RESIDENT, row, j] = slot_i[RESIDENT, row, j + 1]


@jit
def tie_break(crc, name):
    """zlib.crc32 continued over a zero-terminated name, then as `nodewise.core.reply.tie_break`."""
    c = (crc ^ 0xFFFFFFFF) & 0xFFFFFFFF
    for byte in name:
        if byte == 0:
            break
        c ^= np.int64(byte)
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
    return ((c ^ 0xFFFFFFFF) * 0x9E3779B1) & 0xFFFFFFFF


@jit
def best(scores, rows, m, crc, names):
    """Index of the winner among m candidates; ties as `nodewise.core.reply.best`."""
    top = 0
    tied = False
    for k in range(1, m):
        if scores[k] > scores[top]:
            top, tied = k, False
        elif scores[k] == scores[top]:
            tied = True
    if not tied:
        return top
    highest = scores[top]
    least = np.int64(1) << 40
    for k in range(m):
        if scores[k] == highest:
            value = tie_break(crc, names[rows[k]])
            if value < least:
                top, least = k, value
    return top


@jit
def draw(scores, m, sharpness, u):
    """Index drawn from softmax(sharpness × score) by the uniform u, and the log of its probability."""
    highest = scores[0]
    for k in range(1, m):
        highest = max(highest, scores[k])
    total = 0.0
    for k in range(m):
        total += math.exp(sharpness * (np.float64(scores[k]) - highest))
    wanted, so_far, chosen = u * total, 0.0, m - 1
    for k in range(m):
        so_far += math.exp(sharpness * (np.float64(scores[k]) - highest))
        if so_far > wanted:
            chosen = k
            break
    return chosen, sharpness * (np.float64(scores[chosen]) - highest) - math.log(total)


@jit
def sample(pod_i, masks, pod_f, node, number, p, rows):
    """Rows of the feasible nodes that kube-scheduler scores, in order, into `rows`; returns how many."""
    n = len(rows)
    wanted = n if n < MIN_FEASIBLE else max(n * max(50 - n // 125, 5) // 100, MIN_FEASIBLE)
    start, found, last = number[START], 0, 0
    for k in range(n):
        row = (start + k) % n
        if masks[pod_i[p, MASK], row] and fits(pod_f, node, row, p):
            if found == wanted:
                number[START] = (last + 1) % n
                break
            rows[found] = row
            found += 1
            last = row
    rows[:found].sort()
    return found


def player(names: tuple[str, ...]) -> Kernel:
    """The kernel that plays a world with a scorer that sees the columns `names`; compiled on its first call."""
    names_n, names_r = of_scope(names, "node"), of_scope(names, "pair")
    names_p, names_c = of_scope(names, "pod"), of_scope(names, "cluster")
    write_node, write_pair, write_pod, write_cluster = fuse(names_n), fuse(names_r), fuse(names_p), fuse(names_c)
    pods_first = len(names_p)
    cost_of = weighted_sum(TERMS)

    @jit
    def play(flat: Any, state: Any, policy: Any, record: Any, until: int) -> None:
        (pod_f, pod_i, true_s, node_f, node_class, names, masks, settings, delay_rate, described) = flat
        (node, slot_i, slot_f, count, counters, pod, pod_node, pending, queued, number, cells, row_factor, col_factor,
         row_var, col_var) = state
        mode, term_weights, weights, sizes, low_n, high_n, low_r, high_r, low_q, high_q, sharpness, uniforms = policy
        rec_node, rec_pair, rec_request, rec_i, rec_f, record_from = record
        n, pods = len(node_f), len(pod_f)
        rows = np.empty(n, np.int64)
        see_n = np.empty((n, low_n.shape[0]), np.float32)
        see_r = np.empty((n, low_r.shape[0]), np.float32)
        see_q = np.empty(low_q.shape[0], np.float32)
        by_rule = np.empty(n, np.float32)
        by_net = np.empty(n, np.float32)
        freed = np.zeros(n, np.bool_)
        room_cpu, room_mem, room_gpu = node_f[:, CPU_ROOM].sum(), node_f[:, MEM_ROOM].sum(), node_f[:, GPU_ROOM].sum()
        while True:
            arrival_s = pod_f[number[NEXT], CREATED] if number[NEXT] < pods else np.inf
            end_s = np.inf
            for row in range(n):
                end_s = min(end_s, node[row, NEXT_END])
            now_s = min(arrival_s, end_s)
            if now_s == np.inf or (arrival_s <= end_s and number[NEXT] >= until):
                return
            any_freed = False
            freed[:] = False
            while True:  # pods that end now, in the order in which their ends were foreseen
                row = -1
                for k in range(n):
                    if node[k, NEXT_END] == now_s and (row < 0 or counters[k] < counters[row]):
                        row = k
                if row < 0:
                    break
                any_freed, freed[row] = True, True
                advance_node(pod_f, node_f, node, slot_i, slot_f, count, pod, row, now_s)
                kept, was = 0, count[row]
                for j in range(was):
                    p = slot_i[RUNNING, row, j]
                    if slot_f[LEFT, row, j] <= 1e-9 * max(1.0, now_s):
                        pod[p, FINISHED_S] = now_s
                        take_room(pod_f, node, row, p, 1.0)
                        leave(slot_i, count, row, p)
                        count[row] -= 1
                        if pod_i[p, TEACHES]:
                            run = (now_s - pod[p, STARTED_S]) / pod_f[p, SCALE]
                            bl.observe(settings, described, cells, row_factor, col_factor, row_var, col_var,
                                       pod_i[p, WORKLOAD], node_class[row], run, pod[p, SLOWDOWN])  # fmt: skip
                            number[STALE] = 1
                    else:
                        slot_i[RUNNING, row, kept], slot_f[LEFT, row, kept] = p, slot_f[LEFT, row, j]
                        slot_f[SPEED, row, kept], slot_f[HURT, row, kept] = slot_f[SPEED, row, j], slot_f[HURT, row, j]
                        kept += 1
                sum_residents(pod_f, pod_i, node_f, delay_rate, node, slot_i, count, row)
                reschedule(pod_f, node_f, node, slot_i, slot_f, count, counters, pod, number, row, now_s)
            fresh = number[NEXT]
            while number[NEXT] < pods and pod_f[number[NEXT], CREATED] == now_s:
                p = number[NEXT]
                at = number[PENDING]
                while at > 0 and pod_i[pending[at - 1], PRIORITY] < pod_i[p, PRIORITY]:
                    pending[at] = pending[at - 1]
                    at -= 1
                pending[at] = p
                number[PENDING] += 1
                queued[pod_i[p, SLA]] += 1.0
                number[NEXT] += 1
            waiting, kept = number[PENDING], 0
            for at in range(waiting):
                p = pending[at]
                wake = p >= fresh
                if not wake and any_freed:
                    for row in range(n):
                        if freed[row] and masks[pod_i[p, MASK], row] and fits(pod_f, node, row, p):
                            wake = True
                            break
                m = sample(pod_i, masks, pod_f, node, number, p, rows) if wake else 0
                if m == 0:
                    pending[kept] = p
                    kept += 1
                    continue
                chosen = 0
                if m > 1:
                    # --- what `ClusterState.view` and `raw` would show ---
                    if number[STALE]:
                        bl.tables(settings, described, cells, row_factor, col_factor, row_var, col_var)
                        number[STALE] = 0
                    w, ends, scale = pod_i[p, WORKLOAD], pod_i[p, ENDS] > 0, pod_f[p, SCALE]
                    best_s = np.inf
                    for row in range(n):
                        c = node_class[row]
                        best_s = min(best_s, cells[bl.MEAN, w, c] * scale if ends else settings[HORIZON])
                    its = Pod(
                        pod_f[p, CPU], pod_f[p, CPU_NZ], pod_f[p, MEM], pod_f[p, MEM_NZ], pod_f[p, GPU],
                        1.0 if pod_i[p, SLA] == 0 else 0.0, 1.0 if pod_i[p, SLA] == 1 else 0.0,
                        1.0 if pod_i[p, SLA] == 2 else 0.0, 1.0 if ends else 0.0, now_s - pod_f[p, CREATED],
                        pod_f[p, DEADLINE] - now_s, pod_f[p, EXPECTED], pod_f[p, DELAY], pod_f[p, LATE],
                        settings[CONTENTION], settings[ENERGY], pod_f[p, LOSS],
                    )  # fmt: skip
                    for k in range(m):
                        row = rows[k]
                        c = node_class[row]
                        work, longest, exposed, of_owner = 0.0, 0.0, 0.0, 0.0
                        for j in range(count[row]):
                            r = slot_i[RESIDENT, row, j]
                            left_s = settings[HORIZON]
                            if pod_i[r, ENDS] > 0:
                                mean_s = cells[bl.MEAN, pod_i[r, WORKLOAD], c] * pod_f[r, SCALE]
                                overdue_s = OVERDUE * cells[bl.STD, pod_i[r, WORKLOAD], c] * pod_f[r, SCALE]
                                left_s = max(mean_s - (now_s - pod[r, STARTED_S]), overdue_s)
                                work += left_s * pod_f[r, CPU]
                            longest = max(longest, left_s)
                            exposed += left_s * delay_rate[pod_i[r, SLA]]
                            of_owner += 1.0 if pod_i[p, OWNER] >= 0 and pod_i[p, OWNER] == pod_i[r, OWNER] else 0.0
                        there = Node(
                            node_f[row, CPU_ROOM], node[row, SUMS], node[row, SUMS + 1], np.nan, node_f[row, MEM_ROOM],
                            node[row, SUMS + 2], node[row, SUMS + 3], np.nan, node_f[row, GPU_ROOM],
                            node[row, SUMS + 4], work / max(node_f[row, CPU_ROOM], 1.0), longest, 0.0,
                            node[row, PRESSURE], node[row, RATE], exposed / max(node[row, RATE], 1e-12), np.inf,
                            node_f[row, PRICE], node_f[row, IDLE], node_f[row, PEAK], node[row, BY_SLA],
                            node[row, BY_SLA + 1], node[row, BY_SLA + 2],
                        )  # fmt: skip
                        both = Pair(
                            cells[bl.MEAN, w, c] * scale if ends else settings[HORIZON],
                            cells[bl.STD, w, c] * scale if ends else 0.0, best_s, cells[bl.COUNT, w, c], of_owner, 0.0,
                        )  # fmt: skip
                        by_rule[k] = -cost_of(0.0, term_weights, 0, there, its, both)
                        if mode != RULE:
                            write_node(see_n[k], 0, there)
                            write_pair(see_r[k], 0, there, its, both)
                    # --- the decision ---
                    number[ASKED] += 1
                    chosen = best(by_rule, rows, m, pod_i[p, CRC], names)
                    if mode != RULE:
                        cluster = Cluster(
                            np.float64(n), room_cpu, node[:, SUMS].sum(), room_mem, node[:, SUMS + 2].sum(), room_gpu,
                            node[:, SUMS + 4].sum(), queued[0], queued[1], queued[2],
                        )  # fmt: skip
                        write_pod(see_q, 0, its)
                        write_cluster(see_q, pods_first, cluster)
                        allowed = True
                        for k in range(m):
                            for j in range(see_n.shape[1]):
                                allowed &= low_n[j] <= see_n[k, j] <= high_n[j]
                            for j in range(see_r.shape[1]):
                                allowed &= low_r[j] <= see_r[k, j] <= high_r[j]
                        for j in range(see_q.shape[0]):
                            allowed &= low_q[j] <= see_q[j] <= high_q[j]
                        number[REFUSED] += not allowed
                        if allowed:
                            score(weights, sizes, see_n[:m], see_r[:m], see_q, by_net[:m])
                            by_rules, logp = chosen, 0.0
                            if mode == GREEDY:
                                chosen = best(by_net, rows, m, pod_i[p, CRC], names)
                            else:
                                chosen, logp = draw(by_net, m, sharpness, uniforms[p])
                            number[DEPARTED] += chosen != by_rules
                            at_record = number[RECORDED]
                            if record_from <= p < until and at_record < len(rec_f):
                                rec_node[at_record, :m] = see_n[:m]
                                rec_pair[at_record, :m] = see_r[:m]
                                rec_request[at_record] = see_q
                                rec_i[at_record, 0], rec_i[at_record, 1], rec_i[at_record, 2] = p, m, chosen
                                rec_f[at_record] = logp
                                number[RECORDED] += 1
                bind(pod_f, pod_i, true_s, node_f, node_class, settings, delay_rate, node, slot_i, slot_f, count,
                     counters, pod, pod_node, number, p, rows[chosen], now_s)  # fmt: skip
                queued[pod_i[p, SLA]] -= 1.0
            number[PENDING] = kept

    return play
