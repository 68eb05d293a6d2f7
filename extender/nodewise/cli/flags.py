"""A command whose flags are the fields of a settings class, their descriptions the flags' help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from nodewise.core.errors import UserError

S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S], given: dict[str, Any]) -> S:
    """Settings of the flags that were given (None: it was not); the environment fills in the rest. Raises UserError."""
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        said = str(first["msg"])
        raise UserError(
            f"{_flag(name)} (or {_variable(kind, name)}) cannot be {first['input']!r}: {said[:1].lower()}{said[1:]}"
        ) from None


def with_flags(kind: type[BaseSettings], command: Callable[..., None]) -> Callable[..., None]:
    """`command` as Typer wants it: one keyword a setting, None where neither flag nor default is given."""
    parameters = [_parameter(kind, name, field) for name, field in kind.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(kind: type[BaseSettings], name: str) -> str:
    return f"{kind.model_config['env_prefix']}{name.upper()}"


def _parameter(of: type[BaseSettings], name: str, field: FieldInfo) -> inspect.Parameter:
    kinds = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    kind: Any = next(k for k in kinds if k is not type(None))
    if kind not in (str, int, float, bool, Path):
        raise TypeError(f"no flag can be made of setting {name}: {field.annotation}")
    default = "" if field.default in (None, "") else f" Default: {str(field.default).lower()}."
    option = typer.Option(
        None,
        f"{_flag(name)}/--no-{_flag(name)[2:]}" if kind is bool else _flag(name),
        help=f"{field.description}{default} [{_variable(of, name)}]",
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)
