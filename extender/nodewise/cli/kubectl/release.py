"""`kubectl nodewise release`: pods that wait for our scheduler, given to another one.

The schedulerName of a Pending pod cannot be changed (the API server answers 422). So the pod goes and comes again: one
with a controller by its controller, a bare one by us, from a manifest that is on disk before anything is deleted.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, ContextOption, Json, KubeconfigOption, NamespaceOption, SystemOption
from nodewise.cli.kubectl.dedicated import DEDICATED, dedicated
from nodewise.cli.kubectl.releasing import Outcome, Release, Took, take_back
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption, console
from nodewise.core.errors import UserError


def command(
    namespace: NamespaceOption = "",
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")] = False,
    to: Annotated[str, typer.Option(help="Scheduler that bare pods are recreated for.")] = "default-scheduler",
    scheduler_name: Annotated[
        str, typer.Option(help="Pods of this schedulerName are ours. Without it: as our scheduler is configured.")
    ] = "",
    dedicated_key: Annotated[
        str,
        typer.Option(
            help="Key of the toleration and node selector that our admission policy added. Without it: as that policy "
            f"says, else {DEDICATED.key}.",
            show_default=False,
        ),
    ] = "",
    remove_label: Annotated[
        bool, typer.Option("--remove-label", help=f"First take the label {found.OPT_IN} off the namespaces.")
    ] = False,
    backup: Annotated[
        Path | None, typer.Option(help="Folder for the manifests of bare pods. Default: nodewise-release-TIME.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    system: SystemOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Recreate pods that wait for our scheduler, for another one: the way out when Nodewise goes."""
    if namespace and everywhere:
        raise UserError("-n and -A exclude each other: name a namespace, or take all")
    with Cluster(kubeconfig, context, namespace) as cluster:
        name, doubt = (scheduler_name, "") if scheduler_name else cluster.run(_name(cluster, system))
        if to == name:
            raise UserError(f"--to {to} is the scheduler that the pods wait for: name another one")
        where = None if everywhere else cluster.namespace
        stuck = cluster.run(waiting(cluster, where, name))
        if doubt:
            typer.echo(f"taking {name} for the name of Nodewise's scheduler: {doubt}", err=True)
        folder = backup or Path(time.strftime("nodewise-release-%Y%m%dT%H%M%SZ", time.gmtime()))
        key = dedicated_key or cluster.run(_key(cluster, name))
        release = Release(cluster, name, to, key, folder)
        spaces = sorted({pod["metadata"]["namespace"] for pod in stuck})
        taken = cluster.run(release.still_taken(stuck))
        if taken and not remove_label:
            raise UserError(_still_ours(taken, name))
        if dry_run:
            outcomes = cluster.run(release.planned(stuck))
        else:
            if stuck and not yes:
                _confirm(stuck, spaces, name, to, output)
            if taken:
                cluster.run(take_back(cluster, release, taken, stuck))
            outcomes = release.run(stuck)
    _say(outcomes, name, where, output, dry_run=dry_run, folder=folder)
    if any(outcome.took is Took.FAILED for outcome in outcomes):
        raise typer.Exit(1)


async def _name(cluster: Cluster, system: str) -> tuple[str, str]:
    """The scheduler name whose pods are released, never one that a tenant could have written somewhere; and why it may
    be another, empty if that is known.
    """
    try:
        parts = await found.find(cluster, system)
    except found.Hidden as hidden:
        return found.SCHEDULER_NAME, f"{hidden}, or the scheduler with --scheduler-name"
    if parts.namespace not in ("", system, found.SYSTEM_NAMESPACE):
        raise UserError(
            f"pods with the labels of Nodewise are in namespace {parts.namespace}: if it runs there, say "
            f"--system-namespace {parts.namespace}, so that nobody else's pods say what is released"
        )
    return parts.scheduler_name, parts.config_refused if parts.config is None else ""


async def _key(cluster: Cluster, name: str) -> str:
    try:
        held = await dedicated(cluster, name)
    except UserError:
        held = None
    return (held or DEDICATED).key


async def waiting(cluster: Cluster, namespace: str | None, scheduler_name: str) -> list[Json]:
    """Pods that wait for that scheduler, by namespace and name; those on their way out are none."""
    selector = f"spec.nodeName=,status.phase=Pending,spec.schedulerName={scheduler_name}"
    pods = await cluster.pods(namespace, fieldSelector=selector)
    return sorted(filter(found.is_stuck, pods), key=lambda pod: (pod["metadata"]["namespace"], pod["metadata"]["name"]))


def _still_ours(taken: list[str], name: str) -> str:
    which = f"namespace {taken[0]}" if len(taken) == 1 else f"namespaces {', '.join(taken)}"
    return (
        f"new pods of {which} still go to {name}, so that recreating them would change nothing: take the label "
        f"{found.OPT_IN} off first (--remove-label does), or delete the admission policy that goes by it"
    )


def _confirm(stuck: list[Json], spaces: list[str], name: str, to: str, output: Format) -> None:
    if not sys.stdin.isatty() or output is Format.JSON:
        raise UserError(f"{len(stuck)} pods would be recreated: say --yes, or look first with --dry-run")
    typer.confirm(
        f"Recreate {len(stuck)} pods that wait for {name} in {', '.join(spaces)}, for {to}?", abort=True, err=True
    )


def _say(outcomes: list[Outcome], name: str, where: str | None, output: Format, *, dry_run: bool, folder: Path) -> None:
    written = folder if any(outcome.manifest for outcome in outcomes) else None
    if output is Format.JSON:
        printed(outcomes, scheduler_name=name, dry_run=dry_run, manifests=str(written) if written else None)
        return
    if not outcomes:
        console.print(f"No pod waits for {name} in {f'namespace {where}' if where else 'any namespace'}.")
        return
    made = Table("namespace", "pod", "what", "says", show_edge=False)
    for outcome in outcomes:
        style = "bold red" if outcome.took is Took.FAILED else ""
        made.add_row(outcome.namespace, outcome.pod, outcome.took.value, outcome.says, style=style)
    console.print(made)
    counts = Counter(outcome.took.value for outcome in outcomes)
    console.print(", ".join(f"{count} {what}" for what, count in counts.items()))
    if written:
        console.print(f"The manifests of bare pods are in {written}/.", markup=False)
