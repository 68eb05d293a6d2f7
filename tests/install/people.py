"""People who may do what the chart's README tells of a command, and nothing else."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.install.plane import Plane
from tests.install.release import CHART, NAMESPACE
from tests.install.rights import RBAC, Did, Right, did, granted

Json = dict[str, Any]
PEOPLE = "people"


def rights_of(command: str) -> list[tuple[str, Json, bool]]:
    """Where, rule, and whether it is needed only sometimes."""
    text = (CHART / "README.md").read_text()
    table = text.partition("<!-- user rights -->\n")[2].partition("<!-- end of user rights -->")[0]
    found = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] != command:
            continue
        where, resources, verbs, why = cells[1:]
        for each in resources.replace("`", "").split(", "):
            name, _, group = each.partition(".")
            rule = {"apiGroups": [group], "resources": [name], "verbs": verbs.split(", ")}
            found.append((where, rule, why.startswith("only ")))
    assert found, f"nothing is told of {command}"
    return found


def person(plane: Plane, command: str, namespace: str) -> Path:
    """A kubeconfig of somebody who has them; `namespace` is that of the pods in question."""
    if not plane.exists(f"/api/v1/namespaces/{PEOPLE}"):
        plane.namespace(PEOPLE)
    plane.call("POST", f"/api/v1/namespaces/{PEOPLE}/serviceaccounts", {"metadata": {"name": command}})
    rules: defaultdict[str, list[Json]] = defaultdict(list)
    for where, rule, _ in rights_of(command):
        rules[{"release": NAMESPACE, "pods": namespace, "cluster": ""}.get(where, where)].append(rule)
    subject = {"kind": "ServiceAccount", "name": command, "namespace": PEOPLE}
    for where, held in rules.items():
        kind, folder = ("Role", f"{RBAC}/namespaces/{where}/") if where else ("ClusterRole", f"{RBAC}/")
        name = {"metadata": {"name": f"people-{command}"}}
        plane.call("POST", f"{folder}{kind.lower()}s", {**name, "rules": held})
        ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": f"people-{command}"}
        plane.call("POST", f"{folder}{kind.lower()}bindings", {**name, "roleRef": ref, "subjects": [subject]})
    path = f"/api/v1/namespaces/{PEOPLE}/serviceaccounts/{command}/token"
    token = plane.call("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    config = json.loads(plane.control.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file = plane.folder / f"kubeconfig-{command}"
    file.write_text(json.dumps(config))
    return file


def refused(plane: Plane, command: str) -> set[Did]:
    """What he asked for and was not allowed to do."""
    return did(e for e in _asked(plane, command) if e["annotations"].get("authorization.k8s.io/decision") != "allow")


def unused(plane: Plane, command: str) -> set[Right]:
    """Rights that he had and did not need, but for those that are needed only sometimes."""
    sometimes = {
        (verb, ".".join(filter(None, (*rule["resources"], *rule["apiGroups"]))))
        for _, rule, only in rights_of(command)
        if only
        for verb in rule["verbs"]
    }
    done = did(_asked(plane, command))
    rights = granted(plane.call, command, PEOPLE)
    return {r for r in rights if not any(r.covers(one) for one in done) and (r.verb, r.resource) not in sometimes}


def _asked(plane: Plane, command: str) -> list[Json]:
    name = f"system:serviceaccount:{PEOPLE}:{command}"
    return [event for event in plane.audit() if event["user"].get("username") == name]
