"""Alerts, dashboard, ServiceMonitors and NetworkPolicies: what they name exists, and they say what they should."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from nodewise.extender.server import running
from nodewise.extender.settings import ExtenderSettings
from nodewise_operator.app import working
from nodewise_operator.main import hooks
from nodewise_operator.settings import OperatorSettings
from nodewise_simulator.controlplane import ControlPlane
from nodewise_simulator.fake_api import FakeApi

from .alerts import CASES
from .conftest import CHART, NAMESPACE, Helm, Render, find

Json = dict[str, Any]
RULES = CHART / "files" / "rules.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
TARGET_LABELS = {"namespace", "pod", "job", "le"}
"""What Prometheus adds to every series, and what only a histogram's buckets have."""
ON: Json = {"monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")}}
CHANNEL: Json = {"tls": {"mode": "existingSecret", "existingSecret": {"name": "channel"}}}


def groups() -> list[Json]:
    return yaml.safe_load(RULES.read_text())["groups"]  # type: ignore[no-any-return]


def alerts() -> dict[str, Json]:
    return {rule["alert"]: rule for group in groups() for rule in group["rules"] if "alert" in rule}


def expressions() -> dict[str, str]:
    """Every PromQL there is, with the dashboard's variables filled in as Grafana does."""
    made = {rule.get("alert") or rule["record"]: rule["expr"] for group in groups() for rule in group["rules"]}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".+")
            made[f"panel {panel['title']} {target['refId']}"] = expr
    return made


def promtool(*words: str | Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not there: install Prometheus' package of your distribution")
    done = subprocess.run([found, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# --- rules and dashboard


def test_each_alert_fires_when_it_should_says_what_is_wrong_and_is_silent_otherwise(tmp_path: Path) -> None:
    told = alerts()
    assert {case.alert for case in CASES} == told.keys()
    tests = [test for case in CASES for test in case.tests(told[case.alert])]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


def test_each_alert_says_what_is_wrong_and_how_it_is_mended() -> None:
    for name, rule in alerts().items():
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}, name
        assert rule["labels"]["severity"] in ("warning", "critical"), name
        assert "{{" not in rule["annotations"]["summary"], name


def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"x{k}", "expr": expr} for k, expr in enumerate(expressions().values())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", file)
    promtool("check", "rules", RULES)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Labels of every sample that an extender and an operator can tell of, by its name; both really run."""
    return asyncio.run(_metrics(tmp_path_factory.mktemp("metrics")))


async def _metrics(folder: Path) -> dict[str, set[str]]:
    with FakeApi() as api:
        kubeconfig = api.kubeconfig(folder / "kubeconfig")
        told = {"store": str(folder / "store.db"), "port": 0, "source": "informer", "kubeconfig": kubeconfig}
        lease = {"scheduler_name": "nodewise", "scheduler_lease": "nodewise-system/nodewise-scheduler"}
        channel = {"channel_unauthenticated": True, "channel_port": 0}
        operator_settings = OperatorSettings.model_validate(told | lease | channel)
        served = {"port": 0, "admin_port": 0, "policy": "economic", "kubeconfig": kubeconfig, "spool": folder / "spool"}
        extender_settings = ExtenderSettings.model_validate(served | {"operator_url": "http://127.0.0.1:1"})
        async with (
            asyncio.timeout(60.0),
            working(operator_settings, hooks()) as operator,
            running(extender_settings) as extender,
        ):
            ours = operator.telemetry, extender.service.telemetry
            due = ("scheduler_lease_held", "spool_bytes")  # of what is registered once all runs
            while not all(name.encode() in b"".join(one.text() for one in ours) for name in due):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            known: dict[str, set[str]] = {}
            for telemetry in ours:
                labels = _labels(telemetry.registry)
                for family in text_string_to_metric_families(telemetry.text().decode()):
                    for name in _samples(family.name, family.type):
                        known[name] = labels.get(family.name, set())
            return known


def _labels(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Labels by name of the family, also where no sample was ever taken."""
    return {
        metric.name: set(getattr(collector, "_labelnames", ()) or getattr(metric, "_labelnames", ()))
        for collector in list(registry._collector_to_names)
        for metric in collector.collect()
    }


def _samples(name: str, kind: str) -> list[str]:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    return [name + ending for ending in endings.get(kind, ("",))]


def test_rules_and_dashboard_name_only_metrics_and_labels_that_the_processes_have(metrics: dict[str, set[str]]) -> None:
    records = {rule["record"] for group in groups() for rule in group["rules"] if "record" in rule}
    for where, expr in expressions().items():
        bare = re.sub(r'"[^"]*"', '""', expr)  # no text
        named = set(re.findall(r"\bnodewise_\w+", bare))
        assert named <= metrics.keys(), (where, named - metrics.keys())
        assert set(re.findall(r"\bnodewise:[\w:]+", bare)) <= records, where
        for name, matchers in re.findall(r"\b(nodewise_\w+)\{([^}]*)\}", bare):
            asked = set(re.findall(r"(\w+)\s*[=!]", matchers))
            assert asked <= metrics[name] | TARGET_LABELS, (where, name, asked)
        if named:
            has = TARGET_LABELS.union(*(metrics[name] for name in named))
            for labels in re.findall(r"\b(?:by|on|ignoring)\s*\(([^)]*)\)", bare):
                assert {label.strip() for label in labels.split(",")} <= has, where


def test_the_dashboard_fits_on_its_grid_and_each_panel_has_a_number_of_its_own() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables


# --- what the chart makes of them


def made(objects: list[Json], kind: str) -> dict[str, Json]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def test_nothing_of_it_is_there_unless_it_is_asked_for(render: Render) -> None:
    objects = render({"scheduling": {"enabled": True}})
    assert not {"ServiceMonitor", "PrometheusRule", "NetworkPolicy"} & {each["kind"] for each in objects}
    assert not [each for each in objects if "grafana_dashboard" in each["metadata"].get("labels", {})]
    assert not [name for name in made(objects, "Service") if name.endswith("-metrics")]


@pytest.mark.parametrize(
    ("values", "left_out"),
    [
        ({}, {"nodewise-scheduling", "nodewise-channel"}),
        ({"scheduling": {"enabled": True}}, {"nodewise-channel"}),
        ({"scheduling": {"enabled": True}, "channel": CHANNEL}, set()),
    ],
)
def test_alerts_of_what_is_not_installed_are_left_out_and_the_others_stand_as_in_the_file(
    render: Render, values: Json, left_out: set[str]
) -> None:
    (rule,) = made(render(ON | values), "PrometheusRule").values()
    assert rule["spec"]["groups"] == [group for group in groups() if group["name"] not in left_out]


def test_the_alert_of_the_spool_goes_by_the_size_that_was_chosen(render: Render) -> None:
    scheduling = {"enabled": True, "extender": {"spoolMib": 100}}
    (rule,) = made(render(ON | {"scheduling": scheduling, "channel": CHANNEL}), "PrometheusRule").values()
    assert "> 0.8 * 104857600" in json.dumps(rule)
    assert "67108864" not in json.dumps(rule)


def test_a_runbook_names_the_scheduler_and_the_nodes_of_the_release(render: Render) -> None:
    scheduling = {"schedulerName": "placement", "dedicatedNodes": {"key": "example.org/ours"}}
    (rule,) = made(render(ON | {"scheduling": scheduling}), "PrometheusRule").values()
    told = {
        each["alert"]: each["annotations"]["runbook"] for group in rule["spec"]["groups"] for each in group["rules"]
    }
    asked = "`kubectl nodewise release -A --remove-label --scheduler-name placement --dedicated-key example.org/ours`"
    assert asked in told["NodewisePodsWithoutScheduler"]


def test_a_runbook_finds_the_pods_of_a_release_of_another_name(render: Render) -> None:
    objects = render({"scheduling": {"enabled": True}, "nameOverride": "other"})
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in made(objects, "Deployment").values()]
    told = " ".join(rule["annotations"]["runbook"] for rule in alerts().values())
    selectors = re.findall(r"-l (app\.kubernetes\.io/[^`]+)`", told)
    assert len(selectors) == 3
    for selector in selectors:
        wanted = dict(pair.split("=") for pair in selector.split(","))
        assert len([labels for labels in pods if wanted.items() <= labels.items()]) == 1, selector


def test_a_service_monitor_finds_its_service_its_port_and_the_job_that_the_rules_ask_for(render: Render) -> None:
    flags = {"monitoring": {"serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prom"}}}}
    objects = render(flags | {"scheduling": {"enabled": True}, "nameOverride": "other"})
    services, jobs = made(objects, "Service"), set()
    for monitor in made(objects, "ServiceMonitor").values():
        assert monitor["metadata"]["labels"]["release"] == "prom"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (each for each in services.values() if wanted <= each["metadata"]["labels"].items())
        pods = service["spec"]["selector"].items()
        (template,) = (
            each["spec"]["template"]
            for each in made(objects, "Deployment").values()
            if pods <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
        open_ports = {port["containerPort"] for c in template["spec"]["containers"] for port in c.get("ports", ())}
        for endpoint in monitor["spec"]["endpoints"]:
            assert endpoint["interval"] == "15s"
            assert ports[endpoint["port"]] in open_ports
            jobs |= {label["replacement"] for label in endpoint["relabelings"] if label["targetLabel"] == "job"}
        assert service["spec"]["publishNotReadyAddresses"] is True, "an operator that is not ready is asked why"
    asked = set(re.findall(r'job="([^"]+)"', " ".join(expressions().values())))
    assert asked <= jobs == {"nodewise-operator", "nodewise-extender", "nodewise-kube-scheduler"}


def test_grafana_gets_the_dashboard_byte_by_byte(render: Render) -> None:
    config = find(render(ON), "ConfigMap", "-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["data"]["nodewise.json"] == DASHBOARD.read_text()


def allowed(policy: Json) -> dict[int, list[Json]]:
    """Peers by port."""
    return {port["port"]: rule["from"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}


def test_only_schedulers_reach_the_channel_and_only_those_who_are_named_the_probes_and_metrics(render: Render) -> None:
    prometheus = {"namespaceSelector": {"matchLabels": {"team": "watch"}}, "podSelector": {"matchLabels": {"a": "p"}}}
    cidrs = ["10.0.0.0/16", "fd00::/64"]
    network = {"enabled": True, "prometheus": [prometheus], "nodeCidrs": cidrs}
    values = {"scheduling": {"enabled": True}, "channel": CHANNEL, "networkPolicy": network}
    policies = made(render(values), "NetworkPolicy")
    operator, scheduler = policies["nodewise-operator"], policies["nodewise-scheduler"]

    (sender,) = allowed(operator)[8891]
    assert sender == {"podSelector": scheduler["spec"]["podSelector"]}
    for policy, ports in ((operator, {8890, 8891}), (scheduler, {8889, 10259})):
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert allowed(policy).keys() == ports
        for port in ports - {8891}:
            asker, *nodes, test = allowed(policy)[port]
            assert asker == prometheus
            assert nodes == [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]
            assert test["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"


def test_our_pods_reach_names_the_api_server_and_the_operator_and_nothing_else(render: Render) -> None:
    network = {"enabled": True, "apiServer": {"cidrs": ["192.0.2.1/32"], "ports": [6443]}}
    values = {"scheduling": {"enabled": True}, "channel": CHANNEL, "networkPolicy": network}
    policies = made(render(values), "NetworkPolicy")
    names, api, *more = policies["nodewise-scheduler"]["spec"]["egress"]
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert names["to"]
    assert api == {
        "to": [{"ipBlock": {"cidr": "192.0.2.1/32"}}],
        "ports": [{"protocol": "TCP", "port": 6443}],
    }
    operator = {"podSelector": policies["nodewise-operator"]["spec"]["podSelector"]}
    assert more == [{"to": [operator], "ports": [{"protocol": "TCP", "port": 8891}]}]
    assert policies["nodewise-operator"]["spec"]["egress"] == [names, api]


def test_by_default_every_address_can_be_reached_on_the_ports_of_the_api_server_and_it_is_said(render: Render) -> None:
    for policy in made(
        render({"scheduling": {"enabled": True}, "networkPolicy": {"enabled": True}}), "NetworkPolicy"
    ).values():
        open_to_all = [rule for rule in policy["spec"]["egress"] if not rule.get("to")]
        assert open_to_all == [{"ports": [{"protocol": "TCP", "port": port} for port in (443, 6443)]}]
    assert "*every* address on ports 443 and 6443" in (CHART / "README.md").read_text()


def test_nobody_who_answers_names_is_nobody_and_not_everybody(render: Render) -> None:
    network = {"enabled": True, "dns": [], "apiServer": {"cidrs": ["192.0.2.1/32"]}}
    for policy in made(render({"scheduling": {"enabled": True}, "networkPolicy": network}), "NetworkPolicy").values():
        for rule in policy["spec"]["egress"]:
            assert rule["to"]
            assert 53 not in {port["port"] for port in rule["ports"]}


def test_a_network_policy_that_would_cut_off_the_database_is_refused_in_one_line(helm: Helm) -> None:
    postgres = {"operator": {"store": {"postgres": {"existingSecret": {"name": "db"}}}}}
    refused = helm.template(postgres | {"networkPolicy": {"enabled": True}})
    assert refused.returncode != 0
    assert "allow it in networkPolicy.operatorEgress" in refused.stderr
    egress = [{"ports": [{"protocol": "TCP", "port": 5432}]}]
    taken = helm.template(postgres | {"networkPolicy": {"enabled": True, "operatorEgress": egress}})
    assert taken.returncode == 0, taken.stderr


def test_the_api_server_takes_the_services_the_policies_and_the_dashboard(plane: ControlPlane, render: Render) -> None:
    flags = {"monitoring": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}}}
    network = {"enabled": True, "nodeCidrs": ["10.0.0.0/16"], "operatorEgress": [{"ports": [{"port": 5432}]}]}
    objects = render(flags | {"scheduling": {"enabled": True}, "channel": CHANNEL, "networkPolicy": network})
    paths = {
        "Service": f"/api/v1/namespaces/{NAMESPACE}/services",
        "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps",
        "NetworkPolicy": f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies",
    }
    plane.call("PATCH", f"/api/v1/namespaces/{NAMESPACE}?fieldManager=test", _namespace(), _APPLY)
    asked = "?dryRun=All&fieldManager=test&fieldValidation=Strict"
    sent = [each for each in objects if each["kind"] in paths]
    assert len(sent) >= 6
    for each in sent:
        plane.call("PATCH", f"{paths[each['kind']]}/{each['metadata']['name']}{asked}", each, _APPLY)


_APPLY = "application/apply-patch+yaml"


def _namespace() -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
