"""What the owner of a cluster says nodes cost and draw, in the spec of a NodeProfile, as extender and operator read it.

Its schema is generated from `nodewise_operator.resources`; the API server has checked what arrives here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodewise.core.pods import NodeSpec

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Override:
    """Of one class of nodes; None where the NodeProfile says nothing."""

    profile: str
    node_class: str
    price_usd_per_h: float | None = None
    idle_w: float | None = None
    peak_w: float | None = None

    def applied(self, node: NodeSpec) -> NodeSpec:
        """The node as its owner sees it."""
        source = f"spec of NodeProfile {self.profile}"
        if self.price_usd_per_h is not None:
            node = replace(node, price_usd_per_h=self.price_usd_per_h, price_source=source)
        if self.idle_w is None and self.peak_w is None:
            return node
        idle_w = node.idle_w if self.idle_w is None else self.idle_w
        peak_w = node.peak_w if self.peak_w is None else self.peak_w
        both = self.idle_w is not None and self.peak_w is not None
        if not both and node.power_source and not node.power_source.startswith(source):
            source = f"{source}; {node.power_source}"
        return replace(node, idle_w=idle_w, peak_w=max(peak_w, idle_w), power_source=source)


def override(obj: Json) -> Override:
    """Read one NodeProfile. Raises KeyError for what is none."""
    spec = obj["spec"]
    told = (spec.get(key) for key in ("priceUsdPerHour", "idleWatts", "peakWatts"))
    numbers = [None if value is None else float(value) for value in told]
    return Override(obj["metadata"]["name"], spec["nodeClass"], *numbers)


def by_class(told: Iterable[Override]) -> dict[str, Override]:
    """Those that say anything, by node class; of several for one class, the first by name."""
    found: dict[str, Override] = {}
    for each in sorted(told, key=lambda each: each.profile):
        if (each.price_usd_per_h, each.idle_w, each.peak_w) != (None, None, None):
            found.setdefault(each.node_class, each)
    return found
