"""Names of the indices of the compiled engine's arrays, which numba wants as plain integers.

Arrays are those of `flat.Flat`, which are read, and `run.State`, which are written.
"""

from __future__ import annotations

from nodewise.core.raw import Node

# Flat.pod_f
CREATED, DEADLINE, CPU, CPU_NZ, MEM, MEM_NZ, GPU, EXPECTED, SCALE, SENSITIVITY = range(10)
DELAY, LATE, LOSS, NOISE, FACTOR = range(10, 15)
# Flat.pod_i
SLA, PRIORITY, WORKLOAD, ENDS, TEACHES, OWNER, RANK, CRC, MASK, MAY_WAIT = range(10)
# Flat.node_f
CPU_ROOM, MEM_ROOM, GPU_ROOM, POD_ROOM, PRICE, IDLE, PEAK = range(7)
# Flat.settings, after those of the estimator
CONTENTION, HORIZON, ENERGY = range(9, 12)
# State.node: the raw values that columns are made of, in the order of `nodewise.core.raw.Node`, ...
_OF = Node._fields.index
CPU_HAS, MEM_HAS, GPU_HAS = (
    _OF("cpu_allocatable_milli"), _OF("memory_allocatable_bytes"), _OF("gpus_allocatable_milli")
)  # fmt: skip
START_WAIT = _OF("start_wait_s")
CPU_ASKED, CPU_NZ_ASKED, GPU_ASKED = _OF("cpu_requested_milli"), _OF("cpu_nonzero_milli"), _OF("gpus_requested_milli")
MEM_ASKED, MEM_NZ_ASKED = _OF("memory_requested_bytes"), _OF("memory_nonzero_bytes")
WORK, LONGEST, EXPOSURE = _OF("work_remaining_s"), _OF("longest_remaining_s"), _OF("resident_exposure_s")
PRESSURE, RATE, BY_SLA = _OF("pressure"), _OF("resident_delay_cents_per_s"), _OF("production_pods")
# ... then room left [4, as CPU_ROOM to POD_ROOM], when what runs there was last brought up to date, and its next end.
FREE = len(Node._fields)
UPDATED, NEXT_END = FREE + 4, FREE + 5
NODE_WIDTH = FREE + 6
# State.node_i: pods there, the order in which next ends were foreseen, class, whether it changed since somebody looked
COUNT, FORESEEN, CLASS, CHANGED = range(4)
# State.slot_i: which pods run (in order of start), which are resident (in order of uid)
RUNNING, RESIDENT = range(2)
# State.slot_f, of what runs: run time left if alone, speed, cents a second that a neighbour with all the CPU would cost
# it, and once more what the pod requests and how sensitive it is
LEFT, SPEED, HURT, OWN_CPU, OWN_SENSITIVITY = range(5)
# State.pod
BOUND_S, STARTED_S, FINISHED_S, SLOWDOWN, HARM, DISPLACED, ROOM_TAKEN_S, TAUGHT = range(8)
# State.number: the first two are of pods to come and pods that wait, the last four count decisions
NEXT, PENDING, COUNTER, START, STALE, ASKED, DEPARTED, REFUSED, RECORDED = range(9)
CYCLES = 9
"""Scheduling cycles, retries included."""
NUMBERS = 10

# desk.Desk.resident: what a decision wants to know of a resident, side by side
CELL_ROW, OF_SCALE, SINCE_S, OF_CPU, OF_RATE, OF_END, OF_OWNER, POD = range(8)

RULE, GREEDY, SAMPLE = range(3)
"""Who decides: a weighted sum of cost terms, the scorer's best, or a draw from its softmax."""

LEAST_NOISE = 0.05
"""Sigma of a pod that has no noise of its own, so that the price of its lateness has a slope to learn from."""
