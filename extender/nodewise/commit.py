"""Which code this is."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nodewise import __version__


def commit(folder: Path = Path(__file__).parent) -> str:
    """The git commit of the code in a folder, `-dirty` behind it if a tracked file of its checkout was changed since.

    The version of the package where the folder is in no checkout, or not among what that tracks: it is then installed
    below somebody else's.
    """

    def git(*words: str) -> str:
        asked = ["git", "-C", str(folder), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603

    try:
        git("ls-files", "--error-unmatch", ".")
        return git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return __version__
