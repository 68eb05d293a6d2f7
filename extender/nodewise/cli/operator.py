"""`nodewise operator`: every field of `OperatorSettings` as a flag, its description as the flag's help."""

from __future__ import annotations

from typing import Any

from nodewise import policies
from nodewise.cli.flags import read_settings, with_flags
from nodewise_operator.settings import OperatorSettings


def _operate(**flags: Any) -> None:
    """Watch a cluster and record every pod's fate, until SIGTERM or Ctrl-C.

    Nothing is ever written to pods or nodes. Each flag can also be set by the environment variable in brackets.
    """
    made = read_settings(OperatorSettings, flags)
    if made.policy not in (None, policies.LEARNED):
        policies.rule(made.policy)
    from nodewise_operator.main import start

    start(made)


command = with_flags(OperatorSettings, _operate)
