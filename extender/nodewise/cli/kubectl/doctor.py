"""`kubectl nodewise doctor`: is everything as it must be, and if not, what mends it."""

from __future__ import annotations

from collections import Counter

import typer
from rich.table import Table

from nodewise.cli.kubectl.cluster import Cluster, ContextOption, KubeconfigOption, SystemOption
from nodewise.cli.kubectl.shown import printed
from nodewise.cli.output import Format, OutputOption, console


def command(
    system: SystemOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check versions, rights, configuration, freshness and surroundings; say each fix. Exit status 1 if any fails."""
    from nodewise.cli.kubectl.checks import CHECKS, KINDS, examined
    from nodewise.cli.kubectl.facts import gather
    from nodewise.cli.kubectl.findings import Verdict

    with Cluster(kubeconfig, context) as cluster:
        findings = examined(cluster.run(gather(cluster, KINDS, system)), CHECKS)
    counts = Counter(finding.verdict for finding in findings)
    if output is Format.JSON:
        printed(findings, counts={verdict.value: counts[verdict] for verdict in Verdict})
    else:
        made = Table("", "check", "says", show_edge=False, show_header=False, padding=(0, 1))
        for finding in findings:
            fix = f"\n→ {finding.fix}" if finding.fix else ""
            made.add_row(finding.verdict.value, finding.check, finding.says + fix, style=_STYLE[finding.verdict])
        console.print(made)
        console.print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]))
    if counts[Verdict.FAIL]:
        raise typer.Exit(1)


_STYLE = {"ok": "", "warn": "yellow", "fail": "bold red", "unknown": "dim"}
