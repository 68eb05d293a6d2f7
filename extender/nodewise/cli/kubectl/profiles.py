"""`kubectl nodewise profiles`: what is known of each class of nodes."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from nodewise.cli.kubectl.cluster import Cluster, ContextOption, Json, KubeconfigOption, Refused, collection
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption, console, number
from nodewise.core.errors import UserError

GROUP = "nodewise.dev/v1alpha1"


def command(
    kubeconfig: KubeconfigOption = None, context: ContextOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Show how fast, how dear and how hungry each class of nodes is, as Nodewise has learned it."""
    with Cluster(kubeconfig, context) as cluster:
        rows = cluster.run(profiles(cluster))
    if output is Format.JSON:
        printed(rows)
        return
    if not rows:
        console.print("No class of nodes is known yet: the operator makes a NodeProfile for each class that it sees.")
        return
    console.print(table(rows))
    reference = next((row["reference_class"] for row in rows if row["reference_class"]), None)
    if reference:
        console.print(f"Speeds are relative to {reference}; a blank one is not known yet.", markup=False)


async def profiles(cluster: Cluster) -> list[Json]:
    """A row a class, the fastest first."""
    try:
        objects = await cluster.listed(collection("nodeprofiles", group=GROUP), "list nodeprofiles")
    except Refused as refused:
        if refused.status == 404:
            raise UserError(
                "this cluster does not know the kind NodeProfile: install Nodewise or, if it is installed, helm "
                "upgrade the release, which brings its CRDs back"
            ) from None
        raise
    rows = [row(held) for held in objects]
    return sorted(rows, key=lambda one: (one["speed"] is None, -(one["speed"] or 0.0), one["node_class"]))


def row(profile: Json) -> Json:
    """What one NodeProfile says, with what its owner wrote over what was found out."""
    spec, status = profile.get("spec") or {}, profile.get("status") or {}
    overall, price, power = status.get("overall") or {}, status.get("price") or {}, status.get("power") or {}
    return {
        "name": profile["metadata"]["name"],
        "node_class": spec.get("nodeClass") or profile["metadata"]["name"],
        "nodes": status.get("nodes"),
        "speed": overall.get("speed"),
        "lower": overall.get("lower"),
        "upper": overall.get("upper"),
        "spread": overall.get("spread"),
        "pods": status.get("sampleCount"),
        "usd_per_hour": _first(price.get("usdPerHour"), spec.get("priceUsdPerHour")),
        "idle_watts": _first(power.get("idleWatts"), spec.get("idleWatts")),
        "peak_watts": _first(power.get("peakWatts"), spec.get("peakWatts")),
        "reference_class": status.get("referenceClass"),
        "workloads": [
            {key: held.get(key) for key in ("workload", "speed", "lower", "upper", "samples")}
            for held in status.get("workloads") or ()
        ],
    }


def table(rows: list[Json]) -> Table:
    """As people read it."""
    made = Table("class", show_edge=False)
    for title in ("nodes", "speed", "95 % interval", "spread", "pods", "USD/h", "watts idle–full"):
        made.add_column(title, justify="right")
    for held in rows:
        interval = "" if held["lower"] is None else f"{_two(held['lower'])}–{_two(held['upper'])}"
        watts = "" if held["peak_watts"] is None else f"{number(held['idle_watts'])}–{number(held['peak_watts'])}"
        made.add_row(
            held["node_class"], _count(held["nodes"]), _two(held["speed"]), interval, _two(held["spread"]),
            _count(held["pods"]), _two(held["usd_per_hour"]), watts,
        )  # fmt: skip
    return made


def _two(value: Any) -> str:
    return "" if value is None else f"{float(value):,.2f}"


def _count(value: Any) -> str:
    return "" if value is None else f"{int(value):,}"


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
