"""What several unit tests share."""

import os
import sys
from collections.abc import Callable

import pytest

from nodewise.cli import main as cli


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """One command line in this process: (exit status, stdout, stderr)."""
    for variable in [name for name in os.environ if name.startswith("NODEWISE_")]:
        monkeypatch.delenv(variable)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nodewise", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        status = left.value.code
        assert isinstance(status, int) or status is None
        return status or 0, said.out, said.err

    return run
