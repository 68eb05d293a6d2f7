"""From the models to CustomResourceDefinitions: `python -m nodewise_operator.resources.generate [FOLDER]`.

A CRD's schema is OpenAPI v3 and structural: no references, no unions, one type a place. An optional field becomes one
that may be absent, not one that may be null: `has(self.x)` then tells rules that it is there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from nodewise_operator.resources import KINDS, Resource
from nodewise_operator.resources.base import GROUP, VERSION

Json = dict[str, Any]
HEADER = "# Generated from nodewise_operator.resources by `python -m nodewise_operator.resources.generate`.\n"
FOLDER = Path("manifests/crds")


def structural(schema: Json, definitions: Json) -> Json:
    """A schema by pydantic as a structural one. Raises TypeError for a union that is not an optional."""
    made = dict(schema)
    if "$ref" in made:
        made = structural(definitions[made.pop("$ref").split("/")[-1]], definitions) | made
    if "anyOf" in made:
        kinds = [kind for kind in made.pop("anyOf") if kind.get("type") != "null"]
        if len(kinds) != 1:
            raise TypeError(f"a union of {len(kinds)} types is not structural: {schema}")
        made = structural(kinds[0], definitions) | made
    made.pop("title", None)
    if made.get("default", 0) is None:
        del made["default"]
    if "default" in made:
        made["default"] = _without_null(made["default"])
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = structural(made[inner], definitions)
    if made.get("additionalProperties") is False:
        del made["additionalProperties"]
    if "properties" in made:
        made["properties"] = {name: structural(field, definitions) for name, field in made["properties"].items()}
    return made


def crd(kind: type[Resource]) -> Json:
    """The CustomResourceDefinition of one kind."""
    raw = kind.model_json_schema(by_alias=True)
    schema = structural(raw, raw.get("$defs", {}))
    del schema["$defs"]
    schema["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": schema["properties"]["spec"],
        "status": schema["properties"]["status"],
    }
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "singular": name.lower(),
                "plural": kind.plural,
                "shortNames": [*kind.short_names],
                "categories": ["nodewise"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.plain() for column in kind.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def files() -> dict[str, str]:
    """Text of each file of `manifests/crds` by its name."""
    return {f"{GROUP}_{kind.plural}.yaml": HEADER + _yaml(crd(kind)) for kind in KINDS}


def stream() -> str:
    """All definitions as one stream, for `kubectl apply -f -`."""
    return "".join(f"---\n{_yaml(crd(kind))}" for kind in KINDS)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(held) for key, held in value.items() if held is not None}
    return [_without_null(held) for held in value] if isinstance(value, list) else value


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (yaml's signature)
        return True


def _yaml(value: Json) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=118, allow_unicode=True)


def main() -> None:
    """Write the files anew."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
