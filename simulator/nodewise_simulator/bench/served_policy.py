"""The flags with which an extender process is started for a measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nodewise.policies import DEFAULT, LEARNED, builtin, bundle_folder
from nodewise.policies.bundle import read_bundle, write_bundle

MEASURED = (DEFAULT.name, *((LEARNED,) if builtin() else ()))
"""The policies that are measured: the rule, and the bundle that is built in."""


def flags(policy: str, folder: Path) -> tuple[str, ...]:
    """Flags by which an extender decides by `policy`; `folder` is there for what they name.

    `learned` is the built-in bundle without the ranges of its card: nothing in a bench is like what it was trained on,
    and it would leave every pod to the rule.
    """
    if policy != LEARNED:
        return ("--policy", policy)
    path = folder / "bundle"
    if not path.exists():
        own = read_bundle(bundle_folder(None))
        columns = tuple(replace(c, observed_low=None, observed_high=None) for c in own.card.columns)
        write_bundle(path, own.models, replace(own.card, columns=columns), own.golden)
    return ("--bundle", str(path))
