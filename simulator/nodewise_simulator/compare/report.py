"""A comparison as one HTML page that needs nothing else: numbers, pictures, and what made them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from nodewise.core.units import number
from nodewise_simulator import lab
from nodewise_simulator.compare.plots import PICTURES
from nodewise_simulator.compare.rows import Row

if TYPE_CHECKING:
    from nodewise_simulator.compare.grid import Grid

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
small { color: #777; display: block }
.better { color: #1b7837 } .worse { color: #b2182b }
code { background: #f4f4f4; padding: .1rem .3rem; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
"""
_TITLES = {"ratios": "Ratios", "cdf": "Time to completion", "pareto": "Completion against energy"}
_CAPTIONS = {
    "ratios": "The figure that policies are compared by, as a ratio to the baseline's, paired by seed; green is "
    "better, red is worse, and bars that cross 1 show nothing.",
    "cdf": "Creation to end of the counted pods: the mean over seeds of each quantile.",
    "pareto": "Mean completion against the energy that pods draw above idle, with intervals over seeds.",
}


def report(
    grid: Grid, rows: Sequence[Row], pictures: Mapping[str, str], about: Mapping[str, str],
    played_by: Sequence[Mapping[str, str]] = (),
) -> str:  # fmt: skip
    """The page; `pictures` are SVG by name, `about` is {command, commit}, `played_by` as of `grid.simulators`."""
    seeds = ", ".join(map(str, grid.seeds)) if len(grid.seeds) < 4 else f"{grid.seeds[0]} to {grid.seeds[-1]}"
    counted = (
        f"{len(grid.seeds)} seeds ({seeds}). In brackets: 95 % bootstrap intervals over seeds; ratios are of totals, "
        "paired by seed. In scenarios with pods, every one that was submitted after the warm-up counts, also one that "
        "never ended. Times of decisions are those of a machine that does other work too."
    )
    body = [
        f"<h1>Policies side by side</h1><p>{escape(counted)}</p>",
        f"<p>Made by <code>{escape(about['command'])}</code> at commit <code>{escape(about['commit'])}</code>.</p>",
    ]
    for scenario in grid.scenarios:
        of_scenario = [row for row in rows if row.scenario == scenario]
        body += [f"<h2>{escape(scenario)}</h2>", _table(of_scenario), _played_by(scenario, played_by)]
    for name in PICTURES:
        if name in pictures:
            body += [f"<h2>{_TITLES[name]}</h2><p>{escape(_CAPTIONS[name])}</p>", _inline(pictures[name])]
    title = escape(f"Nodewise: {', '.join(grid.scenarios)}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _played_by(scenario: str, played_by: Sequence[Mapping[str, str]]) -> str:
    """Which engine played which policies."""
    by: dict[str, list[str]] = {}
    for each in played_by:
        if each["scenario"] == scenario:
            by.setdefault(each["simulator"], []).append(each["policy"])
    if not by:
        return ""
    told = "; ".join(f"{simulator}: {', '.join(policies)}" for simulator, policies in by.items())
    return f"<p><small>Played by the engine {escape(told)}. Both place every pod alike.</small></p>"


def _table(rows: Sequence[Row]) -> str:
    first = sorted(rows, key=lambda row: not row.metric.endswith("_ratio"))  # what they are compared by
    metrics = {row.metric: row.unit for row in first}
    cells = {(row.policy, row.metric): row for row in rows}
    head = "".join(f"<th>{escape(metric)}<small>{escape(unit)}</small></th>" for metric, unit in metrics.items())
    lines = [f"<tr><th>policy</th>{head}</tr>"]
    for policy in dict.fromkeys(row.policy for row in rows):
        values = "".join(_cell(cells.get((policy, metric))) for metric in metrics)
        lines.append(f"<tr><td>{escape(policy)}</td>{values}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _cell(row: Row | None) -> str:
    if row is None:
        return "<td>–</td>"
    kind = ""
    if row.metric.endswith("_ratio"):
        more = lab.higher_is_better(row.scenario)
        kind = _kind(row.low > 1.0, row.high < 1.0) if more else _kind(row.high < 1.0, row.low > 1.0)
    between = f"<small>[{number(row.low)}, {number(row.high)}]</small>" if row.seeds > 1 else ""
    return f"<td{kind}>{number(row.mean)}{between}</td>"


def _kind(better: bool, worse: bool) -> str:
    return ' class="better"' if better else ' class="worse"' if worse else ""


def _inline(svg: str) -> str:
    """Without what only a file of its own has: the XML declaration and the document type."""
    return re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", svg, flags=re.DOTALL).strip()
