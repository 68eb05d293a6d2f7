"""Rows for tests of the store."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, select, text, update

from nodewise.channel.messages import DecisionRow
from nodewise.core.estimator import Observation
from nodewise_operator.store import Batch, Downtime, Fate, NodeRow, PodRow, Store
from nodewise_operator.store.codec import checksum
from nodewise_operator.store.engine import connect, parse
from nodewise_operator.store.schema import META, PODS

FEATURES = [f"feature_{k}" for k in range(37)]
_FATES = (Fate.SUCCEEDED, Fate.FAILED, Fate.CENSORED, Fate.RUNNING, Fate.WAITING)


def pod_row(uid: str, fate: Fate = Fate.SUCCEEDED, **changes: Any) -> PodRow:
    """A job that came at 100 s and ran for 20 s, but for what is told."""
    made = PodRow(
        uid=uid, namespace="default", name=f"name-{uid}", owner="Job/o", kind="job", workload="w", sla=1, priority=0,
        scheduler="default-scheduler", manifest={"spec": {"containers": [{"name": "c", "args": None}]}}, fate=fate,
        reason="", created_s=100.0, bound_s=100.5, started_s=101.0, ready_s=math.nan, finished_s=121.0,
        deadline_s=math.inf, expected_run_s=math.nan, node="n", node_class="old", exit_code=0, restarts=0, late=None,
        slowdown=1.25, joules=-0.0, cents=0.1,
    )  # fmt: skip
    if fate in (Fate.WAITING, Fate.RUNNING):
        made = replace(made, finished_s=math.nan, exit_code=None, cents=math.nan)
    return replace(made, **changes)


def decision_row(uid: str, time_s: float = 100.25, source: str = "observed", seed: int = 0, **more: Any) -> DecisionRow:
    """A decision of forty candidates, sixteen of them featured."""
    rng = np.random.default_rng(seed)
    made = DecisionRow(
        uid=uid, namespace="default", pod=f"name-{uid}", time_s=time_s, source=source, mode="advise", policy="p",
        digest="d", candidates=[f"node-{k}" for k in range(40)], scores=[*rng.normal(size=39).tolist(), math.nan],
        winner="node-1", reply=[("node-1", 10), ("node-2", 0)], propensity=0.5, bound="node-1", columns=FEATURES,
        featured=list(range(16)), features=rng.normal(size=(16, 37)).astype("<f4").tobytes(), latency_us=80.5,
        sequence=3,
    )  # fmt: skip
    return msgspec.structs.replace(made, **more)


def batch(number: int, size: int = 8) -> Batch:
    """Batch `number` = 1, 2, 3 … of one run: pods with a decision each and all else, the same for the same number."""
    uids = [f"{number:04d}-{k}" for k in range(size)]
    time_s = 100.0 * number
    fates = [_FATES[(number + k) % len(_FATES)] for k in range(size)]
    return Batch(
        pods=tuple(
            pod_row(uid, fate, created_s=time_s + k, late=(None, True, False)[k % 3], exit_code=k or None)
            for k, (uid, fate) in enumerate(zip(uids, fates, strict=True))
        ),
        nodes=(NodeRow(f"node-{number % 3}", "n", "old", {"a": [1, 2.5]}, 1.0, math.inf if number % 3 else 600.0),),
        decisions=tuple(
            decision_row(uid, time_s + k, ("observed", "extender")[k % 2], seed=number + k)
            for k, uid in enumerate(uids)
        ),
        observations=tuple(
            Observation(uid, "w", k % 2 == 0, "old", 20.0 + k, 1.0 / 3.0)
            for k, (uid, fate) in enumerate(zip(uids, fates, strict=True))
            if fate is Fate.SUCCEEDED
        ),
        downtimes=(Downtime(time_s, time_s + 1, "watch cut"),) if number % 4 == 0 else (),
        segment=("extender-a", number, number // 3),
        seen_s=time_s,
    )


def contents(store: Store) -> dict[str, list[str]]:
    """Every row that a store gives, in its order, as text (nan is not equal to itself)."""
    return {
        "pods": [*map(repr, store.pods())],
        "nodes": [*map(repr, store.nodes())],
        "decisions": [*map(repr, store.decisions())],
        "observations": [*map(repr, store.observations())],
        "downtimes": [*map(repr, store.downtimes())],
        "segments": [f"{s['extender']} {s['contiguous']} {s['beyond']} {s['dropped']}" for s in store.segments()],
    }


def expected(batches: Sequence[Batch]) -> dict[str, list[str]]:
    """`contents` after these batches of `batch`, each written at least once."""
    pods = {row.uid: row for one in batches for row in one.pods}
    nodes = {row.uid: row for one in batches for row in one.nodes}
    decisions = {(row.time_s, row.uid, row.source): row for one in batches for row in one.decisions}
    return {
        "pods": [
            repr(replace(row, joules=0.0)) for row in sorted(pods.values(), key=lambda row: (row.created_s, row.uid))
        ],
        "nodes": [repr(nodes[uid]) for uid in sorted(nodes)],
        "decisions": [repr(decisions[key]) for key in sorted(decisions)],
        "observations": [*map(repr, enumerate((row for one in batches for row in one.observations), 1))],
        "downtimes": [repr(row) for one in batches for row in one.downtimes],
        "segments": [f"extender-a {len(batches)} [] {len(batches) // 3}"],
    }


def batches(count: int) -> Iterator[Batch]:
    """The first `count`."""
    return map(batch, range(1, count + 1))


def to_version_1(connection: Connection) -> None:
    """Make it what version 1 wrote: pods had no arrived_s, no index on it, and checksums without it."""
    for row in connection.execute(select(PODS)).mappings().all():
        old = [value for name, value in row.items() if name not in ("sum", "arrived_s")]
        connection.execute(update(PODS).where(PODS.c.uid == row["uid"]).values(sum=checksum("pods", old)))
    connection.execute(text("DROP INDEX pods_by_arrival"))
    connection.execute(text("ALTER TABLE pods DROP COLUMN arrived_s"))
    set_version(connection, 1)


def set_version(connection: Connection, version: int) -> None:
    """Say that the schema is of another version."""
    row = dict(connection.execute(select(META)).mappings().one()) | {"schema_version": version}
    row["sum"] = checksum("meta", [value for name, value in row.items() if name != "sum"])
    connection.execute(update(META).values(row))


def changed(url: str, change: Callable[..., object], *arguments: object) -> None:
    """Change a store behind its back, in a transaction."""
    engine = connect(parse(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        change(connection, *arguments)
    engine.dispose()
