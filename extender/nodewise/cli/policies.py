"""`nodewise policies`: what can be asked for by name."""

from __future__ import annotations

from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document

_LEARNED = "a bundle that training exported, given with --bundle DIR"


def command(output: OutputOption = Format.TABLE) -> None:
    """List the policies, a line each."""
    from nodewise.policies import DEFAULT, ORACLE, POLICIES

    rows = [{"policy": name, "says": rule.says, "oracle": rule.uses_run_times} for name, rule in POLICIES.items()]
    rows.append({"policy": "learned", "says": _LEARNED, "oracle": False})
    if output is Format.JSON:
        document(rows)
        return
    made = Table("policy", "what it does", show_edge=False)
    for row in rows:
        made.add_row(f"{row['policy']}{' *' if row['oracle'] else ''}", str(row["says"]))
    console.print(made)
    console.print(
        f"\n{DEFAULT.name} decides when nothing else is asked for, and stands in when a learned policy fails.\n"
        f"* also as NAME{ORACLE} in simulations, told true run times: what better prediction would be worth."
    )
