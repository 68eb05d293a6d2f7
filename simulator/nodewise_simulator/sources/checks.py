"""What every study here refuses, in one sentence each."""

from __future__ import annotations

from collections.abc import Collection

from nodewise.core.errors import UserError


def require_policy(study: str, policy: str, policies: Collection[str]) -> None:
    """Raises UserError for a policy that the study does not have."""
    if policy not in policies:
        raise UserError(f"scenario {study} has no policy {policy!r}; choose one of {', '.join(policies)}")


def require_seed(study: str, seed: int, most: int = 2**32 - 1) -> None:
    """Raises UserError for a seed that the source's generator would not take."""
    if not 0 <= seed <= most:
        raise UserError(
            f"scenario {study} needs seeds of 0 to {most}, not {seed}: it draws with its source's generator"
        )


def require_whole(study: str, name: str, value: int, least: int = 1) -> None:
    """Raises UserError for a count below `least`."""
    if value < least:
        raise UserError(f"scenario {study} needs {name} >= {least}, not {value}")
