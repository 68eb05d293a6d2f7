"""Checks of what is around us: namespaces, nodes, other schedulers, autoscalers, and the pods themselves. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.dedicated import DEDICATED, Dedicated
from nodewise.cli.kubectl.facts import KARPENTER, Facts, known
from nodewise.cli.kubectl.findings import Finding, fail, ok, warn
from nodewise.core.annotations import hints
from nodewise.core.errors import UserError
from nodewise.core.labels import selects
from nodewise.core.units import epoch_s

Json = dict[str, Any]

_NAMED = 5
"""Examples told of what there may be many of."""
_STUCK_S = 60.0


def opt_in(facts: Facts) -> Iterator[Finding]:
    """Who has joined is served, and by a policy that somebody chose."""
    joined = found.namespaces_opted_in(known(facts.namespaces))
    if not facts.parts.schedulers:
        if not joined:
            return
        fix = f"kubectl label namespace {joined[0]} {found.OPT_IN}-, or install with scheduling.enabled=true"
        if isinstance(facts.opt_in, list) and facts.opt_in:
            yield fail(f"{_some(joined)} joined, and no scheduler of ours is here: their new pods wait", fix)
        else:
            also = (
                ", unless an admission policy that you may not list acts on it"
                if isinstance(facts.opt_in, UserError)
                else ""
            )
            yield warn(f"{_some(joined)} joined, and nothing of ours places pods: the label does nothing{also}", fix)
        return
    if joined and not known(facts.opt_in):
        yield warn(
            f"{_some(joined)} joined, and no admission policy of ours sends their pods to us",
            "set admission.optIn.enabled=true (Kubernetes 1.36), or write schedulerName into the templates",
        )
    policies = known(facts.policies) or []
    spaces = {space["metadata"]["name"]: space for space in known(facts.namespaces)}
    if policies:
        bare = [name for name in joined if not any(_selects(policy, spaces[name]) for policy in policies)]
        if bare:
            yield warn(
                f"no PlacementPolicy is for {_some(bare)}: the extenders' default mode holds there",
                "make one for them, or widen one",
            )
    for policy in policies:
        if (policy.get("spec") or {}).get("mode") != "Active":
            continue
        named = [name for name in (policy["spec"].get("namespaces") or ()) if name not in joined]
        if named:
            yield warn(
                f"PlacementPolicy {policy['metadata']['name']} is Active for {_some(named)}, which did not join",
                f"kubectl label namespace {named[0]} {found.OPT_IN}={found.OPTED_IN}",
            )
    yield ok(f"{len(joined)} namespaces joined" + (f": {_some(joined)}" if joined else ""))


def _selects(policy: Json, space: Json) -> bool:
    spec = policy.get("spec") or {}
    if spec.get("namespaces"):
        return space["metadata"]["name"] in spec["namespaces"]
    selector = spec.get("namespaceSelector")
    return selector is None or selects(selector, found.labels(space))


def dedicated_nodes(facts: Facts) -> Iterator[Finding]:
    """Pods that may only go to our nodes find some."""
    if not facts.parts.schedulers or not known(facts.opt_in):
        return
    ours_alone = known(facts.dedicated)
    if ours_alone is None:
        yield ok("none are set aside: pods of ours may go to any node")
        return
    key, value = ours_alone
    labelled = [node for node in known(facts.nodes) if found.labels(node).get(key) == value]
    untainted = [n["metadata"]["name"] for n in labelled if all(t.get("key") != key for t in n["spec"]["taints"])]
    ours = [pod for pod in known(facts.pods) if _is_ours(facts, pod) and found.phase(pod) == "Running"]
    if not labelled and not ours and found.namespaces_opted_in(known(facts.namespaces)):
        yield warn(
            f"no node has the label {key}={value}: pods of ours find no node",
            f"kubectl label node NAME {key}={value} && kubectl taint node NAME {key}={value}:NoSchedule",
        )
    if untainted:
        yield warn(
            f"{_some(untainted)} have the label {key} without the taint: other schedulers' pods come there too",
            f"kubectl taint node {untainted[0]} {key}={value}:NoSchedule",
        )
    if labelled and not untainted:
        yield ok(f"{len(labelled)} nodes are ours alone")


def shared_nodes(facts: Facts) -> Iterator[Finding]:
    """Two schedulers on one node do not see each other's reservations."""
    users: dict[str, Counter[bool]] = {}
    others: Counter[str] = Counter()
    for pod in known(facts.pods):
        node = pod["spec"].get("nodeName")
        tied = any(owner["kind"] in ("DaemonSet", "Node") for owner in pod["metadata"]["ownerReferences"])
        if not node or tied or found.phase(pod) in ("Succeeded", "Failed"):
            continue
        users.setdefault(node, Counter())[_is_ours(facts, pod)] += 1
        if not _is_ours(facts, pod):
            others[node] += 1
    shared = sorted(node for node, count in users.items() if count[True] and count[False])
    if shared:
        yield warn(
            f"{len(shared)} nodes take pods of ours and of other schedulers ({_some(shared)}): when another scheduler "
            "preempts pods to make room, a pod of ours can take that room first, and the one it was made for stays "
            "Pending",
            f"dedicate nodes: label and taint them {'='.join(_ours_alone(facts))}, and turn scheduling.sharedNodes off",
        )
    elif facts.parts.schedulers:
        yield ok("no node takes pods of ours and of other schedulers")


def stuck_pods(facts: Facts) -> Iterator[Finding]:
    """Nobody waits for us in vain."""
    waiting = [pod for pod in known(facts.pods) if _is_ours(facts, pod) and found.is_stuck(pod)]
    old = [pod for pod in waiting if facts.now_s - epoch_s(pod["metadata"]["creationTimestamp"]) > _STUCK_S]
    holder = None if not facts.parts.schedulers else facts.holder
    served = holder is not None and getattr(holder, "held", True)
    names = _some([found.full_name(pod) for pod in (old or waiting)])
    if waiting and not served:
        yield fail(
            f"{len(waiting)} pods wait for {facts.parts.scheduler_name}, and no scheduler of that name leads ({names})",
            "kubectl nodewise release -A, or bring the scheduler back",
        )
    elif old:
        one = old[0]["metadata"]
        yield warn(
            f"{len(old)} pods of ours wait for more than {_STUCK_S:.0f} s ({names})",
            f"kubectl describe pod -n {one['namespace']} {one['name']}",
        )
    else:
        yield ok(f"{len(waiting)} pods wait, none for long")


def autoscalers(facts: Facts) -> Iterator[Finding]:
    """What adds nodes looks at waiting pods too."""
    seen = [*known(facts.autoscalers)]
    if (
        isinstance(facts.crds, dict)
        and facts.crds.get(KARPENTER) is not None
        and not any("karpenter" in name for name in seen)
    ):
        seen.append("Karpenter (its CRDs)")
    if seen:
        yield warn(
            f"an autoscaler is here ({_some(seen)}): it may remove a node that Nodewise fills slowly, and may add one "
            "for a pod that is made to wait",
            "let it manage our dedicated nodes in a group of their own, and leave scheduling.defer off",
        )
    else:
        yield ok("none seen")


def malformed(facts: Facts) -> Iterator[Finding]:
    """What pods' authors tell us is understood."""
    bad: dict[str, list[str]] = {}
    for pod in known(facts.pods):
        for reason in hints(pod["metadata"]["annotations"], 0, False).ignored:
            bad.setdefault(reason, []).append(found.full_name(pod))
    for reason, pods in sorted(bad.items()):
        key, _, why = reason.partition(":")
        yield warn(
            f"nodewise.dev/{key} is ignored in {len(pods)} pods ({_some(pods)}): {why.replace('-', ' ')}",
            "mend it in their templates: sla-class is production, batch or best-effort; times are seconds above 0",
        )
    if not bad:
        yield ok("all are understood")


def _ours_alone(facts: Facts) -> Dedicated:
    """Label and taint to give to nodes; the chart's own where nothing tells."""
    return facts.dedicated if isinstance(facts.dedicated, Dedicated) else DEDICATED


def _is_ours(facts: Facts, pod: Json) -> bool:
    return bool(pod["spec"].get("schedulerName") == facts.parts.scheduler_name)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
