"""The policies by name. A new rule is a file here and a line in `POLICIES`.

Rules are pure functions of what they are handed. `NAME-oracle`, a reference row that is told true run times, exists in
the simulator only: it is the same rule on other beliefs.
"""

from __future__ import annotations

from pathlib import Path

from nodewise.core.errors import UserError
from nodewise.policies.blind import RANDOM, ROUND_ROBIN
from nodewise.policies.classic import (
    MAX_WEIGHT,
    POWER_OF_2,
    POWER_OF_5,
    REQUESTED_TO_CAPACITY,
    TARGET_LOAD,
    TETRIS,
)
from nodewise.policies.economic import ECONOMIC, ECONOMIC_TUNED
from nodewise.policies.kube import KUBE_DEFAULT, MOST_ALLOCATED
from nodewise.policies.packing import BALANCE_FIT, BEST_FIT, CHEAPEST, LEAST_WATTS
from nodewise.policies.rule import Rule
from nodewise.policies.timed import EARLIEST_FINISH_TIME, INDEX, LEAST_WORK_REMAINING

ORACLE = "-oracle"

POLICIES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        KUBE_DEFAULT, MOST_ALLOCATED, RANDOM, ROUND_ROBIN, LEAST_WORK_REMAINING, EARLIEST_FINISH_TIME, INDEX, BEST_FIT,
        BALANCE_FIT, LEAST_WATTS, CHEAPEST, REQUESTED_TO_CAPACITY, TARGET_LOAD, TETRIS, MAX_WEIGHT, POWER_OF_2,
        POWER_OF_5, ECONOMIC, ECONOMIC_TUNED,
    )
}  # fmt: skip

DEFAULT = ECONOMIC
"""What decides when nothing else is asked for and no bundle is built in; stands in when a learned policy fails."""

LEARNED = "learned"
"""Asks for a bundle: the one of --bundle, or the one built in. Loaded, it has the name that its card gives it."""

BUILT_IN: str | None = "hetero"
"""The bundle in `bundles` beside this file that decides when nothing else is asked for; None: `DEFAULT` does."""

_BUNDLES = Path(__file__).parent / "bundles"


def builtin() -> Path | None:
    """Folder of the bundle that is built in, if this version has one."""
    return None if BUILT_IN is None else _BUNDLES / BUILT_IN


def bundle_folder(given: Path | None) -> Path:
    """Folder of policy `learned`: the given one, else the one built in. Raises UserError if there is neither."""
    found = given or builtin()
    if found is None:
        raise UserError(f"policy {LEARNED!r} needs a bundle, and none is built in: name its folder with --bundle")
    return found


def rule(name: str) -> Rule:
    """The rule of this name. Raises UserError if there is none."""
    found = POLICIES.get(name)
    if name == LEARNED:
        raise UserError(f"{name!r} is a bundle, and only rules are played here; choose one of {', '.join(POLICIES)}")
    if found is None:
        known = ", ".join((*POLICIES, LEARNED))
        raise UserError(f"there is no policy {name!r}; choose one of {known} (see `nodewise policies`)")
    return found
