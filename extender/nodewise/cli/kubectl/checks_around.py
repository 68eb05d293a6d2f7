"""Checks of what is around us: namespaces, nodes, other schedulers, autoscalers, and the pods themselves. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.dedicated import DEDICATED, Dedicated
from nodewise.cli.kubectl.facts import KARPENTER, Facts, known
from nodewise.cli.kubectl.findings import Finding, counted, fail, ok, warn
from nodewise.core.annotations import DEADLINE, EXPECTED, PREFIX, SLA_CLASS, WORKLOAD, hints
from nodewise.core.errors import UserError
from nodewise.core.labels import selects
from nodewise.core.units import epoch_s

Json = dict[str, Any]

_NAMED = 5
"""Examples told of what there may be many of."""
_STUCK_S = 60.0
_HINTS = (SLA_CLASS, DEADLINE, EXPECTED, WORKLOAD)
_OUR_OWN = (PREFIX + "profile-run", PREFIX + "profiled-class")
"""Of pods that `nodewise profile` makes."""


def opt_in(facts: Facts) -> Iterator[Finding]:
    """Who has joined is served, and by a policy that somebody chose."""
    joined = found.namespaces_opted_in(known(facts.namespaces))
    told = {s["metadata"]["name"]: found.labels(s).get(found.OPT_IN) for s in known(facts.namespaces)}
    odd = [f"{name} ({value!r})" for name, value in told.items() if value not in (None, found.OPTED_IN, "disabled")]
    if odd:
        yield warn(
            f"the label {found.OPT_IN} means nothing with these values: {_some(odd)}",
            f"kubectl label --overwrite namespace {odd[0].partition(' ')[0]} {found.OPT_IN}={found.OPTED_IN}",
        )
    if not facts.parts.schedulers:
        if joined:
            yield _joined_nobody(facts, joined)
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
    yield ok(f"{counted(len(joined), 'namespace')} joined" + (f": {_some(joined)}" if joined else ""))


def _joined_nobody(facts: Facts, joined: list[str]) -> Finding:
    """The label, where no scheduler of ours has a pod."""
    fix = f"{_bring_back(facts)}; or take the label off: kubectl label namespaces {' '.join(joined)} {found.OPT_IN}-"
    if isinstance(facts.opt_in, list) and facts.opt_in:
        return fail(f"{_some(joined)} joined, and no scheduler of ours is here: their new pods wait", fix)
    also = (
        ", unless an admission policy that you may not list acts on it" if isinstance(facts.opt_in, UserError) else ""
    )
    return warn(f"{_some(joined)} joined, and nothing of ours places pods: the label does nothing{also}", fix)


def _bring_back(facts: Facts) -> str:
    """How the scheduler comes back."""
    idle = facts.idle if isinstance(facts.idle, list) else []
    return next((one.fix for one in idle if one.component == found.SCHEDULER), "install with scheduling.enabled=true")


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
    if not labelled:
        yield warn(
            f"no node has the label {key}={value}: pods of namespaces that join find no node",
            f"kubectl label node NAME {key}={value} && kubectl taint node NAME {key}={value}:NoSchedule",
        )
    if untainted:
        yield warn(
            f"the label {key} without the taint is on {_some(untainted)}: other schedulers' pods come there too",
            f"kubectl taint node {untainted[0]} {key}={value}:NoSchedule",
        )
    if labelled and not untainted:
        yield ok("1 node is ours alone" if len(labelled) == 1 else f"{len(labelled)} nodes are ours alone")


def shared_nodes(facts: Facts) -> Iterator[Finding]:
    """Two schedulers on one node do not see each other's reservations."""
    users: dict[str, Counter[bool]] = {}
    for pod in known(facts.pods):
        node = pod["spec"].get("nodeName")
        tied = any(owner["kind"] in ("DaemonSet", "Node") for owner in pod["metadata"]["ownerReferences"])
        if not node or tied or found.phase(pod) in ("Succeeded", "Failed"):
            continue
        users.setdefault(node, Counter())[_is_ours(facts, pod)] += 1
    shared = sorted(node for node, count in users.items() if count[True] and count[False])
    if shared:
        yield warn(
            f"{counted(len(shared), 'node takes', 'nodes take')} pods of ours and of other schedulers ({_some(shared)})"
            ": when another scheduler preempts pods to make room, a pod of ours can take that room first, and the one "
            "it was made for stays Pending",
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
            f"{counted(len(waiting), 'pod waits', 'pods wait')} for {facts.parts.scheduler_name}, and no scheduler of "
            f"that name leads ({names})",
            f"bring the scheduler back ({_how_back(facts)}); or give them to the default scheduler: kubectl nodewise "
            f"release -A --remove-label{_whose(facts)}",
        )
    elif old:
        one = old[0]["metadata"]
        yield warn(
            f"{counted(len(old), 'pod of ours waits', 'pods of ours wait')} for more than {_STUCK_S:.0f} s ({names})",
            f"kubectl describe pod -n {one['namespace']} {one['name']}",
        )
    else:
        yield ok(f"{counted(len(waiting), 'pod waits', 'pods wait')}, none for long")


def _how_back(facts: Facts) -> str:
    """As `_bring_back`, also of a scheduler that is there and does not lead."""
    if not facts.parts.schedulers:
        return _bring_back(facts)
    return f"kubectl describe pods -n {facts.parts.namespace} -l {found.PART_OF},{found.COMPONENT}={found.SCHEDULER}"


def _whose(facts: Facts) -> str:
    """What `release` has to be told: it trusts one namespace, and cannot ask what is gone."""
    if facts.parts.namespace:
        known_place = facts.parts.namespace == found.SYSTEM_NAMESPACE
        return "" if known_place else f" --system-namespace {facts.parts.namespace}"
    return f" --scheduler-name {facts.parts.scheduler_name}"


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
    unread: dict[str, list[str]] = {}
    for pod in known(facts.pods):
        for reason in hints(pod["metadata"]["annotations"], 0, False).ignored:
            bad.setdefault(reason, []).append(found.full_name(pod))
        if pod["metadata"]["namespace"] != facts.parts.namespace:
            for told in _unread(pod):
                unread.setdefault(told, []).append(found.full_name(pod))
    for reason, pods in sorted(bad.items()):
        key, _, why = reason.partition(":")
        yield warn(
            f"nodewise.dev/{key} is ignored in {counted(len(pods), 'pod')} ({_some(pods)}): {why.replace('-', ' ')}",
            "mend it in their templates: sla-class is production, batch or best-effort; times are seconds above 0",
        )
    for told, pods in sorted(unread.items()):
        yield warn(
            f"{told} of {counted(len(pods), 'pod')} ({_some(pods)}) is not read",
            f"mend it in their templates: annotations of pods that are read are {', '.join(_HINTS)}, and "
            f"{found.OPT_IN}: disabled, which a label may say too",
        )
    if not bad and not unread:
        yield ok("all are understood")


def _unread(pod: Json) -> Iterator[str]:
    """Keys of ours on a pod that nobody reads there, with what they are."""
    meta = pod["metadata"]
    for what, known_keys in (("annotation", (*_HINTS, *_OUR_OWN)), ("label", _OUR_OWN)):
        for key, value in meta[f"{what}s"].items():
            if key == found.OPT_IN and value != "disabled":
                yield f"{what} {key}: {value}"
            elif key != found.OPT_IN and key not in known_keys:
                yield f"{what} {key}"


def _ours_alone(facts: Facts) -> Dedicated:
    """Label and taint to give to nodes; the chart's own where nothing tells."""
    return facts.dedicated if isinstance(facts.dedicated, Dedicated) else DEDICATED


def _is_ours(facts: Facts, pod: Json) -> bool:
    return bool(pod["spec"].get("schedulerName") == facts.parts.scheduler_name)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
