"""`NAME@key=value,…`: a thing of a registry with its parameters set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

from nodewise.core.errors import UserError


def parameters(text: str, made_by: Callable[..., Any], given: Collection[str]) -> dict[str, Any]:
    """The values behind the `@`, of the types of the defaults of `made_by`; `given` are those it gets otherwise.

    Raises UserError for an unknown parameter, one without a value, a value of the wrong type, or nothing where one
    would be.
    """
    name, at, rest = text.partition("@")
    known = {k: p for k, p in inspect.signature(made_by).parameters.items() if k not in given}
    values: dict[str, Any] = {}
    for part in rest.split(",") if at else ():
        if not part:
            raise UserError(f"a setting is missing in scenario {text!r}; write {name}, or {name}@key=value,…")
        key, _, value = part.partition("=")
        if key not in known:
            takes = f"it takes {', '.join(known)} as key=value" if known else "it takes none"
            raise UserError(f"scenario {name} has no parameter {key!r}; {takes}")
        if key in values:
            raise UserError(f"scenario {text!r} sets {key} twice; set it once")
        if not value:
            raise UserError(f"the value of {key} is missing in scenario {text!r}; write {name}@{key}=VALUE")
        kind = type(known[key].default)
        try:
            values[key] = _BOOLS[value] if kind is bool else kind(value)
        except (KeyError, ValueError):
            raise UserError(f"{key}={value!r} of scenario {name} is not {_WORDS.get(kind, kind.__name__)}") from None
    return values


_WORDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_BOOLS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
