"""The advice as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nodewise.core.errors import UserError
from nodewise_simulator.advise.advice import RECORDED, Advice
from nodewise_simulator.advise.gains import Gain, Verdict
from nodewise_simulator.advise.outcomes import METRICS
from nodewise_simulator.advise.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {Verdict.GAINS: "#1b7837", Verdict.LOSES: "#b2182b", Verdict.NOTHING: "#555555", Verdict.UNKNOWN: "#c98a00"}
_NAMES = {"completion": "time to completion", "sla_misses": "missed deadlines", "energy": "energy", "cost": "cost"}
_MOST = 14


def check_name(path: Path) -> None:
    """Raises UserError if the picture could not be written in the end."""
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"--picture {path} is neither SVG nor PNG: let its name end in .svg or .png")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--picture {path} is in a folder that does not exist: make it")


def draw(advice: Advice, path: Path) -> None:
    """Savings in percent with their intervals: of each metric over all pods, and of the cost of each workload."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = advice.workloads[:_MOST]
    figure = Figure(figsize=(9, 2.6 + 0.32 * (len(METRICS) + len(groups))), layout="constrained")
    FigureCanvasAgg(figure)
    top, below = figure.subplots(2, 1, height_ratios=[len(METRICS), max(len(groups), 1)], sharex=True)
    total = advice.total
    _points(
        top, [_NAMES[m] for m in METRICS], [total.gains[m] for m in METRICS],
        [_COLOURS[total.verdict] if m == "cost" else "#333333" for m in METRICS],
    )  # fmt: skip
    top.set_title(f"All {total.decisions} pods: {total.verdict.value}", loc="left", fontsize=10)
    several = len({g.namespace for g in groups}) > 1
    labels = [f"{g.namespace + '/' if several else ''}{short(g.workload)} ({g.decisions})" for g in groups]
    _points(below, labels, [g.gains["cost"] for g in groups], [_COLOURS[g.verdict] for g in groups])
    below.set_title("Cost, by workload (pods)", loc="left", fontsize=10)
    below.set_xlabel("saved, % of what is spent; bars: 95 % interval; beyond ±100 % cut off")
    before = "the recorded placements" if advice.baseline == RECORDED else advice.baseline
    figure.suptitle(f"{advice.policy} instead of {before}", fontsize=12)
    for verdict in dict.fromkeys(g.verdict for g in groups):
        below.plot([], [], "o", color=_COLOURS[verdict], label=verdict.value)
    below.legend(loc="best", fontsize=8, frameon=False)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
    except OSError as error:
        raise UserError(f"--picture {path} cannot be written ({error.strerror}): name another file") from error


def _points(axes: Axes, labels: list[str], gains: list[Gain], colours: list[str]) -> None:
    for at, (gain, colour) in enumerate(zip(gains, colours, strict=True)):
        scale = 100.0 / gain.before if gain.before > 0.0 else 0.0
        low, mean, high = (min(max(v * scale, -100.0), 100.0) for v in (gain.low, gain.mean, gain.high))
        axes.plot([low, high], [at, at], color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot([mean], [at], "o", color=colour)
    axes.axvline(0.0, color="#999999", linewidth=1)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#eeeeee")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
