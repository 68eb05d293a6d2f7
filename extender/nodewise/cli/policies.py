"""`nodewise policies`: what can be asked for by name."""

from __future__ import annotations

from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document


def command(output: OutputOption = Format.TABLE) -> None:
    """List the policies, a line each."""
    from nodewise.policies import DEFAULT, LEARNED, ORACLE, POLICIES, builtin
    from nodewise.policies.bundle import read_card
    from nodewise.policies.defer import DEFER, ORDER

    rows = [{"policy": name, "says": rule.says, "oracle": rule.uses_run_times} for name, rule in POLICIES.items()]
    learned = "a bundle that training exported, given with --bundle DIR"
    folder = builtin()
    if folder is not None:
        learned += f"; without it, the one that is built in: {read_card(folder).name}"
    rows.append({"policy": LEARNED, "says": learned, "oracle": False})
    simulated = _only_simulated()
    if output is Format.JSON:
        document(rows, only_simulated=[{"policy": name, "says": says} for name, says in simulated.items()])
        return
    made = Table("policy", "what it does", show_edge=False)
    for row in rows:
        made.add_row(f"{row['policy']}{' *' if row['oracle'] else ''}", str(row["says"]))
    endings = {
        f"NAME{DEFER}": "lets a pod wait for a node that is to free up",
        f"NAME{ORDER}": "orders the pods that wait",
        f"NAME{DEFER}{ORDER}": "does both",
        f"NAME{ORACLE}": "is told true run times, NAME being one with *: what better prediction would be worth",
    }
    made.add_section()
    made.add_row("", "Only in simulations; NAME is one of those above:")
    for name, says in (endings | simulated).items():
        made.add_row(name, says)
    console.print(made)
    first = "" if folder is None else f"{LEARNED} decides when nothing else is asked for, and "
    second = "stands in" if first else "decides when nothing else is asked for, and stands in"
    console.print(f"\n{first}{DEFAULT.name} {second} where a learned policy fails or meets what it was not trained on.")


def _only_simulated() -> dict[str, str]:
    """What else worlds are played by, with a line on each; nothing where the simulator is not installed."""
    try:
        from nodewise_simulator.lab import only_here
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("nodewise_simulator"):
            return {}
        raise
    return only_here()
