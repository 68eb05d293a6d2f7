"""What is said of the chart in text: its values, from the comments beside them, and its verbs, with their reasons."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

Json = dict[str, Any]
Verb = tuple[str, str, str, str]
"""Account (operator, extender, scheduler), where it holds (cluster, or a namespace), resource, verb."""


def values_table(text: str) -> str:
    """A Markdown table of values.yaml: each `# --` comment, with the key below it and its default."""
    values = yaml.safe_load(text)
    rows = ["| value | default | |", "|---|---|---|"]
    for path, comment in _commented(text):
        value = values
        for key in path:
            value = value[key]
        default = json.dumps(value) if not isinstance(value, str) else value or '""'
        rows.append(f"| `{'.'.join(path)}` | `{default}` | {comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def uncommented(text: str) -> list[str]:
    """Values that nothing is said of."""
    told = {path for path, _ in _commented(text)}
    return [".".join(path) for path in _leaves(yaml.safe_load(text)) if not _told(path, told)]


def _told(path: tuple[str, ...], told: set[tuple[str, ...]]) -> bool:
    return any(path[:length] in told for length in range(1, len(path) + 1))


def _leaves(values: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _commented(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        body = line.strip()
        if body.startswith("# -- "):
            comment = [body[5:]]
        elif body.startswith("#"):
            if comment:
                comment.append(body[1:].strip())
        elif key := re.match(r"( *)([A-Za-z]\w*):", line):
            indent = len(key[1])
            path = [*((at, name) for at, name in path if at < indent), (indent, key[2])]
            if comment:
                yield tuple(name for _, name in path), " ".join(comment)
            comment = []


def granted(objects: list[Json], namespace: str) -> set[Verb]:
    """Every verb that the rendered Roles and ClusterRoles give, by the account that they are bound to."""
    roles = {
        (each["kind"], each["metadata"]["name"]): each["rules"]
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
    }
    found = set()
    for binding in (each for each in objects if each["kind"] in ("RoleBinding", "ClusterRoleBinding")):
        role = binding["roleRef"]
        where = "cluster" if binding["kind"] == "ClusterRoleBinding" else binding["metadata"]["namespace"]
        where = "release" if where == namespace else where
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", namespace)
        account = subject["name"].rpartition("-")[2]
        if (role["kind"], role["name"]) not in roles:
            found.add((account, where, f"{role['kind']} {role['name']}", "all"))
        for rule in roles.get((role["kind"], role["name"]), ()):
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    plural, slash, part = resource.partition("/")
                    name = (f"{plural}.{group}" if group else plural) + slash + part
                    for called in rule.get("resourceNames", [""]):
                        whole = f"{name} {called}".strip()
                        found |= {(account, where, whole, verb) for verb in rule["verbs"]}
    return found


def explained(readme: str) -> dict[Verb, str]:
    """The reason of every verb, from the README's table."""
    found = {}
    for line in section(readme, "rights").splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if len(cells) != 5 or set(cells[0]) <= {"-"} or cells[0] == "account":
            continue
        account, where, resource, verbs, reason = cells
        for verb in verbs.split(", "):
            assert (account, where, resource, verb) not in found
            found[account, where, resource, verb] = reason
    return found


def section(readme: str, name: str) -> str:
    """What stands between the markers of this name."""
    return readme.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end of {name} -->")[0]


def with_section(readme: str, name: str, text: str) -> str:
    """The same with another text there."""
    return readme.replace(section(readme, name), text)
