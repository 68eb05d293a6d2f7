"""What can go wrong with the store, each told in one sentence; named by what happened."""

from __future__ import annotations

from nodewise.core.errors import UserError


class StoreUnavailable(UserError):  # noqa: N818
    """Nothing was written and nothing is lost: disk full, read-only, locked, server away. Hold the batch and retry."""


class Fenced(UserError):  # noqa: N818
    """Another holder took the store over; this one must not write any more."""


class Unstorable(UserError):  # noqa: N818
    """A batch that no retry would get into the store: a value that the database refuses."""


class Damaged(Exception):  # noqa: N818
    """The SQLite file is not what was written to it. Internal: `Store` salvages it, or tells a UserError."""
