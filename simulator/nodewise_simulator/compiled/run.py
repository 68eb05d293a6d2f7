"""The Python face of the compiled engine: states that can be copied, policies, recordings, and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodewise.core.raw import Node
from nodewise.core.types import Floats
from nodewise.policies import rule
from nodewise.policies.economic import TERMS
from nodewise.policies.rule import Rule
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled import rules
from nodewise_simulator.compiled.flat import Flat, Ints, flatten
from nodewise_simulator.compiled.fuse import of_scope
from nodewise_simulator.compiled.play import player
from nodewise_simulator.engine import Outcome
from nodewise_simulator.world import World

F32 = NDArray[np.float32]


@dataclass(slots=True)
class State:
    """What changes while a world is played; `copy()` lets several continuations begin at one point."""

    node: Floats  # [NODE_WIDTH, N]
    node_i: Ints  # [4, N]
    slot_i: Ints  # [2, N, CAP]
    slot_f: Floats  # [5, N, CAP]
    pod: Floats  # [P, 8]
    pod_node: Ints  # [P] -1 while it has none
    pending: Ints  # [P]
    queued: Floats  # [3]
    number: Ints  # [NUMBERS]
    cells: Floats  # [7, W, C]
    row_factor: Floats  # [W, 3]
    col_factor: Floats  # [C, 3]
    row_var: Floats  # [W]
    col_var: Floats  # [C]

    @classmethod
    def start(cls, flat: Flat, *, queues: bool = False) -> State:
        """An empty cluster before the first arrival; `queues`: a node's room limits nobody."""
        n, p = len(flat.node_f), len(flat.pod_f)
        w, c = len(flat.row_factor), len(flat.col_factor)
        cap = p if queues else int(min(flat.node_f[:, kn.POD_ROOM].max(), p))
        cap += 1
        node = np.zeros((kn.NODE_WIDTH, n))
        node[kn.FREE : kn.FREE + 4] = flat.node_f[:, :4].T
        node[[kn.CPU_HAS, kn.MEM_HAS, kn.GPU_HAS]] = flat.node_f[:, : kn.POD_ROOM].T
        for name, column in (("price_usd_per_h", kn.PRICE), ("idle_w", kn.IDLE), ("peak_w", kn.PEAK)):
            node[Node._fields.index(name)] = flat.node_f[:, column]
        # No source of metrics is simulated; columns then fall back to requests.
        for name, value in (("cpu_used_milli", np.nan), ("memory_used_bytes", np.nan), ("metrics_age_s", np.inf)):
            node[Node._fields.index(name)] = value
        node[kn.NEXT_END] = np.inf
        node_i = np.zeros((4, n), np.int64)
        node_i[kn.CLASS] = flat.node_class
        number = np.zeros(kn.NUMBERS, np.int64)
        number[kn.STALE] = 1
        spread = np.where(flat.described, flat.settings[2], flat.settings[1])
        return cls(
            node=node, node_i=node_i, slot_i=np.zeros((2, n, cap), np.int64), slot_f=np.zeros((5, n, cap)),
            pod=np.full((p, 8), np.nan),
            pod_node=np.full(p, -1, np.int64), pending=np.zeros(p, np.int64), queued=np.zeros(3), number=number,
            cells=np.zeros((7, w, c)), row_factor=flat.row_factor.copy(), col_factor=flat.col_factor.copy(),
            row_var=spread**2, col_var=np.full(c, flat.settings[3] ** 2),
        )  # fmt: skip

    def copy(self) -> State:
        """An independent state at the same point."""
        return State(*(getattr(self, f.name).copy() for f in fields(self)))

    def arrays(self) -> tuple[Any, ...]:
        """In the kernels' order."""
        arrays: tuple[Any, ...] = _ARRAYS(self)  # an environment asks at each decision
        return arrays

    def foreseen_s(self, flat: Flat, pods: Ints) -> Floats:
        """Whole run time of pods that run, if their neighbours stay as they are [len(pods)]; nan for others."""
        whole_s = np.full(len(flat.pod_f), np.nan)
        for row, count in enumerate(self.node_i[kn.COUNT]):
            running = self.slot_i[kn.RUNNING, row, :count]
            left_s = self.slot_f[kn.LEFT, row, :count] / self.slot_f[kn.SPEED, row, :count]
            whole_s[running] = self.node[kn.UPDATED, row] + left_s - self.pod[running, kn.STARTED_S]
        return whole_s[pods]

    def outcomes(self, names: Sequence[str]) -> list[Outcome]:
        """As the reference engine gives them; `names` of the nodes in row order."""
        return [
            Outcome(k, names[row] if row >= 0 else "", *self.pod[k, :3].tolist())
            for k, row in enumerate(self.pod_node.tolist())
        ]


_ARRAYS = attrgetter(*(f.name for f in fields(State)))


@dataclass(frozen=True, slots=True)
class Net:
    """A scorer for the kernel: `weights` and `sizes` of `nodewise_simulator.scorer.weights_of`.

    `low` and `high` [K], in the order of `columns`, are what it may be asked about, as `LearnedPolicy` checks it.
    """

    columns: tuple[str, ...]
    weights: F32
    sizes: Ints
    low: Floats
    high: Floats

    @classmethod
    def unbounded(cls, columns: tuple[str, ...], weights: F32, sizes: Ints) -> Net:
        """Asked about everything."""
        return cls(columns, weights, sizes, np.full(len(columns), -np.inf), np.full(len(columns), np.inf))


@dataclass(frozen=True, slots=True)
class Record:
    """Decisions as they were taken, R at most, of M nodes at most."""

    node: F32  # [R, M, Kn]
    pair: F32  # [R, M, Kr]
    request: F32  # [R, Kp]
    choice: Ints  # [R, 3] pod, number of candidates, index of the chosen one
    logp: Floats  # [R]

    def part(self, begin: int, size: int) -> Record:
        """A view of some rows."""
        return Record(*(getattr(self, f.name)[begin : begin + size] for f in fields(self)))

    @classmethod
    def room(cls, size: int, nodes: int, columns: tuple[str, ...]) -> Record:
        """For `size` decisions."""
        kn_, kr, kq = (len(of_scope(columns, *s)) for s in (("node",), ("pair",), ("pod", "cluster")))
        return cls(
            np.zeros((size, nodes, kn_), np.float32), np.zeros((size, nodes, kr), np.float32),
            np.zeros((size, kq), np.float32), np.zeros((size, 3), np.int64), np.zeros(size),
        )  # fmt: skip


def simulate(world: World | Flat, policy: str | Rule, until: int | None = None, state: State | None = None) -> State:
    """Play a rule from the first arrival, or from `state` on, to the end, or until the pods before `until` have come.

    Far faster than `play_rule`, and with less to show for it: what pods do to each other is not added up, and beliefs
    are learned only by rules that use them. Raises UserError for a world that is not modelled and for a policy that is
    unknown or cannot be compiled.
    """
    played = policy if isinstance(policy, Rule) else rule(policy)
    kernel, number = rules.player(played)
    flat = world if isinstance(world, Flat) else flatten(world)
    state = State.start(flat) if state is None else state
    n, timed = len(flat.node_f), played.uses_run_times
    scratch = (np.zeros(n, np.bool_), np.zeros((3, len(flat.col_factor))), np.zeros(n), np.zeros(n, np.float32))
    last = len(flat.pod_f) + 1 if until is None else until
    kernel(flat.arrays(), state.arrays(), (number, timed, *scratch), last, timed)
    return state


_NO_NET = Net.unbounded((), np.zeros(0, np.float32), np.zeros(4, np.int64))
_NONE = np.zeros(0)


def play_rule(flat: Flat, state: State, until: int | None = None, weights: Floats | None = None) -> None:
    """Play on until the pods before `until` have arrived (None: to the end); the least weighted sum of cost terms wins.

    `weights` [7], in the order of `nodewise.policies.economic.TERMS`; ones, which are the default, are `economic`.
    """
    made = np.ones(len(TERMS)) if weights is None else weights
    _play(flat, state, (kn.RULE, made), _NO_NET, 0.0, _NONE, None, 0, until)


def play_net(flat: Flat, state: State, net: Net, until: int | None = None, *, charge: bool = False) -> None:
    """Play on with the scorer's best node, and with `economic` where it may not be asked.

    `charge`: see `credit.charge_displaced`.
    """
    _play(flat, state, (kn.GREEDY, np.ones(len(TERMS))), net, 0.0, _NONE, None, 0, until, charge)


def play_sampled(
    flat: Flat, state: State, net: Net, sharpness: float, uniforms: Floats, record: Record | None, record_from: int,
    until: int,
) -> None:  # fmt: skip
    """Play on with nodes drawn from softmax(sharpness × score), by uniforms [P]; record pods from `record_from` on."""
    _play(flat, state, (kn.SAMPLE, np.ones(len(TERMS))), net, sharpness, uniforms, record, record_from, until, True)


def _play(
    flat: Flat, state: State, who: tuple[int, Floats], net: Net, sharpness: float, uniforms: Floats,
    record: Record | None, record_from: int, until: int | None, charge: bool = False,
) -> None:  # fmt: skip
    kernel = player(net.columns)
    order = {name: k for k, name in enumerate(net.columns)}
    ends = []
    for scopes in (("node",), ("pair",), ("pod", "cluster")):
        index = [order[name] for name in of_scope(net.columns, *scopes)]
        ends += [net.low[index], net.high[index]]
    n = len(flat.node_f)
    written = record or Record.room(0, n, net.columns)
    wide, paired, asked = (end.size for end in ends[::2])
    scratch = (
        np.empty(n, np.int64), np.empty((n, wide), np.float32), np.empty((n, paired), np.float32),
        np.empty(asked, np.float32), np.empty(n, np.float32), np.empty(n, np.float32),
    )  # fmt: skip
    policy = (*who, net.weights, net.sizes, *ends, sharpness, uniforms, charge, *scratch)
    state.number[kn.RECORDED] = 0
    recorded = (written.node, written.pair, written.request, written.choice, written.logp, record_from)
    kernel(flat.arrays(), state.arrays(), policy, recorded, len(flat.pod_f) + 1 if until is None else until)
