"""What these commands print for programs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from nodewise.cli.output import document


def printed(rows: Sequence[Any], **more: Any) -> None:
    """`nodewise.cli.output.document`, under the name that these commands are called by."""
    document(rows, command=shlex.join(["kubectl", "nodewise", *sys.argv[1:]]), **more)
