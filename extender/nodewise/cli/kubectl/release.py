"""`kubectl nodewise release`: pods that wait for our scheduler, given to another one.

The schedulerName of a Pending pod cannot be changed (the API server answers 422). So the pod goes and comes again: one
with a controller by its controller, a bare one by us, from a manifest that is on disk before anything is deleted.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nodewise.cli.kubectl import optin
from nodewise.cli.kubectl import parts as found
from nodewise.cli.kubectl.cluster import Cluster, ContextOption, Json, KubeconfigOption, NamespaceOption, SystemOption
from nodewise.cli.kubectl.dedicated import DEDICATED, dedicated
from nodewise.cli.kubectl.findings import counted
from nodewise.cli.kubectl.releasing import Outcome, Release, Took
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
        bool,
        typer.Option(
            "--remove-label",
            help=f"First take the label {found.OPT_IN} off the namespace, or with -A off all that have it.",
        ),
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
        if where is not None and not stuck:
            cluster.run(optin.require(cluster, where))
        if doubt:
            typer.echo(f"taking {name} for the name of Nodewise's scheduler: {doubt}", err=True)
        folder = backup or Path(time.strftime("nodewise-release-%Y%m%dT%H%M%SZ", time.gmtime()))
        key = dedicated_key or cluster.run(_key(cluster, name))
        release = Release(cluster, name, to, key, folder)
        taken = cluster.run(release.still_taken(stuck))
        if taken and not remove_label:
            raise UserError(_still_ours(taken, name))
        off = sorted({*taken, *cluster.run(_labelled(cluster, where, name))}) if remove_label else []
        if dry_run:
            outcomes = cluster.run(release.planned(stuck))
        else:
            if (stuck or off) and not yes:
                _confirm(stuck, off, name, to, output)
            if off:
                cluster.run(optin.take_off(cluster, release, off, stuck))
                stuck = cluster.run(waiting(cluster, where, name))  # some may have been made until then
            outcomes = release.run(stuck)
    _say(outcomes, off, name, where, output, dry_run=dry_run, folder=folder)
    if release.ended_by:
        typer.echo(f"interrupted by {signal.Signals(release.ended_by).name}", err=True)
        raise typer.Exit(128 + release.ended_by)  # as a shell says it
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


async def _labelled(cluster: Cluster, where: str | None, name: str) -> list[str]:
    """Namespaces whose label is to go, also where no pod waits: none if it is another scheduler's."""
    labelled = await optin.labelled(cluster, where)
    another = await optin.another_is_meant(cluster, name) if labelled else ""
    if another:
        typer.echo(f"the label stays on {', '.join(labelled)}: it sends pods to {another}, not to {name}", err=True)
    return [] if another else labelled


def _confirm(stuck: list[Json], off: list[str], name: str, to: str, output: Format) -> None:
    spaces = ", ".join(sorted({pod["metadata"]["namespace"] for pod in stuck}))
    label = f"take the label {found.OPT_IN} off {', '.join(off)}" if off else ""
    pods = counted(len(stuck), "pod")
    if not sys.stdin.isatty() or output is Format.JSON:
        would = [f"would {label}"] if label else []
        would += [f"would recreate {pods}"] if stuck else []
        raise UserError(f"this {' and '.join(would)}: say --yes, or look first with --dry-run")
    recreate = f"recreate {pods} waiting for {name} in {spaces}, for {to}" if stuck else ""
    asked = " and ".join(filter(None, (label, recreate)))
    typer.confirm(f"{asked[:1].upper()}{asked[1:]}?", abort=True, err=True)


def _say(
    outcomes: list[Outcome],
    off: list[str],
    name: str,
    where: str | None,
    output: Format,
    *,
    dry_run: bool,
    folder: Path,
) -> None:
    written = folder if any(outcome.manifest for outcome in outcomes) else None
    if output is Format.JSON:
        manifests = str(written) if written else None
        printed(outcomes, scheduler_name=name, dry_run=dry_run, labels_removed=off, manifests=manifests)
        return
    if off:
        console.print(f"The label {found.OPT_IN} {'would come' if dry_run else 'is'} off: {', '.join(off)}.")
    if not outcomes:
        console.print(f"No pod waits for {name} in {f'namespace {where}' if where else 'any namespace'}.")
        return
    made = Table("namespace", "pod", "would be" if dry_run else "what", "says", show_edge=False)
    for outcome in outcomes:
        style = "bold red" if outcome.took is Took.FAILED else ""
        made.add_row(outcome.namespace, outcome.pod, outcome.took.value, outcome.says, style=style)
    console.print(made)
    counts = Counter(outcome.took.value for outcome in outcomes)
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    console.print(f"Nothing was done; it would be: {told}." if dry_run else told)
    if written:
        console.print(f"The manifests of bare pods are in {written}/.", markup=False)
