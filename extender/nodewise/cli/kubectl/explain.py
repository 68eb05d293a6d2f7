"""`kubectl nodewise explain`: why a pod went where it went, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import (
    Cluster,
    ContextOption,
    Json,
    KubeconfigOption,
    NamespaceOption,
    Refused,
    SystemOption,
    gathered,
    object_path,
    segment,
)
from nodewise.cli.kubectl.parts import Parts
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption, console, number
from nodewise.core.errors import UserError


def command(
    pod: Annotated[
        str,
        typer.Argument(help="Name of the pod, which may be gone by now; pod/NAME too.", metavar="[NAMESPACE/]POD"),
    ],
    namespace: NamespaceOption = "",
    system: SystemOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say why a pod was placed where it is, by whom, and what became of it."""
    with Cluster(kubeconfig, context, namespace) as cluster:
        where, name = _named(pod, namespace, cluster)
        told = cluster.run(explained(cluster, where, name, system))
    if output is Format.JSON:
        printed(told["recorded"], **{key: held for key, held in told.items() if key != "recorded"})
    else:
        show(told)


def _named(pod: str, namespace: str, cluster: Cluster) -> tuple[str, str]:
    """Namespace and name; `pod/NAME` is how kubectl names one anywhere else. Raises UserError."""
    before, slash, name = pod.rpartition("/")
    if before in ("pod", "pods", "po"):
        return cluster.namespace, name
    if not name or "/" in before or (slash and not before):
        raise UserError(f"{pod!r} does not name a pod; write POD, pod/POD or NAMESPACE/POD")
    if before and namespace and before != namespace:
        raise UserError(f"{pod} is in namespace {before}, and --namespace says {namespace}: leave one of them out")
    return before or cluster.namespace, name


async def explained(cluster: Cluster, namespace: str, name: str, system: str = "") -> Json:
    """All that is known of a pod: as it is, who decided, what was recorded. Raises UserError if that is nothing."""
    unasked: list[str] = []
    pod = await _pod(cluster, namespace, name, unasked)
    try:
        parts = await found.find(cluster, system)
    except found.Hidden as hidden:  # the pod itself may still tell something
        if pod is None:
            raise
        unasked.append(f"neither extenders nor the operator were asked: {hidden}")
        return _told(namespace, name, _state(pod, Parts()), None, [], unasked, None, 0)
    decision, answered = await _decision(cluster, parts, namespace, name, unasked)
    recorded = await _recorded(cluster, parts, namespace, name, pod, unasked)
    if pod is None and decision is None and not recorded:
        raise UserError(
            f"nothing is known of pod {namespace}/{name}: it is not there, and neither an extender nor the operator "
            "remembers it" + "".join(f"; {why}" for why in unasked)
        )
    return _told(
        namespace, name, _state(pod, parts), decision, recorded, unasked, len(parts.extenders), answered
    )  # fmt: skip


def _told(
    namespace: str, name: str, now: Json | None, decision: Json | None, recorded: list[Json], unasked: list[str],
    extenders: int | None, answered: int,
) -> Json:  # fmt: skip
    """`extenders`: how many run, None if that may not be seen; `answered`: how many of them did."""
    return {
        "namespace": namespace, "pod": name, "now": now, "decision": decision, "recorded": recorded,
        "extenders": extenders, "answered": answered, "not_asked": unasked,
    }  # fmt: skip


async def _pod(cluster: Cluster, namespace: str, name: str, unasked: list[str]) -> Json | None:
    try:
        return await cluster.get(object_path("pods", name, namespace), f"get pods in namespace {namespace}")
    except Refused as refused:
        if refused.status not in (403, 404):
            raise
        if refused.status == 403:
            unasked.append(str(refused))
        return None


def _state(pod: Json | None, parts: Parts) -> Json | None:
    if pod is None:
        return None
    spec = pod["spec"]
    scheduler = str(spec.get("schedulerName") or "default-scheduler")
    waits = next(
        (
            str(c.get("message") or "")
            for c in pod.get("status", {}).get("conditions") or ()
            if c.get("type") == "PodScheduled" and c.get("status") != "True"
        ),
        "",
    )
    return {
        "scheduler": scheduler, "ours": scheduler == parts.scheduler_name, "node": spec.get("nodeName") or None,
        "phase": found.phase(pod), "waits_because": waits or None, "uid": pod["metadata"].get("uid"),
    }  # fmt: skip


async def _decision(
    cluster: Cluster, parts: Parts, namespace: str, name: str, unasked: list[str]
) -> tuple[Json | None, int]:
    """The newest of what the extenders say, with the pod that said it; and how many answered."""
    works = [
        found.ask_json(cluster, pod, found.extender_port(pod), f"/explain/{segment(namespace)}/{segment(name)}")
        for pod in parts.extenders
    ]
    answers = await gathered(works)
    told: list[Json] = []
    answered = 0
    for pod, answer in zip(parts.extenders, answers, strict=True):
        if isinstance(answer, UserError):
            unasked.append(f"extender {found.full_name(pod)} was not asked: {answer}")
            continue
        answered += 1
        if "candidates" in answer[1]:
            told.append({"extender": found.full_name(pod), **answer[1]})
    return max(told, key=lambda one: float(one.get("time_s") or 0.0), default=None), answered


async def _recorded(
    cluster: Cluster, parts: Parts, namespace: str, name: str, pod: Json | None, unasked: list[str]
) -> list[Json]:
    """What the operator has of the pods of that name, newest first; of one that is there, only of that one."""
    try:
        operator = found.operator_of(parts)
        uid = {"uid": str(pod["metadata"]["uid"])} if pod else {}
        port = found.operator_port(operator)
        status, answer = await found.ask_json(cluster, operator, port, "/pods", namespace=namespace, name=name, **uid)
    except UserError as error:
        unasked.append(f"the operator was not asked: {error}")
        return []
    if status != 200:
        unasked.append(f"the operator does not say: {answer.get('error') or status}")
        return []
    return list(answer.get("pods") or ())


def show(told: Mapping[str, Any]) -> None:
    """Print it: the decision as `nodewise explain` does, then the outcome."""
    from nodewise.cli.explain import show as show_decision

    now, decision = told["now"], told["decision"]
    if decision:
        show_decision(decision)
        console.print(f"decided by extender {decision['extender']}", style="dim")
    elif now and not now["ours"]:
        console.print(f"{told['namespace']}/{told['pod']} is not ours: its scheduler is {now['scheduler']}.")
    else:
        console.print(_undecided(told))
    if now and now["waits_because"]:
        console.print(f"It waits for a node: {now['waits_because']}", markup=False)
    if told["recorded"]:
        console.print(_outcomes(told["recorded"]))
        if not decision:
            _show_scored(told["recorded"][0])
    for why in told["not_asked"]:
        console.print(f"({why})", markup=False, style="dim")


def _undecided(told: Mapping[str, Any]) -> str:
    """Why no decision is shown of a pod that is ours, or may be."""
    now, full = told["now"], f"{told['namespace']}/{told['pod']}"
    waits = bool(now) and now["phase"] == "Pending" and not now["node"]
    if told["extenders"] == 0 and waits:
        return (
            f"{full} waits for {now['scheduler']}, and no scheduler of Nodewise runs here: nobody will place it. Bring "
            f"the scheduler back (kubectl nodewise doctor says how), or give the pod to another one: kubectl nodewise "
            f"release -n {told['namespace']} --remove-label"
        )
    if told["extenders"] == 0:
        return f"No extender runs here, so what was decided on {full} is no longer known; they keep it in memory."
    if not told["answered"]:
        return f"Why {full} is where it is cannot be said: no extender could be asked, for the reason below."
    if waits:
        return f"No extender has decided on {full} yet: it has at most one feasible node, or was not tried so far."
    return f"No extender remembers a decision on {full}: it had one feasible node, or was placed before they started."


def _outcomes(recorded: Sequence[Mapping[str, Any]]) -> Table:
    made = Table("outcome", "node", show_edge=False)
    for title in ("created", "waited, s", "ran, s", "cents"):
        made.add_column(title, justify="right")
    made.add_column("deadline")
    for pod in recorded:
        late = {True: "missed", False: "met", None: "–"}[pod.get("late")]
        fate = str(pod["fate"]) + (f" ({pod['reason']})" if pod.get("reason") else "")
        made.add_row(
            fate, str(pod.get("node") or "–"), _at(pod.get("created_s")), number(_between(pod, "created_s", "bound_s")),
            number(_between(pod, "started_s", "finished_s")), number(pod.get("cents")), late,
        )  # fmt: skip
    return made


def _show_scored(pod: Mapping[str, Any]) -> None:
    """Of a pod that another scheduler placed: what the operator would have said."""
    for decision in pod.get("decisions") or ():
        if decision.get("winner"):
            agreed = "as it was" if decision["winner"] == pod.get("node") else f"not {pod.get('node')}"
            console.print(f"{decision['policy']} would have chosen {decision['winner']}, {agreed}.", markup=False)
            return


def _between(pod: Mapping[str, Any], begin: str, end: str) -> float | None:
    if pod.get(begin) is None or pod.get(end) is None:
        return None
    return float(pod[end]) - float(pod[begin])


def _at(time_s: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(time_s)) if time_s is not None else "–"
