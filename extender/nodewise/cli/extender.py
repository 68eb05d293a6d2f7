"""`nodewise extender`: every field of `ExtenderSettings` as a flag, its description as the flag's help."""

from __future__ import annotations

from typing import Any

import typer

from nodewise.cli.flags import read_settings, with_flags
from nodewise.core.errors import UserError
from nodewise.extender.settings import ExtenderSettings
from nodewise.policies import LEARNED, bundle_folder, rule


def settings(given: dict[str, Any]) -> ExtenderSettings:
    """Settings of the flags that were given (None: it was not); the environment fills in the rest. Raises UserError."""
    made = read_settings(ExtenderSettings, given)
    if made.bundle is not None and made.policy not in (None, LEARNED):
        raise UserError(
            f"--policy {made.policy} and --bundle {made.bundle} exclude each other: name a rule, or the folder of a "
            "learned policy"
        )
    return made


def _serve(**flags: Any) -> None:
    """Serve kube-scheduler's extender calls until SIGTERM or Ctrl-C.

    The extender watches nodes and pods, answers /prioritize and /filter on --port, and probes, /metrics and /explain on
    --admin-port. Each flag can also be set by the environment variable in brackets.
    """
    made = settings(flags)
    if made.policy == LEARNED:
        bundle_folder(made.bundle)
    elif made.policy is not None:
        rule(made.policy)
    from nodewise.extender import guard

    raise typer.Exit(guard.run(made))


command = with_flags(ExtenderSettings, _serve)
