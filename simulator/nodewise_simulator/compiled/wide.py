"""What a world may have besides nodes and pods that are bound at once, as flat arrays; see `physics`."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nodewise.core.annotations import hints
from nodewise.core.types import Floats
from nodewise_simulator.compiled import agenda
from nodewise_simulator.compiled import kernels as kn
from nodewise_simulator.compiled.flat import Flat, Ints
from nodewise_simulator.physics import AT_ONCE, CREATED, Change
from nodewise_simulator.world import World

Bools = NDArray[np.bool_]

# Columns of Wide.more_f and Wide.more_i.
PULL, START, OUTPUT, SHARE, SHARE_SENSITIVITY, DEADLINE_AFTER = range(6)
IMAGE, BUDGET, WANTS_WHOLE, FIRST_CRC = range(4)
# Wide.flags
FIFO, CHANGES, SCALES = range(3)
# Wide.times
(TICK_S, LATENCY, ZONE_LATENCY, SPEED, ZONE_SPEED, DETECT, EVICT, GRACE, BACKOFF, MAX_BACKOFF, DRAIN_RETRY, SCAN_S,
 BOOT, UNNEEDED, AFTER_ADD) = range(15)  # fmt: skip
# Columns of Books.fate: which of its lives a pod lives, for which its work was noted as lost, when it was bound (as a
# number), whether it is on its way out, the budget that it is down for (-1: none), parents that have not ended, devices
# that it has (a bit each), the pod behind it in its node's queue, and whether it works.
LIFE, LOST_LIFE, TURN, TERMINATING, DOWN_FOR, PARENTS_LEFT, DEVICES, BEHIND, WORKS = range(9)
NOT_DOWN = -2
# Columns of Books.machine_i: pods that work, whether it is up, what happened to it (a number), whether it is there,
# whether it is cordoned, first and last pod of its queue, whether it boots.
RUNS, UP, HAPPENED, PRESENT, CORDONED, FIRST, LAST, BOOTING = range(8)
# Columns of Books.machine_f: since when it costs, since when it idles, and when it was launched.
SINCE, IDLE_SINCE, LAUNCHED = range(3)
# Books.no: who was popped and waits for an answer, the next arrival and change that are known from the start, how many
# were bound, cycles, held cycles, lost attempts, times up, instants without work in a row, why play ended, whether
# anything stirred, whether the autoscaler is to look, whether anybody was bound at this instant, nodes with more room,
# launches, whether anybody shares a device, and where the search for nodes began for who waits for an answer.
(CURRENT, NEXT_ARRIVAL, NEXT_CHANGE, BOUND, CYCLES, HELD, LOST, UPS, FRUITLESS, ENDED, STIRRED, SCAN_DUE, ANY_BOUND,
 FREED, LAUNCHES, SHARING, START_WAS) = range(17)  # fmt: skip
NUMBERS = START_WAS + 1
# Books.clock: now, when the next tick comes, when the autoscaler's last node joined.
NOW, NEXT_TICK, ADDED = range(3)
OVER, PAUSED, FULL = range(3)
"""Why play ended: all is over, a decision is wanted, or there is no room for more events."""


class Wide(NamedTuple):
    """Never written. N nodes, P pods, C classes, I images, D drifts, K changes."""

    more_f: Floats  # [P, 6]
    more_i: Ints  # [P, 4]
    parent_from: Ints  # [P + 1] where each pod's parents begin in `parents`
    parents: Ints
    child_from: Ints  # [P + 1]
    children: Ints
    arrivals: Ints  # pods without parents, by creation
    change_s: Floats  # [K]
    change: Ints  # [K, 2] what, node
    drift: Floats  # [D, 2] from when on, factor
    drift_pod: Bools  # [D, P]
    drift_class: Bools  # [D, C]
    zone: Ints  # [N]
    flags: Bools  # [3]
    times: Floats  # [15] seconds, and bytes per second
    budget: Ints  # [B] most pods down at once
    pool: Ints  # rows of the autoscaler's nodes
    life_rank: Ints  # [LIVES] place of a life among all lives of a pod, by uid
    absent: Bools  # [N] not there at first


class Books(NamedTuple):
    """What changes."""

    q_f: Floats  # [P, 5]
    q_i: Ints  # [P, 5]
    lists: Ints  # [4, P]
    sizes: Ints  # [6]
    retry: Floats  # [7]
    at_s: Floats  # [H]
    event: Ints  # [H, 5]
    size: Ints  # [3]
    fate: Ints  # [P, 9]
    own_s: Floats  # [P, 2] when a pod was created, and its deadline, if that was later than its manifest says
    machine_i: Ints  # [N, 8]
    machine_f: Floats  # [N, 3]
    images: Floats  # [N, I] when each image is there; nan if it was never asked for
    device: Floats  # [N, D] milli-devices that are free
    lost: Floats  # [L, 6] pod, node, bound, started, ended, whether it was evicted
    up: Floats  # [U, 3] node, since when, until when
    freed: Ints  # [N] rows where room was given back, each once
    is_freed: Bools  # [N]
    arrived: Ints  # [P]
    no: Ints  # [NUMBERS]
    clock: Floats  # [3]


LIVES = 1000
"""A pod that is lost more often than this is not modelled."""


def wide(world: World, flat: Flat) -> Wide:
    """The arrays of what only some worlds have."""
    pods, rows = tuple(world.pods), {n.name: k for k, n in enumerate(world.nodes)}
    images = {name: k for k, name in enumerate(dict.fromkeys(p.image for p in pods if p.image))}
    budgets = {name: k for k, name in enumerate(world.budgets)}
    net, lives, scaler = world.network, world.lifecycle, world.autoscaler
    ordered = sorted(world.changes, key=lambda c: c.at_s)
    first: dict[str, Change] = {}
    for change in ordered:
        first.setdefault(change.node, change.change)
    absent = {name for name, change in first.items() if change is Change.ADD} | set(scaler.pool if scaler else ())
    changing = bool(world.changes or scaler)
    kinds = list(Change)
    classes = world.classes
    zones = {name: k for k, name in enumerate(dict.fromkeys(n.zone for n in world.nodes))}
    children: list[list[int]] = [[] for _ in pods]
    for index, pod in enumerate(pods):
        for parent in pod.parents:
            children[parent].append(index)
    created = flat.pod_f[:, kn.CREATED]
    free = np.array([k for k, p in enumerate(pods) if not p.parents], np.int64)
    later = changing or any(p.parents for p in pods)
    return Wide(
        more_f=np.array(
            [(p.pull_s, p.start_s, p.output_bytes, p.device_milli, p.device_sensitivity,
              _deadline_after_s(p) if later else math.nan) for p in pods]
        ).reshape(len(pods), 6),
        more_i=np.array(
            [(images.get(p.image, -1), budgets.get(p.budget, len(budgets)) if p.budget else -1,
              0 if p.device_milli > 0.0 else int(p.request.gpus_milli // 1000.0),
              zlib.crc32(p.request.uid.encode())) for p in pods], np.int64,
        ).reshape(len(pods), 4),
        parent_from=_offsets([p.parents for p in pods]),
        parents=np.array([k for p in pods for k in p.parents], np.int64),
        child_from=_offsets(children),
        children=np.array([k for of in children for k in of], np.int64),
        arrivals=free[np.argsort(created[free], kind="stable")],
        change_s=np.array([c.at_s for c in ordered], float),
        change=np.array(
            [(kinds.index(c.change), rows[c.node]) for c in ordered], np.int64
        ).reshape(len(ordered), 2),
        drift=np.array([(d.at_s, d.factor) for d in world.drifts]).reshape(len(world.drifts), 2),
        drift_pod=np.array(
            [[d.workload in ("", p.request.workload) for p in pods] for d in world.drifts], bool
        ).reshape(len(world.drifts), len(pods)),
        drift_class=np.array([[d.node_class in ("", c) for c in classes] for d in world.drifts], bool).reshape(
            len(world.drifts), len(classes)
        ),
        zone=np.array([zones[n.zone] for n in world.nodes], np.int64),
        flags=np.array([world.fifo, changing, scaler is not None]),
        times=np.array(
            [world.tick_s, net.latency_s, net.zone_latency_s, net.bytes_per_s, net.zone_bytes_per_s, lives.detect_s,
             lives.evict_s, lives.grace_s, lives.backoff_s, lives.max_backoff_s, lives.drain_retry_s,
             *((scaler.scan_s, scaler.boot_s, scaler.unneeded_s, scaler.after_add_s) if scaler else (0.0,) * 4)]
        ),
        budget=np.array([*world.budgets.values(), np.iinfo(np.int64).max], np.int64),
        pool=np.array([rows[name] for name in (scaler.pool if scaler else ())], np.int64),
        life_rank=np.argsort(np.argsort(np.array([str(k) for k in range(LIVES)]), kind="stable"), kind="stable"),
        absent=np.array([n.name in absent for n in world.nodes], bool),
    )  # fmt: skip


def books(world: World, flat: Flat, wide: Wide) -> Books:
    """Everything before the first arrival."""
    n, p = len(flat.node_f), len(flat.pod_f)
    settings = world.queueing
    machine_i = np.zeros((n, 8), np.int64)
    machine_i[:, UP] = machine_i[:, PRESENT] = ~wide.absent
    machine_i[:, [FIRST, LAST]] = -1
    machine_f = np.full((n, 3), np.nan)
    machine_f[~wide.absent, SINCE] = 0.0
    fate = np.zeros((p, 9), np.int64)
    fate[:, LIFE], fate[:, DOWN_FOR], fate[:, BEHIND] = 1, NOT_DOWN, -1
    fate[:, PARENTS_LEFT] = np.diff(wide.parent_from)
    devices = (flat.node_f[:, kn.GPU_ROOM] // 1000.0).astype(int)
    room = 16 * (p + n) + 4096
    made = Books(
        q_f=np.full((p, 5), np.nan), q_i=np.zeros((p, 5), np.int64), lists=np.zeros((4, p), np.int64),
        sizes=np.zeros(6, np.int64),
        retry=np.array([settings.initial_backoff_s, settings.max_backoff_s, settings.flush_s,
                        settings.retry == AT_ONCE, settings.age == CREATED, -math.inf, math.nan], float),
        at_s=np.zeros(room), event=np.zeros((room, 5), np.int64), size=np.zeros(3, np.int64),
        fate=fate, own_s=np.full((p, 2), np.nan), machine_i=machine_i, machine_f=machine_f,
        images=np.full((n, int(wide.more_i[:, IMAGE].max(initial=-1)) + 1), np.nan),
        device=np.where(np.arange(devices.max(initial=0)) < devices[:, None], 1000.0, 0.0),
        lost=np.zeros((room, 6)), up=np.zeros((room, 3)), freed=np.zeros(n, np.int64),
        is_freed=np.zeros(n, np.bool_), arrived=np.zeros(p, np.int64),
        no=np.zeros(NUMBERS, np.int64), clock=np.array([0.0, 0.0, -math.inf]),
    )  # fmt: skip
    made.no[CURRENT] = -1
    if wide.flags[SCALES]:
        agenda.push(made.at_s, made.event, made.size, 0.0, agenda.SCAN, 0, 0, 0)
    return made


def grown(old: Books) -> Books:
    """With room for twice as many events."""
    return old._replace(
        at_s=np.concatenate([old.at_s, np.zeros_like(old.at_s)]),
        event=np.concatenate([old.event, np.zeros_like(old.event)]),
        lost=np.concatenate([old.lost, np.zeros_like(old.lost)]),
        up=np.concatenate([old.up, np.zeros_like(old.up)]),
    )


def _deadline_after_s(pod: Any) -> float:
    meta, request = pod.manifest["metadata"], pod.request
    empty = request.cpu_milli == 0 and request.memory_bytes == 0
    return float(hints(meta.get("annotations") or {}, request.priority, empty).deadline_after_s)


def _offsets(lists: Sequence[Sequence[int]]) -> Ints:
    return np.concatenate([[0], np.cumsum([len(k) for k in lists])]).astype(np.int64)
