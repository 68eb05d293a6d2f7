"""A good bundle made by hand, and ones that are not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodewise.core.card import PolicyCard
from nodewise.policies.bundle import write_bundle

from .bundles import card_of, golden, models

CARD = card_of()
GOOD = golden()


def written(path: Path, changed: Mapping[str, bytes] | None = None, card: PolicyCard = CARD, pairs: Any = None) -> Path:
    """A bundle, good but for what is told."""
    write_bundle(path, models() | dict(changed or {}), card, GOOD if pairs is None else pairs)
    return path
