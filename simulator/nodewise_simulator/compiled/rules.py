"""Rules of `nodewise.policies` in the loop: the very functions that are served, each over all nodes in one go."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nodewise.core.errors import UserError
from nodewise.core.raw import Pair
from nodewise.policies import POLICIES
from nodewise.policies.rule import Rule
from nodewise_simulator.compiled import beliefs as bl
from nodewise_simulator.compiled import cycle, full, loop, machine, view, waiting_ask
from nodewise_simulator.compiled import desk as dk
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.fuse import OVERLOADS, Kernel, compiled, inlined, jit, spliced
from nodewise_simulator.compiled.kept import kept

_KERNEL = """# Written by nodewise_simulator.compiled.rules; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.compiled.rules import linked, served

play = linked(served())


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, policy, until, learns):
    play(flat, state, policy, (), until, learns)
"""


_KERNEL_FULL = """# Written by nodewise_simulator.compiled.rules; kept as long as nothing that it uses changes.
import numba as nb
from nodewise_simulator.compiled.rules import linked_full, served

play = linked_full(served())


@nb.njit(error_model="numpy", nogil=True, cache=True)
def kernel(flat, state, policy, wide, books, held, learns):
    play(flat, state, policy, wide, books, held, learns)
"""


OUTSIDE = -1
"""As the number of a rule: somebody else decides, and play is paused at every question until there is an answer."""


@cache
def served() -> tuple[Rule, ...]:
    """The rules of `POLICIES` that can be compiled; one kernel holds all, so that it is compiled once."""
    return tuple(rule for rule in POLICIES.values() if rule.takes != "view")


def player(rule: Rule) -> tuple[Kernel, int]:
    """`kernel(flat, state, policy, until, learns)`, and the number of the rule in it.

    Raises UserError for a rule that cannot be compiled.
    """
    if rule.takes == "view":
        known = ", ".join(r.name for r in served())
        raise UserError(f"the compiled engine does not play {rule.name!r}; choose one of {known}")
    return (_together(), served().index(rule)) if rule in served() else (_alone(rule), 0)


@cache
def _together() -> Kernel:
    kernel: Kernel = kept(_KERNEL, linked(served()), OVERLOADS).kernel
    return kernel


def player_full(rule: Rule) -> tuple[Kernel, int]:
    """`kernel(flat, state, policy, wide, books, held, learns)` for every world, and the number of the rule in it.

    `held` is `waiting.Books`, which says whether pods may be held.
    Raises UserError for a rule that cannot be compiled.
    """
    if rule not in served():
        known = ", ".join(r.name for r in served())
        raise UserError(f"the compiled engine does not play {rule.name!r} there; choose one of {known}")
    return _together_full(), served().index(rule)


@cache
def _together_full() -> Kernel:
    kernel: Kernel = kept(_KERNEL_FULL, linked_full(served()), OVERLOADS).kernel
    return kernel


@cache
def _alone(rule: Rule) -> Kernel:
    """Of a rule that is in no registry; not kept."""
    play = linked((rule,))

    @jit
    def kernel(flat: Any, state: Any, policy: Any, until: int, learns: bool) -> None:
        play(flat, state, policy, (), until, learns)

    return kernel


@cache
def linked(rules: tuple[Rule, ...]) -> Kernel:
    """The kernel of these rules for worlds of immediate binding, not kept."""
    decide = _decided(rules, _tell_time)

    @spliced
    def pick(flat: Any, state: Any, desk: Any, policy: Any, record: Any, until: int, p: int, now_s: float) -> Any:  # noqa: ARG001
        pod_f, pod_i, masks, node, number, ok = flat[0], flat[1], flat[5], state[0], state[8], policy[2]
        m, first, looked_at = cycle.window(pod_f, node, masks[pod_i[p, kn.MASK]], number, p, ok)
        if m == 0:
            return -1
        if m == 1:  # a single feasible node is taken without asking
            row = 0
            while not ok[row]:
                row += 1
            return row
        return decide(flat, state, desk, policy, p, now_s, ok, first, looked_at, False)

    return loop.looped(pick)


@cache
def linked_full(rules: tuple[Rule, ...]) -> Kernel:
    """As `linked`, for every world.

    `policy` has the answer [1] to the question that play was paused with behind all else: see `OUTSIDE`.
    """
    decide = _decided(rules, machine.tell_time)

    @spliced
    def choose(flat: Any, state: Any, desk: Any, policy: Any, p: int, now_s: float, ok: Any, fifo: bool) -> Any:
        if policy[0] == OUTSIDE:
            row = policy[6][0]
            policy[6][0] = full.PAUSE
            state[8][kn.ASKED] += row != full.PAUSE
            return row
        return decide(flat, state, desk, policy, p, now_s, ok, 0, len(ok), fifo)

    return full.played(choose, waiting_ask.DEFERRAL)


@inlined
def _tell_time(
    settings: Any, node: Any, resident: Any, cells: Any, residents: int, c: int, row: int, now_s: float, fifo: bool  # noqa: ARG001
) -> None:  # fmt: skip
    dk.tell_time(settings, node, resident, cells, residents, c, row, now_s)


def _decided(rules: tuple[Rule, ...], tell_time: Kernel) -> Kernel:
    """`decide(flat, state, desk, policy, p, now_s, ok, first, looked_at, fifo)`: the row that wins of those `ok` [N].

    These are among `looked_at` rows that follow each other from `first` on, the first row behind the last.
    """
    scored = _scored(rules)

    @spliced
    def decide(
        flat: Any, state: Any, desk: Any, policy: Any, p: int, now_s: float, ok: Any, first: int, looked_at: int,
        fifo: bool,
    ) -> Any:  # fmt: skip
        pod_f, pod_i, _, _, names, _, settings, described, _ = flat
        node, node_i, _, _, _, _, _, _, number = state[:9]
        cells, row_factor, col_factor, row_var, col_var = state[9:]
        resident, _, _, in_row, in_column, present, _, _ = desk[:8]
        which, timed, _, of_class, of_owner, scores = policy[:6]
        n = len(ok)
        number[kn.ASKED] += 1
        least_s = np.nan
        if timed:
            if number[kn.STALE]:
                bl.renew(
                    settings, described, cells, row_factor, col_factor, row_var, col_var,
                    in_row, in_column,
                )  # fmt: skip
                number[kn.STALE] = 0
            least_s = view.of_classes(pod_f, pod_i, settings, cells, present, p, of_class)
            for row in range(n):
                if ok[row]:
                    c, count = node_i[kn.CLASS, row], node_i[kn.COUNT, row]
                    tell_time(settings, node, resident, cells, count, c, row, now_s, fifo)
                    of_owner[row] = dk.of_owner(resident, count, pod_i[p, kn.OWNER], row)
        asking = view.of_pod(pod_f, pod_i, settings, p, now_s)
        tie, sequence = (pod_i[p, kn.CRC] * 0x9E3779B1) & 0xFFFFFFFF, number[kn.ASKED] - 1
        behind = first + looked_at
        for part in range(2):  # up to the last row, and on from the first
            begin, end = (first, min(behind, n)) if part == 0 else (0, behind - n)
            scored(which, node, node_i, of_class, of_owner, asking, least_s, tie, sequence, begin, end, scores)
        return cycle.top(scores, ok, pod_i[p, kn.CRC], names)

    return decide


_PAIR = """
    if which == {k}:
        for row in range(begin, end):
            c = node_i[{CLASS}, row]
            both = Pair(of_class[0, c], of_class[1, c], least_s, of_class[2, c], of_owner[row], 0.0)
            out[row] = rule_{k}(of_node(node, row), asking, both)
"""
_PLACE = """
    if which == {k}:
        for row in range(begin, end):
            out[row] = rule_{k}(row, node.shape[1], sequence, tie)
"""


def _scored(rules: tuple[Rule, ...]) -> Kernel:
    """`scored(which, ..., begin, end, out)`: the scores of rule number `which` on the rows from `begin` to `end`."""
    known: dict[str, Any] = {"Pair": Pair, "of_node": view.of_node, "__name__": __name__}
    known |= {f"rule_{k}": compiled(rule.fn) for k, rule in enumerate(rules)}
    text = "def scored(which, node, node_i, of_class, of_owner, asking, least_s, tie, sequence, begin, end, out):\n"
    text += "".join((_PAIR if r.takes == "pair" else _PLACE).format(k=k, CLASS=kn.CLASS) for k, r in enumerate(rules))
    exec(text, known)  # noqa: S102  of numbers and a template of ours
    return spliced(known["scored"])
