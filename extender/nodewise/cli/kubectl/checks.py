"""The doctor's checks, each of what was gathered, in the order in which they are told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nodewise import __version__
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl import workloads
from nodewise.cli.kubectl.checks_around import (
    autoscalers,
    dedicated_nodes,
    malformed,
    opt_in,
    shared_nodes,
    stuck_pods,
)
from nodewise.cli.kubectl.checks_scheduler import extender, lease, scheduler_config
from nodewise.cli.kubectl.facts import Facts, known
from nodewise.cli.kubectl.findings import Finding, Verdict, counted, fail, ok, warn
from nodewise.cli.kubectl.rights import Right
from nodewise.core.errors import UserError

Check = Callable[[Facts], Iterator[Finding]]

KINDS = tuple(
    f"{plural}.nodewise.dev" for plural in ("nodeprofiles", "placementpolicies", "policymodels", "trainingruns")
)
INSTALL = "helm install nodewise charts/nodewise -n nodewise-system --create-namespace"
_MANAGED_BY = "app.kubernetes.io/managed-by"
_LEAST_AGREEMENT, _MOST_FALLBACKS = 0.9, 0.05
_OPT_IN_MINOR = 36
"""From which on MutatingAdmissionPolicy is on without anybody's doing."""


def examined(facts: Facts, checks: Mapping[str, Check]) -> list[Finding]:
    """Every check's findings; one that may not look says so."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            # One by one: what was found before a refusal stands.
            findings.extend(replace(finding, check=name) for finding in check(facts))
        except UserError as error:
            findings.append(Finding(name, Verdict.UNKNOWN, str(error)))
    return findings


def installed(facts: Facts) -> Iterator[Finding]:
    """The operator and, if there is one, the scheduler run."""
    parts = facts.parts
    idle = {one.component: one for one in facts.idle} if isinstance(facts.idle, list) else {}
    if not parts.operators and not parts.schedulers and not idle:
        known(facts.idle)
        yield fail("no pod of Nodewise is here", INSTALL)
        return
    for what, pods in ((found.OPERATOR, parts.operators), (found.SCHEDULER, parts.schedulers)):
        if pods:
            yield _running(what, pods)
        elif what in idle:
            means = "nothing is recorded" if what == found.OPERATOR else f"pods that name {parts.scheduler_name} wait"
            judged = warn if what == found.OPERATOR and not idle[what].replicas else fail  # somebody wants it so
            yield judged(f"{idle[what].says}: {means}", idle[what].fix)
        elif what == found.OPERATOR:
            yield warn("there is no operator: nothing is recorded", "helm upgrade the release with operator.replicas 1")
        else:
            yield ok("no scheduler is installed: Nodewise advises, and places nothing")
    for secret in known(facts.missing):
        namespace, _, name = secret.secret.partition("/")
        keys = f" with the keys {', '.join(secret.keys)}" if secret.keys else ""
        yield fail(
            f"Secret {secret.secret} is not there, and pods of ours wait for it",
            f"make it{keys} (kubectl create secret generic -n {namespace} {name} --from-file=…; one of cert-manager: "
            f"kubectl describe certificate -n {namespace}), or name another one in the chart's values",
        )
    known(facts.idle)


def _running(what: str, pods: Sequence[Mapping[str, Any]]) -> Finding:
    """How many of the pods of a part are ready."""
    held = [dict(pod) for pod in pods]
    ready = sum(map(found.is_ready, held))
    why = workloads.waits([pod for pod in held if not found.is_ready(pod)])
    because = f" ({why})" if why else ""
    where = f"-n {held[0]['metadata']['namespace']} -l {found.PART_OF},{found.COMPONENT}={what}"
    if not ready:
        return fail(f"none of {counted(len(held), f'{what} pod')} is ready{because}", f"kubectl describe pods {where}")
    if ready < len(held) and what == found.SCHEDULER:
        return warn(
            f"{ready} of {counted(len(held), 'scheduler')} {'is' if ready == 1 else 'are'} ready{because}",
            f"kubectl logs {where} --all-containers: a failing leader has no heir",
        )
    return ok(f"{ready} of {counted(len(held), f'{what} pod')} ready")


def versions(facts: Facts) -> Iterator[Finding]:
    """Of Kubernetes, of the scheduler, of our parts among themselves."""
    told = known(facts.version)
    server = _minor(str(told.get("gitVersion") or ""))
    for pod in facts.parts.schedulers[:1]:
        image = found.image_of(pod, "kube-scheduler")
        tag = found.split_image(image)[1]
        ours = _minor(tag)
        fix = f"set scheduling.scheduler.image.tag to a v1.{server} version"
        if ours is None or server is None:
            yield warn(
                f"the version of {image or 'the scheduler'} cannot be told against {told.get('gitVersion')}", fix
            )
        elif ours > server or server - ours > 1:
            yield fail(
                f"kube-scheduler is 1.{ours} and the API server 1.{server}, which Kubernetes does not support", fix
            )
        elif ours < server:
            yield warn(f"kube-scheduler is 1.{ours}, one minor behind the API server's 1.{server}", fix)
        else:
            yield ok(f"kube-scheduler {tag} fits Kubernetes {told.get('gitVersion')}")
    versions = _our_versions(facts)
    if len(versions) > 1:
        yield warn(f"parts of several versions run: {', '.join(sorted(versions))}", "helm upgrade the release")
    elif versions and versions != {__version__}:
        (theirs,) = versions
        yield warn(
            f"this program is of version {__version__}, and what runs here of {theirs}",
            f"install this program in version {theirs}, or helm upgrade the release",
        )
    if server is not None and server < _OPT_IN_MINOR and facts.parts.schedulers and not known(facts.opt_in):
        yield warn(
            f"Kubernetes 1.{server} has no MutatingAdmissionPolicy switched on: the label of a namespace does nothing",
            f"write schedulerName: {facts.parts.scheduler_name} into the pods' templates",
        )


def crds(facts: Facts) -> Iterator[Finding]:
    """Our kinds are there, established, and what this program knows."""
    held = known(facts.crds)
    missing = [name for name in KINDS if held.get(name) is None]
    fix = "nodewise crds | kubectl apply --server-side --force-conflicts -f -"
    if missing and not facts.parts.namespace:  # kinds that are applied by hand would stand in helm's way
        yield fail(f"not installed: {', '.join(missing)}", f"{INSTALL}: it brings them")
    elif missing:
        yield fail(
            f"not installed: {', '.join(missing)}",
            f"helm upgrade the release: it brings them; with crds.install=false: {fix}",
        )
    there = {name: crd for name in KINDS if (crd := held.get(name)) is not None}
    waiting = [name for name, crd in there.items() if not _established(crd)]
    if waiting:
        yield fail(f"not established: {', '.join(waiting)}", f"kubectl describe crd {waiting[0]}")
    ours = _our_schemas()
    other = [name for name, crd in there.items() if _schema(crd) != ours[name]]
    helms = [name for name in other if found.labels(there[name]).get(_MANAGED_BY) == "Helm"]
    if helms:  # what kubectl takes over from Helm, Helm's next upgrade refuses to touch
        yield warn(
            f"of another version than this program: {', '.join(helms)}",
            f"helm upgrade the release to version {__version__}: it brings them",
        )
    if more := [name for name in other if name not in helms]:
        yield warn(f"of another version than this program: {', '.join(more)}", fix)
    if not missing and not waiting and not other:
        yield ok(f"all {len(KINDS)} kinds are installed, in our version")


def rbac(facts: Facts) -> Iterator[Finding]:
    """Every part may do what it must, and little else."""
    rights = known(facts.rights)
    short: dict[str, list[Right]] = {}
    wide: dict[str, list[Right]] = {}
    for right, allowed in rights.items():
        if allowed != right.wanted:
            (short if right.wanted else wide).setdefault(right.account, []).append(right)
    for account, lacking in short.items():
        yield fail(
            f"service account {account} may not {_listed(lacking)}", "helm upgrade the release: it brings the roles"
        )
    for account, more in wide.items():
        yield warn(
            f"service account {account} may {_listed(more)}, which it needs not",
            f"find the binding: kubectl get clusterrolebindings,rolebindings -A -o wide | grep {account.split('/')[1]}",
        )
    if rights and not short and not wide:
        yield ok(f"the service accounts may do what they must, and no more ({len(rights)} rights asked)")


def operator(facts: Facts) -> Iterator[Finding]:
    """It is ready and writes down what it sees."""
    for told in facts.operators:
        name = found.full_name(told.pod)
        status, answer = known(told.ready)
        if status != 200 and answer.get("status") == "standing by":
            yield ok(f"{name} stands by")
            continue
        if status != 200:
            yield fail(f"{name} does not work: {answer.get('status')}", f"kubectl logs -n {name.replace('/', ' ')}")
            continue
        samples = known(told.metrics)
        parked = found.total(samples, "nodewise_operator_events_parked_total")
        if parked:
            yield warn(
                f"{name} has left {counted(round(parked), 'event')} out", f"kubectl logs -n {name.replace('/', ' ')}"
            )
        else:
            yield ok(f"{name} watches and records")


def placement_policies(facts: Facts) -> Iterator[Finding]:
    """They are in force, decide themselves, and are followed."""
    policies = known(facts.policies)
    if policies and not any(found.phase(pod) == "Running" for pod in facts.parts.operators):
        yield warn(
            f"{counted(len(policies), 'policy', 'policies')} here, and no operator runs: what they say of themselves "
            "was true when one last did",
            "bring the operator back, or delete them: kubectl delete placementpolicies --all",
        )
        return
    for policy in policies or ():
        name, status = policy["metadata"]["name"], policy.get("status") or {}
        look = f"kubectl describe placementpolicy {name}"
        bad = {c["type"]: c for c in status.get("conditions") or ()}
        degraded = bad.get("Degraded") or {}
        if degraded.get("status") == "True":
            judged = warn if degraded.get("reason") == "Fallbacks" else fail  # a rule that decides is no failure
            yield judged(f"{name}: {degraded.get('message')}", look)
        elif (bad.get("Stale") or {}).get("status") == "True":
            yield warn(
                f"{name}: {bad['Stale'].get('message')}", "kubectl nodewise status, for the extender that is silent"
            )
        agreement = _share(status.get("agreement"))
        if (
            agreement is not None
            and agreement < _LEAST_AGREEMENT
            and (policy.get("spec") or {}).get("mode") == "Active"
        ):
            yield warn(
                f"{name}: only {status['agreement']} of its pods were bound to the node that won",
                "check the extender's weight and other score plugins in the scheduler's configuration",
            )
        decisions, fallbacks = int(status.get("decisions") or 0), int(status.get("fallbacks") or 0)
        if decisions and fallbacks / decisions > _MOST_FALLBACKS:
            yield warn(f"{name}: the rule had to decide {fallbacks} of {decisions} times", look)
    if policies is not None and not policies:
        yield ok("none: every pod of ours has the extenders' default mode")
    elif policies:
        yield ok(f"{len(policies)} looked at")


CHECKS: dict[str, Check] = {
    "installed": installed,
    "versions": versions,
    "crds": crds,
    "rbac": rbac,
    "operator": operator,
    "scheduler config": scheduler_config,
    "lease": lease,
    "extender": extender,
    "placement policies": placement_policies,
    "opt-in": opt_in,
    "dedicated nodes": dedicated_nodes,
    "shared nodes": shared_nodes,
    "stuck pods": stuck_pods,
    "autoscalers": autoscalers,
    "annotations": malformed,
}


def _minor(version: str) -> int | None:
    """Of v1.36.3."""
    parts = version.removeprefix("v").split(".")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "1" and parts[1].isdigit() else None


def _our_versions(facts: Facts) -> set[str]:
    """That our pods' labels and our images' tags name; a tag such as `latest`, or a digest, names none."""
    pods = (*facts.parts.operators, *facts.parts.schedulers)
    named = {found.version_of(pod) for pod in pods} - {""}
    for container in (container for pod in pods for container in found.containers(pod)):
        repository, tag, _ = found.split_image(str(container.get("image") or ""))
        if repository.rpartition("/")[2].startswith("nodewise") and tag.removeprefix("v")[:1].isdigit():
            named.add(tag.removeprefix("v"))
    return named


def _established(crd: Mapping[str, Any]) -> bool:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)


def _schema(crd: Mapping[str, Any]) -> Any:
    return {
        version["name"]: (version.get("schema") or {}).get("openAPIV3Schema")
        for version in (crd.get("spec") or {}).get("versions") or ()
    }


def _our_schemas() -> dict[str, Any]:
    from nodewise_operator.resources import KINDS as RESOURCES
    from nodewise_operator.resources.generate import crd

    return {f"{kind.plural}.nodewise.dev": _schema(crd(kind)) for kind in RESOURCES}


def _listed(rights: list[Right]) -> str:
    said = [str(right) for right in rights]
    return ", ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")


def _share(percent: str | None) -> float | None:
    return float(percent.rstrip("%")) / 100 if percent else None
