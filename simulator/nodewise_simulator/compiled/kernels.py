"""Names of the indices of the compiled engine's arrays, which numba wants as plain integers.

Arrays are those of `flat.Flat`, which are read, and `run.State`, which are written.
"""

from __future__ import annotations

# Flat.pod_f
CREATED, DEADLINE, CPU, CPU_NZ, MEM, MEM_NZ, GPU, EXPECTED, SCALE, SENSITIVITY = range(10)
DELAY, LATE, LOSS, NOISE, FACTOR = range(10, 15)
# Flat.pod_i
SLA, PRIORITY, WORKLOAD, ENDS, TEACHES, OWNER, RANK, CRC, MASK = range(9)
# Flat.node_f
CPU_ROOM, MEM_ROOM, GPU_ROOM, POD_ROOM, PRICE, IDLE, PEAK = range(7)
# Flat.settings, after those of the estimator
CONTENTION, HORIZON, ENERGY = range(9, 12)
# State.node: room left [4], requested [5, as CPU to GPU above], pods by SLA class [3]
FREE, SUMS, PRESSURE, RATE, BY_SLA, UPDATED, NEXT_END = 0, 4, 9, 10, 11, 14, 15
NODE_WIDTH = 16
# State.slot_i: which pods run (in order of start), which are resident (in order of uid)
RUNNING, RESIDENT = range(2)
# State.slot_f, of what runs: run time left if alone, speed, cents a second that a neighbour with all the CPU would cost
LEFT, SPEED, HURT = range(3)
# State.pod
BOUND_S, STARTED_S, FINISHED_S, SLOWDOWN, HARM, DISPLACED, ROOM_TAKEN_S, TAUGHT = range(8)
# State.number: the first two are of pods to come and pods that wait, the last four count decisions
NEXT, PENDING, COUNTER, START, STALE, ASKED, DEPARTED, REFUSED, RECORDED = range(9)
NUMBERS = 9

RULE, GREEDY, SAMPLE = range(3)
"""Who decides: a weighted sum of cost terms, the scorer's best, or a draw from its softmax."""

LEAST_NOISE = 0.05
"""Sigma of a pod that has no noise of its own, so that the price of its lateness has a slope to learn from."""
