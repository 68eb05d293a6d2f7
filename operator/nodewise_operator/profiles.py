"""NodeProfiles: what is known of each class of nodes, said in the terms of people and written to the API server."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.aio.client import ApiClient
from pydantic import ValidationError

from nodewise.core import labels as lb
from nodewise.core.pods import NodeSpec
from nodewise.kube.overrides import by_class, override
from nodewise_operator.resources.base import whole_second
from nodewise_operator.resources.conditions import Fact, conditions
from nodewise_operator.resources.live import Live
from nodewise_operator.resources.node_profile import (
    MOST_WORKLOADS,
    Money,
    NodeProfile,
    NodeProfileStatus,
    OverallSpeed,
    Power,
    WorkloadSpeed,
)
from nodewise_operator.speeds import Learned, Overall, Z, overall, speeds

Json = dict[str, Any]

EVERY_S = 30.0
CERTAIN = 1.5
"""A class counts as learned when the ends of its speed's interval are no further apart than this factor."""
_NO_PRICE = (
    "nobody told the price: set spec.priceUsdPerHour, or annotate the nodes with nodewise.dev/price-usd-per-hour"
)
_NO_POWER = (
    "nobody told the power: set spec.idleWatts and spec.peakWatts, or annotate the nodes with nodewise.dev/*-watts"
)
_NO_NODES = "the cluster has no node of this class"
_LONGEST_NAME = 200
_LARGEST_LOG = math.log(1e5)


@dataclass(frozen=True, slots=True)
class Known:
    """What profiles are made from."""

    learned: Learned
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """One NodeProfile as it is to be."""

    name: str
    spec: Json | None
    """None where the object is there: its spec is its owner's."""
    status: Json


def plan(
    known: Known,
    objects: Mapping[str, Json],
    now_s: float,
    reference: str = "",
    complain: Callable[[str], None] = lambda _why: None,
) -> list[Planned]:
    """What differs visibly from the NodeProfiles that are there, by name; a class with nodes and without one gets one.

    `reference` is the class that speeds are relative to; where nothing was seen of it, the most often seen one. A class
    of which something cannot be said in a NodeProfile is left out, and `complain` is told.
    """
    learned = known.learned
    if not learned.samples(reference):
        before = ((obj.get("status") or {}).get("referenceClass") for obj in objects.values())
        reference = learned.reference(next(filter(None, before), ""))
    nodes: dict[str, list[NodeSpec]] = defaultdict(list)
    overrides = by_class(map(override, objects.values()))
    for node in sorted(known.nodes, key=lambda node: node.name):
        told = overrides.get(node.node_class)
        nodes[node.node_class].append(told.applied(node) if told else node)
    made, taken = [], {*objects}

    def status_of(name: str, obj: Json) -> Json | None:
        try:
            return profile_status(learned, nodes[obj["spec"]["nodeClass"]], reference, obj, now_s)
        except ValidationError as error:
            wrong = error.errors()[0]
            complain(f"{name}: {'.'.join(map(str, wrong['loc']))} {wrong['input']!r}: {wrong['msg']}")
            return None

    for name, obj in sorted(objects.items()):
        status = status_of(name, obj)
        if status is not None and _visible(status) != _visible(obj.get("status") or {}):
            made.append(Planned(name, None, status))
    for node_class in sorted(nodes.keys() - {obj["spec"]["nodeClass"] for obj in objects.values()}):
        name = object_name(node_class, taken)
        taken.add(name)
        spec = {"nodeClass": node_class, "selector": class_selector(nodes[node_class][0].labels)}
        status = status_of(name, {"metadata": {"generation": 1}, "spec": spec})
        if status is not None:
            made.append(Planned(name, spec, status))
    return made


def profile_status(learned: Learned, nodes: list[NodeSpec], reference: str, obj: Json, now_s: float) -> Json:
    """The status of one NodeProfile; `nodes` are those of its class, as their owner sees them, and may be none."""
    spec = obj["spec"]
    found = speeds(learned, spec["nodeClass"], reference)
    total, price, power = overall(found), _price(nodes), _power(nodes)
    facts = (
        _learned(total, spec["nodeClass"], reference),
        _told("Priced", price.source if price else "", _NO_PRICE, nodes),
        _told("Powered", power.source if power else "", _NO_POWER, nodes),
    )
    return NodeProfileStatus(
        observed_generation=(obj.get("metadata") or {}).get("generation"),
        conditions=conditions(facts, obj, now_s),
        nodes=len(nodes),
        reference_class=reference or None,
        overall=_overall_speed(total, len(found)) if total else None,
        workloads=[
            WorkloadSpeed(
                workload=each.workload,
                **_interval(each.log_ratio, each.sd),
                samples=round(each.samples),
                reference_samples=round(each.reference_samples),
            )
            for each in found[:MOST_WORKLOADS]
        ],
        sample_count=round(learned.samples(spec["nodeClass"])),
        price=price,
        power=power,
        updated_at=whole_second(now_s),
    ).plain()


def object_name(node_class: str, taken: Iterable[str] = ()) -> str:
    """A name that an object may have, like the class's own; with a hash where that is too long or taken."""
    parts = (part.strip("-") for part in re.sub(r"[^a-z0-9.]+", "-", node_class.lower()).split("."))
    plain = ".".join(filter(None, parts))
    if plain and len(plain) <= _LONGEST_NAME and plain not in taken:
        return plain
    return f"{plain[:_LONGEST_NAME].strip('-.')}-{hashlib.sha256(node_class.encode()).hexdigest()[:8]}".lstrip("-")


def class_selector(labels: Mapping[str, str]) -> Json:
    """A label selector of the nodes that are labelled alike as far as their class is concerned."""
    equal: dict[str, str] = {}
    absent = []
    for requirement in lb.class_term(labels)["matchExpressions"]:
        if requirement["operator"] == "In":
            equal[requirement["key"]] = requirement["values"][0]
        else:
            absent.append(requirement)
    return ({"matchLabels": equal} if equal else {}) | ({"matchExpressions": absent} if absent else {})


def figure(value: float) -> float:
    """Three significant digits: what is not visible is not written."""
    return float(f"{value:.3g}")


def _learned(total: Overall | None, node_class: str, reference: str) -> Fact:
    if not reference:
        return Fact("Learned", False, "NothingSeen", "no pod has finished yet")
    if total is None:
        why = f"no workload has finished both here and on the reference class {reference}"
        return Fact("Learned", False, "NothingInCommon", why)
    if node_class == reference:
        return Fact("Learned", True, "Reference", "speeds are relative to this class, which has most finished pods")
    factor = math.exp(2.0 * Z * total.sd)
    if factor > CERTAIN:
        why = f"the ends of the speed's interval are a factor of {factor:.2g} apart: more pods must finish here"
        return Fact("Learned", False, "Uncertain", why)
    return Fact("Learned", True, "Observed", f"from pods that finished here and on {reference}")


def _told(condition: str, source: str, how: str, nodes: list[NodeSpec]) -> Fact:
    if source:
        return Fact(condition, True, "Known", source)
    return Fact(condition, False, "Unknown", how) if nodes else Fact(condition, None, "NoNodes", _NO_NODES)


def _overall_speed(total: Overall, workloads: int) -> OverallSpeed:
    ends = _interval(total.log_ratio, total.sd)
    return OverallSpeed(
        **ends,
        interval=f"{ends['lower']:g}-{ends['upper']:g}" if total.sd else "reference",
        spread=None if math.isnan(total.spread_sd) else figure(math.exp(total.spread_sd)),
        workloads=workloads,
    )


def _interval(log_ratio: float, sd: float) -> dict[str, float]:
    logs = {"speed": log_ratio, "lower": log_ratio - Z * sd, "upper": log_ratio + Z * sd}
    return {name: figure(math.exp(min(max(log, -_LARGEST_LOG), _LARGEST_LOG))) for name, log in logs.items()}


def _price(nodes: list[NodeSpec]) -> Money | None:
    found = [node for node in nodes if node.price_source]
    if not found:
        return None
    mean = sum(node.price_usd_per_h for node in found) / len(found)
    return Money(usd_per_hour=figure(mean), source=_sources(node.price_source for node in found))


def _power(nodes: list[NodeSpec]) -> Power | None:
    found = [node for node in nodes if node.power_source]
    if not found:
        return None
    idle_w, peak_w = (sum(watts) / len(found) for watts in zip(*((n.idle_w, n.peak_w) for n in found), strict=True))
    source = _sources(node.power_source for node in found)
    return Power(idle_watts=figure(idle_w), peak_watts=figure(peak_w), source=source)


def _sources(told: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(told))[:1024]


def _visible(status: Json) -> Json:
    """A status without what nobody acts on: when it was written, and what others wrote into it."""
    return {key: value for key, value in status.items() if key not in ("updatedAt", "benchmarks")}


async def run(
    api: ApiClient,
    source: Callable[[], Awaitable[Known]],
    *,
    every_s: float = EVERY_S,
    again_s: float = 60.0,
    reference: str = "",
    now_s: Callable[[], float] = time.time,
) -> None:
    """Keep the NodeProfiles up to date for ever; the owner cancels it.

    What the API server refuses is told once and tried again every `again_s` seconds; `reference` as in `plan`.
    """
    live = Live(api, NodeProfile, again_s=again_s)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(live.run())
        await live.answered()
        while True:
            if live.readable:
                for each in plan(await source(), live.objects, now_s(), reference, live.complain):
                    if each.spec is None or await live.apply(each.name, {"spec": each.spec}):
                        await live.apply(each.name, {"status": each.status}, status=True)
            await asyncio.sleep(every_s)
