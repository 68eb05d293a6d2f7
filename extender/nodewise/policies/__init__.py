"""The policies by name. A new rule is a file here and a line in `POLICIES`.

Rules are pure functions of what they are handed. `NAME-oracle`, a reference row that is told true run times, exists in
the simulator only: it is the same rule on other beliefs.
"""

from __future__ import annotations

from nodewise.core.errors import UserError
from nodewise.policies.blind import RANDOM, ROUND_ROBIN
from nodewise.policies.economic import ECONOMIC
from nodewise.policies.kube import KUBE_DEFAULT, MOST_ALLOCATED
from nodewise.policies.packing import BALANCE_FIT, BEST_FIT, CHEAPEST, LEAST_WATTS
from nodewise.policies.rule import Rule
from nodewise.policies.timed import EARLIEST_FINISH_TIME, INDEX, LEAST_WORK_REMAINING

ORACLE = "-oracle"

POLICIES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        KUBE_DEFAULT, MOST_ALLOCATED, RANDOM, ROUND_ROBIN, LEAST_WORK_REMAINING, EARLIEST_FINISH_TIME, INDEX, BEST_FIT,
        BALANCE_FIT, LEAST_WATTS, CHEAPEST, ECONOMIC,
    )
}  # fmt: skip

DEFAULT = ECONOMIC
"""What decides when nothing else is asked for, and what stands in when a learned policy fails."""


def rule(name: str) -> Rule:
    """The rule of this name. Raises UserError if there is none."""
    found = POLICIES.get(name)
    if name == "learned":
        raise UserError("policy 'learned' needs a bundle: name its folder with --bundle instead of --policy")
    if found is None:
        raise UserError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)} (see `nodewise policies`)")
    return found
