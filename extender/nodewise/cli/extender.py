"""`nodewise extender`: every field of `ExtenderSettings` as a flag, its description as the flag's help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nodewise.core.errors import UserError
from nodewise.extender.settings import ExtenderSettings
from nodewise.policies import LEARNED, bundle_folder, rule


def settings(given: dict[str, Any]) -> ExtenderSettings:
    """Settings of the flags that were given; the environment (`NODEWISE_…`) fills in the rest. Raises UserError."""
    try:
        made = ExtenderSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        said = str(first["msg"])
        raise UserError(
            f"{_flag(name)} (or {_variable(name)}) cannot be {first['input']!r}: {said[:1].lower()}{said[1:]}"
        ) from None
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
    made = settings({name: value for name, value in flags.items() if value is not None})
    if made.policy == LEARNED:
        bundle_folder(made.bundle)
    elif made.policy is not None:
        rule(made.policy)
    from nodewise.extender import guard

    raise typer.Exit(guard.run(made))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{ExtenderSettings.model_config['env_prefix']}{name.upper()}"


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    kind: Any = next(k for k in kinds if k is not type(None))
    if kind not in (str, int, float, bool, Path):
        raise TypeError(f"no flag can be made of setting {name}: {field.annotation}")
    default = "" if field.default is None else f" Default: {str(field.default).lower()}."
    option = typer.Option(
        None,
        f"{_flag(name)}/--no-{_flag(name)[2:]}" if kind is bool else _flag(name),
        help=f"{field.description}{default} [{_variable(name)}]",
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    parameters = [_parameter(name, field) for name, field in ExtenderSettings.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


command = _with_flags(_serve)
