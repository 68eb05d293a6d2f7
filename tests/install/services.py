"""What kube-proxy, the cluster's DNS and a kubelet make of Services, for pods without any of them."""

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


def hosts_file(services: Iterable[Json], ready: Iterable[tuple[Mapping[str, str], str]]) -> str:
    """Lines of /etc/hosts: each Service's names for the first of the `ready` pods (labels, address) that it selects."""
    ready = list(ready)
    lines = []
    for service in services:
        selector = (service["spec"].get("selector") or {}).items()
        address = next((address for labels, address in ready if selector and selector <= labels.items()), None)
        if address is not None:
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            names = (f"{name}.{namespace}.svc.cluster.local", f"{name}.{namespace}.svc", f"{name}.{namespace}", name)
            lines.append(f"{address} {' '.join(names)}\n")
    return "".join(lines)


def service_links(services: Iterable[Json]) -> dict[str, str]:
    """The variables that a kubelet sets for every Service of the pod's namespace, unless `enableServiceLinks: false`.

    Docker's links: for Service `nodewise-operator` there is NODEWISE_OPERATOR_PORT=tcp://…, whoever else reads that.
    """
    found: dict[str, str] = {}
    for service in services:
        address, ports = service["spec"].get("clusterIP"), service["spec"].get("ports") or ()
        if not ports or address in (None, "", "None"):
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        found |= {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0]["port"])}
        found[f"{name}_PORT"] = f"{ports[0]['protocol'].lower()}://{address}:{ports[0]['port']}"
        for port in ports:
            number, protocol = str(port["port"]), port["protocol"]
            if port.get("name"):
                found[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = number
            prefix = f"{name}_PORT_{number}_{protocol}"
            found |= {prefix: f"{protocol.lower()}://{address}:{number}", f"{prefix}_PROTO": protocol.lower()}
            found |= {f"{prefix}_PORT": number, f"{prefix}_ADDR": address}
    return found
