"""What a comparison looks like: completion as distributions, cost against energy, and ratios with their intervals."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nodewise_simulator import lab
from nodewise_simulator.compare.rows import Row
from nodewise_simulator.metrics import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nodewise_simulator.compare.grid import Grid

_COLOURS = (
    "#1b7837", "#2166ac", "#b2182b", "#c98a00", "#762a83", "#35978f", "#666666", "#d6604d", "#4393c3", "#8c510a",
)  # fmt: skip
_STYLES = ("-", "--", ":", "-.")


PICTURES = ("ratios", "cdf", "pareto")


def pictures(grid: Grid, results: Sequence[Result], rows: Sequence[Row]) -> dict[str, str]:
    """SVG by name, of `PICTURES`, each with a panel per scenario; what would be empty is left out."""
    drawn = (
        lambda axes, scenario: _ratios(axes, scenario, rows),
        lambda axes, scenario: _cdf(axes, grid, scenario, results),
        lambda axes, scenario: _pareto(axes, grid, scenario, rows),
    )
    made = {name: _panels(name, grid, draw) for name, draw in zip(PICTURES, drawn, strict=True)}
    return {name: svg for name, svg in made.items() if svg}


def _panels(name: str, grid: Grid, draw: Callable[[Axes, str], bool]) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [scenario for scenario in grid.scenarios if draw(Figure().subplots(), scenario)]
    if not shown:
        return ""
    most = max(len(grid.of(scenario)) for scenario in shown)
    figure = Figure(figsize=(9, (2.2 + 0.28 * most) * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, scenario in zip(figure.subplots(len(shown), 1, squeeze=False).flat, shown, strict=True):
        draw(axes, scenario)
        axes.set_title(scenario, loc="left", fontsize=10)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    # Several of them stand in one page, where an id may be used once.
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", out.getvalue())


def _cdf(axes: Axes, grid: Grid, scenario: str, results: Sequence[Result]) -> bool:
    """Share of pods that had ended so long after they were created: the mean over seeds of each quantile."""
    drawn = False
    for k, name in enumerate(grid.of(scenario)):
        found = [r.completion_s for r in results if (r.scenario, r.policy) == (scenario, name) and r.completion_s]
        if found:
            style = _STYLES[k // len(_COLOURS) % len(_STYLES)]
            colour = _COLOURS[k % len(_COLOURS)]
            axes.plot(np.mean(found, axis=0), np.arange(101), style, color=colour, label=name, linewidth=1.4)
            drawn = True
    axes.set_xscale("log")
    axes.set_xlabel("creation to end, s")
    axes.set_ylabel("% of counted pods")
    axes.grid(color="#eeeeee")
    if drawn:
        axes.legend(fontsize=7, frameon=False, ncols=2)
    return drawn


def _pareto(axes: Axes, grid: Grid, scenario: str, rows: Sequence[Row]) -> bool:
    """Mean completion against energy; green are those that no other beats in both."""
    at = {(r.policy, r.metric): r for r in rows if r.scenario == scenario}
    points = [
        (at[name, "energy"], at[name, "completion_mean"], name)
        for name in grid.of(scenario) if (name, "energy") in at and (name, "completion_mean") in at
    ]  # fmt: skip
    for x, y, name in points:
        beaten = any(
            a.mean <= x.mean and b.mean <= y.mean and (a.mean, b.mean) != (x.mean, y.mean) for a, b, _ in points
        )
        colour = "#999999" if beaten else "#1b7837"
        axes.errorbar(
            x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]], yerr=[[y.mean - y.low], [y.high - y.mean]],
            fmt="o", color=colour, markersize=4, linewidth=1,
        )  # fmt: skip
        axes.annotate(name, (x.mean, y.mean), textcoords="offset points", xytext=(5, 4), fontsize=7, color=colour)
    axes.set_xlabel("energy above idle, Wh (green: no policy is better in both)")
    axes.set_ylabel("mean completion, s")
    axes.grid(color="#eeeeee")
    return bool(points)


def _ratios(axes: Axes, scenario: str, rows: Sequence[Row]) -> bool:
    """The headline of each policy as a ratio to the baseline's, with its paired interval."""
    found = [r for r in rows if r.scenario == scenario and r.metric.endswith("_ratio")]
    for k, row in enumerate(found):
        axes.plot([row.low, row.high], [k, k], color="#333333", linewidth=2.5, solid_capstyle="butt")
        better, worse = row.high < 1.0, row.low > 1.0
        if lab.higher_is_better(scenario):
            better, worse = row.low > 1.0, row.high < 1.0
        axes.plot([row.mean], [k], "o", color="#1b7837" if better else "#b2182b" if worse else "#333333")
    axes.axvline(1.0, color="#999999", linewidth=1)
    axes.set_yticks(range(len(found)), [row.policy for row in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{found[0].metric.removesuffix('_ratio') if found else ''} {found[0].unit if found else ''}")
    axes.grid(axis="x", color="#eeeeee")
    return bool(found)
