"""`nodewise policies`: what can be asked for by name."""

from __future__ import annotations

from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document


def command(output: OutputOption = Format.TABLE) -> None:
    """List the policies, a line each."""
    from nodewise.policies import DEFAULT, LEARNED, ORACLE, POLICIES, builtin
    from nodewise.policies.bundle import read_card

    rows = [{"policy": name, "says": rule.says, "oracle": rule.uses_run_times} for name, rule in POLICIES.items()]
    learned = "a bundle that training exported, given with --bundle DIR"
    folder = builtin()
    if folder is not None:
        learned += f"; without it, the one that is built in: {read_card(folder).name}"
    rows.append({"policy": LEARNED, "says": learned, "oracle": False})
    if output is Format.JSON:
        document(rows)
        return
    made = Table("policy", "what it does", show_edge=False)
    for row in rows:
        made.add_row(f"{row['policy']}{' *' if row['oracle'] else ''}", str(row["says"]))
    console.print(made)
    first = "" if folder is None else f"{LEARNED} decides when nothing else is asked for, and "
    second = "stands in" if first else "decides when nothing else is asked for, and stands in"
    console.print(
        f"\n{first}{DEFAULT.name} {second} where a learned policy fails or meets what it was not trained on.\n"
        f"* also as NAME{ORACLE} in simulations, told true run times: what better prediction would be worth.\n"
        "There, too, NAME-defer may let a pod wait for a node that is to free up, NAME-cmu orders those that wait,\n"
        "and NAME-defer-cmu does both; what else can be played stands in simulator/README.md."
    )
