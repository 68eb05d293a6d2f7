"""`kubectl nodewise status`: what runs, who leads, which namespaces are ours, and how the policies fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from nodewise.cli.kubectl import optin, workloads
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import (
    Cluster,
    ContextOption,
    Json,
    KubeconfigOption,
    Refused,
    SystemOption,
    collection,
    gathered,
)
from nodewise.cli.kubectl.parts import Holder, Parts
from nodewise.cli.kubectl.profiles import GROUP
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption, console
from nodewise.core.errors import UserError


def command(
    system: SystemOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the parts that run, who leads, the namespaces that have joined, and how the policies fare."""
    with Cluster(kubeconfig, context) as cluster:
        told = cluster.run(status(cluster, system))
    if output is Format.JSON:
        printed(told["parts"], **{key: held for key, held in told.items() if key != "parts"})
    else:
        show(told)


async def status(cluster: Cluster, system: str = "") -> Json:
    """All of it as plain JSON; what may not be read is in `unknown`, a sentence each."""
    parts = await found.find(cluster, system)
    unknown: list[str] = [parts.config_refused] if parts.config_refused else []

    def known(answer: Any, otherwise: Any) -> Any:
        if isinstance(answer, UserError):
            unknown.append(str(answer))
            return otherwise
        return answer

    rows = await gathered([_part(cluster, parts, pod) for pod in (*parts.operators, *parts.schedulers)])
    holder, spaces, pods, policies, profiles, bindings, idle = await gathered(
        [
            found.lease_holder(cluster, parts),
            cluster.listed(collection("namespaces"), "list namespaces"),
            cluster.pods(None, fieldSelector=f"spec.schedulerName={parts.scheduler_name}"),
            _custom(cluster, "placementpolicies"),
            _custom(cluster, "nodeprofiles"),
            optin.bindings(cluster),
            workloads.idle(cluster, parts, system),
        ]
    )
    holder = known(holder, None)
    ours: list[Json] = known(pods, [])
    known_profiles = known(profiles, None)
    return {
        "parts": [known(row, {}) for row in rows],
        "scheduler_name": parts.scheduler_name,
        "leader": _leader(holder),
        "without_pods": [
            {"component": one.component, "deployment": one.deployment, "replicas": one.replicas, "says": one.says}
            for one in known(idle, [])
        ],
        "schedulers": len(parts.schedulers),
        "label_acts": None if isinstance(bindings, UserError) else bool(bindings),
        "operator_runs": parts.operator is not None,
        "namespaces": namespaces(known(spaces, []), ours),
        "placement_policies": [policy_row(held) for held in known(policies, None) or ()],
        "node_profiles": None if known_profiles is None else len(known_profiles),
        "unknown": list(dict.fromkeys(unknown)),
    }


async def _custom(cluster: Cluster, plural: str) -> list[Json] | None:
    """Objects of one of our kinds; None if the kind is not installed."""
    try:
        return await cluster.listed(collection(plural, group=GROUP), f"list {plural}")
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


async def _part(cluster: Cluster, parts: Parts, pod: Json) -> Json:
    """One pod of ours, and what its program says of itself."""
    schedules = pod in parts.schedulers
    says, decides = "", ""
    try:
        port = found.extender_port(pod) if schedules else found.operator_port(pod)
        _, told = await found.ask_json(cluster, pod, port, "/readyz")
        says, decides = str(told.get("status") or ""), str(told.get("policy") or "")
    except UserError as error:
        says = str(error) if found.phase(pod) == "Running" else found.phase(pod)
    images = [str(container.get("image") or "") for container in found.containers(pod)]
    return {
        "component": found.SCHEDULER if schedules else found.OPERATOR,
        "pod": found.full_name(pod),
        "phase": found.phase(pod),
        "ready": found.is_ready(pod),
        "says": says,
        "policy": decides or None,
        "version": found.version_of(pod),
        "images": images,
    }


def namespaces(spaces: Sequence[Json], ours: Sequence[Json]) -> list[Json]:
    """Namespaces that have joined or hold pods of ours, with the pods by state."""
    joined = set(found.namespaces_opted_in(spaces))
    states: dict[str, Counter[str]] = {name: Counter() for name in joined}
    for pod in ours:
        state = "bound" if pod["spec"].get("nodeName") else "pending"
        state = "over" if found.phase(pod) in ("Succeeded", "Failed") else state
        states.setdefault(pod["metadata"]["namespace"], Counter())[state] += 1
    return [
        {"namespace": name, "opted_in": name in joined, **{s: states[name][s] for s in ("bound", "pending", "over")}}
        for name in sorted(states)
    ]


def policy_row(policy: Json) -> Json:
    """What one PlacementPolicy says of itself."""
    spec, held = policy.get("spec") or {}, policy.get("status") or {}
    conditions = {c["type"]: c for c in held.get("conditions") or ()}
    ready = conditions.get("Ready") or {}
    return {
        "name": policy["metadata"]["name"], "mode": spec.get("mode"),
        "policy": held.get("policy") or spec.get("policy") or spec.get("bundle"),
        "ready": ready.get("status"), "why": ready.get("message") if ready.get("status") != "True" else None,
        "in_force": held.get("inForce"), "agreement": held.get("agreement"), "decisions": held.get("decisions"),
        "fallbacks": held.get("fallbacks"),
    }  # fmt: skip


def _leader(holder: Holder | None) -> Json | None:
    if holder is None:
        return None
    age_s = max(holder.age_s, 0.0) if holder.age_s < 1e9 else None  # clocks differ
    return {"name": holder.name or None, "held": holder.held, "renewed_s_ago": age_s}


def show(told: Json) -> None:
    """Print it."""
    if told["parts"]:
        console.print(_table("part", told["parts"], _part_cells, ("pod", "ready", "says", "decides", "version")))
    elif not told["without_pods"]:
        console.print("No pod of Nodewise runs here: install it with helm, or look with --context elsewhere.")
    for one in told["without_pods"]:
        console.print(
            f"{one['says'][:1].upper()}{one['says'][1:]} ({one['deployment']}): kubectl nodewise doctor says more."
        )
    leader = told["leader"]
    if leader and leader["held"]:
        console.print(f"\n{leader['name']} leads, and renewed its lease {leader['renewed_s_ago']:.0f} s ago.")
    elif leader:
        console.print(f"\nNobody leads: pods that name {told['scheduler_name']} wait.", style="bold")
    if told["namespaces"]:
        console.print()
        states = ("joined", "bound", "pending", "over")
        console.print(_table("namespace", told["namespaces"], _namespace_cells, states))
        _show_label(told)
    elif leader:
        console.print("No namespace has joined: kubectl label namespace NAME nodewise.dev/scheduling=enabled")
    if told["placement_policies"]:
        console.print()
        cells = ("mode", "decides", "ready", "in force", "agreement", "decisions", "fallbacks")
        console.print(_table("placement policy", told["placement_policies"], _policy_cells, cells))
        for policy in told["placement_policies"]:
            if policy["why"] and told["operator_runs"]:
                console.print(f"{policy['name']}: {policy['why']}", markup=False)
        if not told["operator_runs"]:
            console.print("No operator runs: this is what was true of the policies when one last did.", style="bold")
    if told["node_profiles"] is not None:
        console.print(f"\nNodeProfiles: {told['node_profiles']} (kubectl nodewise profiles)")
    for why in told["unknown"]:
        console.print(f"unknown: {why}", markup=False, style="dim")


def _show_label(told: Json) -> None:
    """What the label of namespaces that joined comes to, where it is not what one expects."""
    joined = [row["namespace"] for row in told["namespaces"] if row["opted_in"]]
    waiting = sum(row["pending"] for row in told["namespaces"])
    if joined and told["label_acts"] is False:
        console.print(
            f"The label {found.OPT_IN} does nothing here, as no admission policy of ours goes by it: new pods of "
            f"{', '.join(joined)} go where their templates say."
        )
    if not told["schedulers"] and (waiting or (joined and told["label_acts"])):
        console.print(f"No scheduler of Nodewise runs: pods that name {told['scheduler_name']} wait.", style="bold")


def _table(title: str, rows: Sequence[Json], cells: Callable[[Json], list[str]], others: Sequence[str]) -> Table:
    made = Table(title, *others, show_edge=False)
    for row in rows:
        made.add_row(*cells(row))
    return made


def _part_cells(row: Json) -> list[str]:
    if not row:
        return []
    ready = "yes" if row["ready"] else f"no ({row['phase']})"
    return [row["component"], row["pod"], ready, row["says"], row["policy"] or "", row["version"]]


def _namespace_cells(row: Json) -> list[str]:
    joined = "yes" if row["opted_in"] else "no"
    return [row["namespace"], joined, *(f"{row[state]:,}" for state in ("bound", "pending", "over"))]


def _policy_cells(row: Json) -> list[str]:
    keys = ("name", "mode", "policy", "ready", "in_force", "agreement", "decisions", "fallbacks")
    return ["–" if row[key] is None else str(row[key]) for key in keys]
