"""What the chart says in every feature set, by itself: its parts fit each other, and the programs that they start."""

import re
from typing import Any

import pytest
import yaml

from nodewise.extender.settings import ExtenderSettings
from nodewise_operator.auth import AUDIENCE, service_accounts
from nodewise_operator.channel_hook import wanted
from nodewise_operator.scheduler_lease import checked_lease
from nodewise_operator.settings import OperatorSettings
from nodewise_simulator.controlplane import scheduler_config

from .conftest import CHART, FEATURES, MINORS, NAMESPACE, Helm, Render, find, pod_specs
from .documents import granted

Json = dict[str, Any]
CHANNELS = [name for name in FEATURES if "cert-manager" in name or "existing-secret" in name]
SCHEDULING = [name for name in FEATURES if name.startswith("scheduling")]
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


def container(objects: list[Json], ending: str, name: str) -> Json:
    spec = find(objects, "Deployment", ending)["spec"]["template"]["spec"]
    (found,) = (each for each in spec["containers"] if each["name"] == name)
    return dict(found)


def environment(of: Json) -> dict[str, str]:
    return {each["name"]: each["value"] for each in of["env"] if "value" in each}


def settings(kind: type[Any], of: Json, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the process of this container would be told; every variable of ours must be a setting of its."""
    prefix = kind.model_config["env_prefix"]
    ours = {name for name in (each["name"] for each in of["env"]) if name.startswith("NODEWISE_")}
    assert ours <= {prefix + name.upper() for name in kind.model_fields}
    for name, value in environment(of).items():
        monkeypatch.setenv(name, value)
    return kind()


def volume(spec: Json, of: Json, path: str) -> Json:
    (mount,) = (each for each in of["volumeMounts"] if each["mountPath"] == path)
    (found,) = (each for each in spec["volumes"] if each["name"] == mount["name"])
    return dict(found)


def test_without_values_only_the_operator_is_there(render: Render) -> None:
    objects = render(FEATURES["advise"])
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "Deployment"] == ["nodewise-operator"]
    assert "MutatingAdmissionPolicy" not in {each["kind"] for each in objects}
    verbs = {verb for _, _, resource, verb in granted(objects, NAMESPACE) if resource in ("nodes", "pods")}
    assert verbs == {"list", "watch"}


@pytest.mark.parametrize("minor", MINORS)
def test_the_scheduler_is_of_the_clusters_minor_version(minor: str, render: Render) -> None:
    image = container(render(FEATURES["scheduling"], minor), "-scheduler", "scheduler")["image"]
    assert image == f"registry.k8s.io/kube-scheduler:{MINORS[minor]}"


def test_the_scheduler_of_a_distribution_is_that_of_its_minor_version(render: Render) -> None:
    image = container(render(FEATURES["scheduling"], "v1.34.9-gke.100"), "-scheduler", "scheduler")["image"]
    assert image == "registry.k8s.io/kube-scheduler:v1.34.4"


@pytest.mark.parametrize("name", ["scheduling", "scheduling-shared"])
def test_the_schedulers_configuration_is_the_one_that_everything_was_measured_with(name: str, render: Render) -> None:
    config = yaml.safe_load(find(render(FEATURES[name]), "ConfigMap", "-scheduler")["data"]["config.yaml"])
    expected = scheduler_config("", "http://127.0.0.1:8888", scheduler_name="nodewise", timeout_ms=250)
    # Two replicas; and the API server of others is not to be flooded.
    lease = {"resourceName": "nodewise-scheduler", "resourceNamespace": NAMESPACE}
    times = {"leaseDuration": "10s", "renewDeadline": "7s", "retryPeriod": "1s"}
    expected["leaderElection"] = {"leaderElect": True, **times, **lease}
    expected["clientConnection"] = {"qps": 200, "burst": 400}
    if name == "scheduling-shared":
        expected |= {"podInitialBackoffSeconds": 1, "podMaxBackoffSeconds": 1}
    assert config == expected


def test_a_changed_configuration_makes_new_pods_and_nothing_else_does(render: Render) -> None:
    def stamp(scheduling: Json, **more: Any) -> Any:
        objects = render({"scheduling": {"enabled": True, **scheduling}, **more})
        return find(objects, "Deployment", "-scheduler")["spec"]["template"]["metadata"]["annotations"]

    assert stamp({}) == stamp({"replicas": 3}, operator={"retainDays": 1})
    for changed in ({"httpTimeoutMs": 300}, {"clientQps": 100}, {"defer": True}, {"schedulerName": "other"}):
        assert stamp({}) != stamp(changed)


@pytest.mark.parametrize("name", FEATURES)
def test_the_operator_understands_what_it_is_told(name: str, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(FEATURES[name])
    operator = container(objects, "-operator", "operator")
    told = settings(OperatorSettings, operator, monkeypatch)
    spec = find(objects, "Deployment", "-operator")["spec"]
    postgres = "all" in name and "existing-secret" not in name
    assert (told.host, told.port) == ("0.0.0.0", operator["ports"][0]["containerPort"])
    assert spec["replicas"] == (2 if postgres else 1)
    assert spec["strategy"]["type"] == ("RollingUpdate" if postgres else "Recreate")
    assert told.lease == postgres
    if postgres:
        (lease,) = (
            rule["resourceNames"] for rule in find(objects, "Role", "-operator")["rules"] if "update" in rule["verbs"]
        )
        assert [told.lease_name] == lease
        assert told.lease_namespace == NAMESPACE
        (store,) = (each for each in operator["env"] if each["name"] == "NODEWISE_OPERATOR_STORE")
        assert store["valueFrom"] == {"secretKeyRef": {"name": "database", "key": "url"}}
    else:
        kept = volume(spec["template"]["spec"], operator, told.store.rpartition("/")[0])
        claims = [each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"]
        assert kept["persistentVolumeClaim"]["claimName"] in (*claims, "mine")
    assert wanted(told) == (name in CHANNELS)
    lease = checked_lease(told)
    assert lease is not None  # it looks at the Lease without scheduling too: pods may wait for a scheduler that went
    if name in SCHEDULING:
        config = yaml.safe_load(find(objects, "ConfigMap", "-scheduler")["data"]["config.yaml"])
        election = config["leaderElection"]
        assert lease == (election["resourceNamespace"], election["resourceName"])
        assert told.scheduler_name == config["profiles"][0]["schedulerName"]


@pytest.mark.parametrize("name", SCHEDULING)
def test_the_extender_understands_what_it_is_told(name: str, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(FEATURES[name])
    extender = container(objects, "-scheduler", "extender")
    told = settings(ExtenderSettings, extender, monkeypatch)
    config = yaml.safe_load(find(objects, "ConfigMap", "-scheduler")["data"]["config.yaml"])
    assert config["extenders"][0]["urlPrefix"] == f"http://{told.host}:{told.port}"
    assert told.scheduler_name == config["profiles"][0]["schedulerName"]
    assert (told.admin_host, told.admin_port) == ("0.0.0.0", extender["ports"][0]["containerPort"])
    assert len(extender["ports"]) == 1  # the scheduler's is on loopback
    assert (told.operator_url is not None) == (name in CHANNELS)


@pytest.mark.parametrize("name", CHANNELS)
def test_the_channels_ends_fit(name: str, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(FEATURES[name])
    extender, operator = container(objects, "-scheduler", "extender"), container(objects, "-operator", "operator")
    asks, answers = settings(ExtenderSettings, extender, monkeypatch), settings(OperatorSettings, operator, monkeypatch)
    pod, service = (
        find(objects, "Deployment", "-scheduler")["spec"]["template"]["spec"],
        find(objects, "Service", "-operator"),
    )
    host = f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert asks.operator_url == f"https://{host}:{answers.channel_port}"
    assert {port["port"] for port in service["spec"]["ports"]} == {answers.port, answers.channel_port}
    # Its certificate, of which the extender sees the CA's only.
    ca = volume(pod, extender, str(asks.operator_ca_file.parent))["secret"]
    keys = volume(
        find(objects, "Deployment", "-operator")["spec"]["template"]["spec"], operator, str(answers.channel_cert.parent)
    )
    assert [item["key"] for item in ca["items"]] == [asks.operator_ca_file.name]
    assert [item["key"] for item in keys["secret"]["items"]] == [answers.channel_cert.name, answers.channel_key.name]
    assert ca["secretName"] == keys["secret"]["secretName"]
    if "cert-manager" in name:
        made = find(objects, "Certificate")["spec"]
        assert (made["secretName"], made["dnsNames"]) == (ca["secretName"], [host])
    # Its token.
    (source,) = volume(pod, extender, str(asks.operator_token_file.parent))["projected"]["sources"]
    assert source["serviceAccountToken"]["path"] == asks.operator_token_file.name
    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    assert service_accounts(answers.channel_accounts) == {f"{NAMESPACE}/{pod['serviceAccountName']}"}
    # What is spooled fits into its volume.
    spool = volume(pod, extender, str(asks.spool))["emptyDir"]["sizeLimit"]
    assert int(spool.removesuffix("Mi")) >= asks.spool_mib


@pytest.mark.parametrize("name", FEATURES)
def test_each_container_has_the_token_of_its_own_account_and_no_other(name: str, render: Render) -> None:
    objects = render(FEATURES[name])
    accounts = {each["metadata"]["name"]: each for each in objects if each["kind"] == "ServiceAccount"}
    assert not any(each["automountServiceAccountToken"] for each in accounts.values())
    tokens: dict[str, str] = {}
    for spec in pod_specs(objects).values():
        assert spec["automountServiceAccountToken"] is False
        for each in spec["containers"]:
            if TOKEN_PATH not in [mount["mountPath"] for mount in each.get("volumeMounts", ())]:
                continue
            source = volume(spec, each, TOKEN_PATH)
            if "secret" in source:
                secret = find(objects, "Secret", source["secret"]["secretName"])
                assert secret["type"] == "kubernetes.io/service-account-token"
                tokens[each["name"]] = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
            else:
                assert source["projected"]["sources"][0] == {
                    "serviceAccountToken": {"path": "token", "expirationSeconds": 3607}
                }
                tokens[each["name"]] = spec["serviceAccountName"]
    assert sorted(tokens.values()) == sorted(accounts)  # each is somebody's, and nobody's twice


@pytest.mark.parametrize("name", FEATURES)
def test_every_pod_is_placed_by_the_default_scheduler_and_can_be_asked_how_it_is(name: str, render: Render) -> None:
    objects = render(FEATURES[name])
    assert pod_specs(objects)
    for pod, spec in pod_specs(objects).items():
        assert spec["schedulerName"] == "default-scheduler"
        # Else Service nodewise-operator sets NODEWISE_OPERATOR_PORT, a setting, to tcp://…
        assert spec["enableServiceLinks"] is False
        for each in spec["containers"]:
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
            assert each["resources"]["limits"].keys() == {"memory"}
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            if pod.endswith("-test"):
                continue
            ports = {port["name"] for port in each["ports"]}
            probes = [each[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
            assert {probe["port"] for probe in probes} <= ports


@pytest.mark.parametrize("name", FEATURES)
def test_selectors_find_their_pods_and_ports(name: str, render: Render) -> None:
    objects = render(FEATURES[name])
    templates = {each["metadata"]["name"]: each["spec"]["template"] for each in objects if each["kind"] == "Deployment"}
    chosen = []
    for each in objects:
        spec = each.get("spec", {})
        wanted_labels = {
            "Service": spec.get("selector"),
            "Deployment": spec.get("selector", {}).get("matchLabels"),
            "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
        }.get(each["kind"])
        if wanted_labels is None:
            continue
        found = [name for name, of in templates.items() if wanted_labels.items() <= of["metadata"]["labels"].items()]
        assert len(found) == 1, each["metadata"]["name"]
        chosen.append(found[0])
        if each["kind"] == "Service":
            ports = [port for of in templates[found[0]]["spec"]["containers"] for port in of["ports"]]
            known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
            assert {port["targetPort"] for port in spec["ports"]} <= known
    assert set(chosen) == set(templates)


@pytest.mark.parametrize("name", FEATURES)
def test_every_object_says_whose_it_is_and_lies_in_the_releases_namespace(name: str, render: Render) -> None:
    cluster = re.compile("Cluster.*|CustomResourceDefinition|.*AdmissionPolicy(Binding)?")
    for each in render(FEATURES[name]):
        meta = each["metadata"]
        assert meta["labels"]["app.kubernetes.io/instance"] == "nodewise"
        assert meta["labels"]["app.kubernetes.io/part-of"] == "nodewise"
        assert meta["labels"].items() >= FEATURES[name].get("commonLabels", {}).items()
        away = each["kind"] == "RoleBinding" and each["roleRef"]["name"] == "extension-apiserver-authentication-reader"
        expected = None if cluster.fullmatch(each["kind"]) else "kube-system" if away else NAMESPACE
        assert meta.get("namespace") == expected, each["kind"]
        keeps = each["kind"] == "PersistentVolumeClaim" or (
            each["kind"] == "CustomResourceDefinition" and FEATURES[name].get("crds", {}).get("keep", True)
        )
        assert (meta.get("annotations", {}).get("helm.sh/resource-policy") == "keep") == keeps


class _OnceEach(yaml.CSafeLoader):
    """YAML in which no key may stand twice, as Kubernetes' strict decoding has it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), sorted(key for key in keys if keys.count(key) > 1)
        return super().construct_mapping(node, deep)


def test_labels_and_annotations_of_the_user_never_stand_beside_ours_and_ours_win(helm: Helm) -> None:
    ours = {"nodewise.dev/config-sha256": "mine", "kubectl.kubernetes.io/default-container": "mine", "reviewed": "yes"}
    labels = {"labels": {"team": "monitors", "grafana_dashboard": "mine", "app.kubernetes.io/part-of": "mine"}}
    values = {
        "commonLabels": {"team": "all", "nodewise.dev/metrics": "mine", "grafana_dashboard": "mine"},
        "monitoring": {name: {"enabled": True, **labels} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
        "operator": {"podAnnotations": ours},
        "scheduling": {"enabled": True, "podAnnotations": ours},
    }
    done = helm.template(values)
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.load_all(done.stdout, _OnceEach) if each]
    for ending, container in (("-operator", "operator"), ("-scheduler", "extender")):
        told = find(objects, "Deployment", ending)["spec"]["template"]["metadata"]["annotations"]
        assert told["kubectl.kubernetes.io/default-container"] == container
        assert told["reviewed"] == "yes"
        assert told.get("nodewise.dev/config-sha256") != ("mine" if container == "extender" else None)
    assert find(objects, "ConfigMap", "-dashboard")["metadata"]["labels"]["grafana_dashboard"] == "1"
    for kind, ending in (("PrometheusRule", ""), ("ServiceMonitor", "-operator"), ("ConfigMap", "-dashboard")):
        told = find(objects, kind, ending)["metadata"]["labels"]
        assert (told["team"], told["app.kubernetes.io/part-of"]) == ("monitors", "nodewise")
    assert find(objects, "Service", "-operator-metrics")["metadata"]["labels"]["nodewise.dev/metrics"] == "operator"
    assert find(objects, "ServiceAccount", "-operator")["metadata"]["labels"]["team"] == "all"


def test_names_that_look_like_numbers_stay_names(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = {"tls": {"mode": "certManager", "certManager": {"issuerRef": {"name": "5"}}}}
    scheduling = {"enabled": True, "schedulerName": "123", "priorityClassName": "7"}
    operator = {"priorityClassName": "8", "store": {"storageClass": "6"}}
    values = {"channel": channel, "scheduling": scheduling, "operator": operator, "nameOverride": "2"}
    objects = render(values)
    config = yaml.safe_load(find(objects, "ConfigMap", "-scheduler")["data"]["config.yaml"])
    assert config["profiles"][0]["schedulerName"] == "123"
    classes = {spec.get("priorityClassName") for spec in pod_specs(objects).values()}
    assert classes == {"7", "8", None}  # the test's pod has none
    for each in objects:
        assert all(isinstance(value, str) for value in each["metadata"]["labels"].values())
    assert find(objects, "PersistentVolumeClaim")["spec"]["storageClassName"] == "6"
    assert find(objects, "Certificate")["spec"]["issuerRef"]["name"] == "5"
    asks = settings(ExtenderSettings, container(objects, "-scheduler", "extender"), monkeypatch)
    answers = settings(OperatorSettings, container(objects, "-operator", "operator"), monkeypatch)
    assert (asks.scheduler_name, answers.scheduler_name) == ("123", "123")


def test_a_releases_name_may_have_dots(helm: Helm) -> None:
    text = helm("template", "my.rel", CHART, "--namespace", NAMESPACE, "--kube-version", "1.36.3")
    services = [each["metadata"] for each in yaml.safe_load_all(text) if each and each["kind"] == "Service"]
    assert [each["name"] for each in services] == ["my-rel-nodewise-operator"]
    assert services[0]["labels"]["app.kubernetes.io/instance"] == "my.rel"


def test_on_ipv6_alone_all_that_is_not_on_loopback_listens_there(
    render: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CHANNELS:
        objects = render({**FEATURES[name], "listenAddress": "::"})
        operator = settings(OperatorSettings, container(objects, "-operator", "operator"), monkeypatch)
        extender = settings(ExtenderSettings, container(objects, "-scheduler", "extender"), monkeypatch)
        assert (operator.host, operator.channel_host, extender.admin_host) == ("::", "::", "::")
        assert extender.host == "127.0.0.1"
        assert "0.0.0.0" not in str([each for each in objects if each["kind"] != "CustomResourceDefinition"])


def test_definitions_can_be_left_to_somebody_else(render: Render) -> None:
    assert len([1 for each in render({}) if each["kind"] == "CustomResourceDefinition"]) == 4
    assert "CustomResourceDefinition" not in {each["kind"] for each in render({"crds": {"install": False}})}


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    image = {"registry": "registry.example:5000", "tag": "v9", "digest": digest}
    found = container(render({"operator": {"image": image}}), "-operator", "operator")["image"]
    assert found == f"registry.example:5000/nodewise/nodewise-operator@{digest}"
