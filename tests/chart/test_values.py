"""Values that cannot work are refused before anything is applied: one line, which names the value."""

from typing import Any

import pytest

from .conftest import CHART, FEATURES, Helm, Render, pod_specs

Json = dict[str, Any]
ON: Json = {"enabled": True}

BAD: dict[str, tuple[Json, str]] = {
    "two operators on SQLite": (
        {"operator": {"replicas": 2}},
        (
            "operator.replicas is more than 1, and SQLite has one writer: set it to 1, or name a Secret in "
            "operator.store.postgres.existingSecret.name"
        ),
    ),
    "two stores": (
        {"operator": {"store": {"existingClaim": "mine", "postgres": {"existingSecret": {"name": "database"}}}}},
        (
            "operator.store.existingClaim and operator.store.postgres.existingSecret.name exclude each other: leave "
            "one empty"
        ),
    ),
    "three operators": ({"operator": {"replicas": 3}}, "at '/operator/replicas': maximum: got 3, want 2"),
    "an unknown source": (
        {"operator": {"source": "kops"}},
        "at '/operator/source': value must be one of 'kopf', 'informer'",
    ),
    "a policy that nobody has": (
        {"operator": {"policy": "nonsense"}},
        "at '/operator/policy': value must be one of '', 'kube-default', ",
    ),
    "a policy of the extender that nobody has": (
        {"scheduling": {**ON, "extender": {"policy": "economics"}}},
        "at '/scheduling/extender/policy': value must be one of '', 'kube-default', ",
    ),
    "a malformed digest": (
        {"operator": {"image": {"digest": "sha256:abc"}}},
        "at '/operator/image/digest': 'sha256:abc' does not match pattern '^(sha256:[a-f0-9]{64})?$'",
    ),
    "a quantity in words": (
        {"operator": {"resources": {"limits": {"memory": "lots"}}}},
        "at '/operator/resources/limits/memory': 'lots' does not match pattern",
    ),
    "a setting that the chart makes": (
        {"operator": {"extraEnv": [{"name": "NODEWISE_OPERATOR_PORT", "value": "80"}]}},
        "operator.extraEnv sets NODEWISE_OPERATOR_PORT, which the chart sets itself: use the chart's value for it",
    ),
    "a setting that the chart makes, as pydantic reads it too": (
        {"operator": {"extraEnv": [{"name": "nodewise_operator_port", "value": "80"}]}},
        "operator.extraEnv sets nodewise_operator_port, which the chart sets itself: use the chart's value for it",
    ),
    "a flag that would win over it": (
        {"operator": {"extraArgs": ["--census-s=60", "--channel-host=::"]}},
        "operator.extraArgs sets --channel-host, which the chart sets itself: use the chart's value for it",
    ),
    "a flag and its value apart": (
        {"scheduling": {**ON, "extender": {"extraArgs": ["--admin-port", "80"]}}},
        "scheduling.extender.extraArgs sets --admin-port, which the chart sets itself: use the chart's value for it",
    ),
    "a flag that says no": (
        {"operator": {"extraArgs": ["--no-lease"]}},
        "operator.extraArgs sets --lease, which the chart sets itself: use the chart's value for it",
    ),
    "an address of one machine": (
        {"listenAddress": "10.0.0.1"},
        "at '/listenAddress': value must be one of '0.0.0.0', '::'",
    ),
    "an unknown TLS mode": (
        {"scheduling": ON, "channel": {"tls": {"mode": "selfSigned"}}},
        "at '/channel/tls/mode': value must be one of 'none', 'certManager', 'existingSecret'",
    ),
    "no Secret": (
        {"scheduling": ON, "channel": {"tls": {"mode": "existingSecret"}}},
        "channel.tls.mode is existingSecret and names none: set channel.tls.existingSecret.name",
    ),
    "a Secret that would not be used": (
        {"scheduling": ON, "channel": {"tls": {"existingSecret": {"name": "channel"}}}},
        (
            "channel.tls.existingSecret.name is set and channel.tls.mode is none: set the mode to existingSecret, or "
            "leave the name empty"
        ),
    ),
    "no issuer": (
        {"scheduling": ON, "channel": {"tls": {"mode": "certManager"}}},
        "channel.tls.mode is certManager and names no issuer: set channel.tls.certManager.issuerRef.name",
    ),
    "no time to answer": (
        {"scheduling": {**ON, "httpTimeoutMs": 0}},
        "at '/scheduling/httpTimeoutMs': minimum: got 0, want 20",
    ),
    "a hung extender that stops everything": (
        {"scheduling": {**ON, "httpTimeoutMs": 30000}},
        "at '/scheduling/httpTimeoutMs': maximum: got 30,000, want 2,000",
    ),
    "a policy that is always late": (
        {"scheduling": {**ON, "extender": {"deadlineMs": 250}}},
        (
            "scheduling.extender.deadlineMs (250) must be less than scheduling.httpTimeoutMs (250): a policy that is "
            "late would cost its pod the answer"
        ),
    ),
    "the default scheduler's name": (
        {"scheduling": {**ON, "schedulerName": "default-scheduler"}},
        "scheduling.schedulerName default-scheduler is the name of Kubernetes' own scheduler: choose another",
    ),
    "no scheduler's name": (
        {"scheduling": {**ON, "schedulerName": ""}},
        "at '/scheduling/schedulerName': '' does not match pattern",
    ),
    "shared nodes, maybe": (
        {"scheduling": {**ON, "sharedNodes": "maybe"}},
        "at '/scheduling/sharedNodes': got string, want boolean",
    ),
    "a word in quotes": ({"scheduling": {"enabled": "true"}}, "at '/scheduling/enabled': got string, want boolean"),
    "a budget that lets no node be drained": (
        {"scheduling": {**ON, "replicas": 1}},
        (
            "scheduling.podDisruptionBudget.minAvailable (1) is not less than scheduling.replicas (1), so no node with "
            "a scheduler could be drained: raise replicas, or switch the budget off"
        ),
    ),
    "a burst that is none": (
        {"scheduling": {**ON, "clientQps": 1000}},
        "scheduling.clientBurst (400) is less than scheduling.clientQps (1000): a burst must hold a second's requests",
    ),
    "a label of the chart's own": (
        {"commonLabels": {"app.kubernetes.io/name": "placement"}},
        "commonLabels sets app.kubernetes.io/name, by which the chart finds its own objects: choose another key",
    ),
    "weights are no values": (
        {"scheduling": {**ON, "weight": 5}},
        "at '/scheduling': additional properties 'weight' not allowed",
    ),
    "a typing mistake": ({"sheduling": ON}, "at '': additional properties 'sheduling' not allowed"),
}

NO_SCHEDULER = (
    "no kube-scheduler is known for Kubernetes 1.33 (only for 1.34, 1.35, 1.36): set scheduling.scheduler.image.tag to "
    "one of that minor version"
)
NO_VERSION = (
    "the cluster's version is not known here, and kube-scheduler must match it: give --kube-version with its full "
    "version, such as 1.36.3, or set scheduling.scheduler.image.tag"
)


@pytest.mark.parametrize("what", BAD)
def test_bad_values_are_refused_with_one_line(what: str, helm: Helm) -> None:
    values, expected = BAD[what]
    assert expected in refusal(helm, values)


@pytest.mark.parametrize(("container", "where"), [("operator", "operator"), ("extender", "scheduling.extender")])
def test_no_setting_that_the_chart_makes_with_whatever_values_can_be_made_twice(
    container: str, where: str, helm: Helm, render: Render
) -> None:
    made = {
        env["name"]
        for values in FEATURES.values()
        for spec in pod_specs(render(values)).values()
        for of in spec["containers"]
        if of["name"] == container
        for env in of["env"]
        if env["name"].startswith("NODEWISE_")
    }
    assert len(made) > 10
    for name in sorted(made):
        env: Json = {"extraEnv": [{"name": name, "value": "1"}]}
        values = {"operator": env} if container == "operator" else {"scheduling": {"extender": env}}
        assert refusal(helm, values).startswith(f"{where}.extraEnv sets {name}, which the chart sets itself")


@pytest.mark.parametrize("name", [name for name in FEATURES if name.startswith("scheduling")])
def test_scheduling_can_be_switched_off_by_one_value_whatever_else_is_set(name: str, helm: Helm) -> None:
    done = helm.template(FEATURES[name], "1.36", "--set", "scheduling.enabled=false")
    assert done.returncode == 0, done.stderr
    assert "NODEWISE_OPERATOR_CHANNEL" not in done.stdout
    assert "kind: Certificate\n" not in done.stdout


@pytest.mark.parametrize(
    ("minor", "expected"),
    [
        ("1.33.4", NO_SCHEDULER),
        (None, NO_VERSION),
    ],
)
def test_a_scheduler_without_a_known_version_is_refused_and_a_tag_helps(
    minor: str | None, expected: str, helm: Helm
) -> None:
    values: Json = {"scheduling": dict(ON)}
    assert refusal(helm, values, minor) == expected
    values["scheduling"]["scheduler"] = {"image": {"tag": "v1.33.4"}}
    done = helm.template(values, minor)
    assert done.returncode == 0
    assert "image: registry.k8s.io/kube-scheduler:v1.33.4\n" in done.stdout
    assert helm.template({}, minor).returncode == 0  # nothing to match where there is no scheduler


def test_a_cluster_that_is_too_old_is_refused(helm: Helm) -> None:
    done = helm.template({}, "1.30.2")
    assert done.returncode == 1
    assert "requires kubeVersion: >=1.31.0-0 which is incompatible with Kubernetes v1.30.2" in done.stderr


@pytest.mark.parametrize("name", FEATURES)
def test_lint_finds_nothing(name: str, helm: Helm) -> None:
    said = helm("lint", CHART, "--strict", "--kube-version", "1.36.3", *helm.values(FEATURES[name]))
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


def refusal(helm: Helm, values: Json, minor: str | None = "1.36") -> str:
    """The one line that says why, without where in which template it stands."""
    done = helm.template(values, minor)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    frame = ("Use --debug", "Error: values don't meet the specifications of the schema", "nodewise:")
    (line,) = (line for line in done.stderr.splitlines() if line and not line.startswith(frame))
    before, found, after = line.partition("): nodewise: ")
    assert not found or before.startswith("Error: execution error at (nodewise/templates/")
    return after if found else line.removeprefix("- ")
