"""The real API server takes our kinds, refuses bad objects in our words, and `kubectl get nodewise` reads well."""

import asyncio
import contextlib
import logging
import math
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.aio.client import ApiClient

from nodewise.channel.messages import PolicyReport, Report
from nodewise.core.estimator import Observation, RunTimeEstimator
from nodewise.core.pods import node_spec
from nodewise.kube.api import connect
from nodewise_operator import placement_status, profiles
from nodewise_operator.placement_status import Reported
from nodewise_operator.profiles import Known
from nodewise_operator.resources import KINDS, NodeProfile, PlacementPolicy, PolicyModel, Resource, TrainingRun
from nodewise_operator.resources.generate import crd
from nodewise_operator.speeds import Learned
from nodewise_simulator.controlplane import ApiError, ControlPlane, program

Json = dict[str, Any]
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))
DIGEST = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"


def apply(plane: ControlPlane, path: str, manifest: Json, manager: str = "test") -> Json:
    name = manifest["metadata"]["name"]
    return plane.call("PATCH", f"{path}/{name}?fieldManager={manager}&force=true", manifest, APPLY)


def established(plane: ControlPlane, name: str) -> bool:
    held = plane.call("GET", f"{CRDS}/{name}")
    status = {c["type"]: c["status"] for c in (held.get("status") or {}).get("conditions") or ()}
    return status.get("Established") == "True" and status.get("NonStructuralSchema", "False") == "False"


def install(plane: ControlPlane, *kinds: type[Resource]) -> None:
    for kind in kinds:
        apply(plane, CRDS, crd(kind))
    for kind in kinds:
        for _ in range(200):
            if established(plane, f"{kind.plural}.nodewise.dev"):
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"{kind.plural} was not established")


@pytest.fixture(scope="module")
def kinds(shared_plane: ControlPlane) -> None:
    install(shared_plane, *KINDS)


@pytest.fixture
def server(plane: ControlPlane, kinds: None) -> Iterator[ControlPlane]:
    """The control plane with our kinds and none of their objects."""
    yield plane
    for kind in KINDS:
        with contextlib.suppress(ApiError):
            plane.call("DELETE", kind.path("default"))


def made(kind: str, spec: Json, name: str = "x") -> Json:
    return {"apiVersion": "nodewise.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def kubectl(plane: ControlPlane, *words: str, given: str | None = None) -> str:
    argv = [str(program("kubectl")), "--kubeconfig", str(plane.kubeconfig), *words]
    home = {**os.environ, "HOME": str(plane.folder)}
    ran = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=60, env=home, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def of_category(plane: ControlPlane) -> str:
    """`kubectl get nodewise`, once discovery, which kubectl keeps for hours, knows the kind that has just come."""
    for k in range(100):
        if text := kubectl(plane, "get", "nodewise", "--cache-dir", str(plane.folder / f"discovery-{k}")):
            return text
        time.sleep(0.1)
    raise AssertionError("the category holds nothing")


def test_the_samples_are_accepted_and_defaults_are_filled_in(server: ControlPlane) -> None:
    assert len(SAMPLES) == 4
    for file in SAMPLES:
        for manifest in yaml.safe_load_all(file.read_text()):
            kind = next(k for k in KINDS if k.__name__ == manifest["kind"])
            assert kind.model_validate(manifest).plain()["spec"]
            apply(server, kind.path(manifest["metadata"].get("namespace")), manifest)
    batch = server.call("GET", f"{PlacementPolicy.path()}/batch")["spec"]
    assert batch == {
        "mode": "Advise", "namespaces": ["batch"], "priority": 0,
        "weights": {"latency": 1, "sla": 1, "energy": 1, "cost": 1},
    }  # fmt: skip
    weights = server.call("GET", f"{PlacementPolicy.path()}/team-a")["spec"]["weights"]
    assert weights == {"latency": 1, "sla": 3, "energy": 0.5, "cost": 1}


REFUSED: dict[str, tuple[type[Resource], Json, str]] = {
    "policy and bundle": (PlacementPolicy, {"policy": "economic", "bundle": "hetero"}, "policy and bundle exclude"),
    "two ways to name namespaces": (
        PlacementPolicy, {"namespaces": ["a"], "namespaceSelector": {}}, "namespaces and namespaceSelector exclude",
    ),
    "no weight": (
        PlacementPolicy, {"weights": {"latency": 0, "sla": 0, "energy": 0, "cost": 0}}, "at least one weight must be",
    ),
    "a negative weight": (PlacementPolicy, {"weights": {"sla": -1}}, "greater than or equal to 0"),
    "an unknown mode": (PlacementPolicy, {"mode": "active"}, 'supported values: "Advise", "Shadow", "Active", "Off"'),
    "a requirement without values": (
        PlacementPolicy, {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "values are required",
    ),
    "the same namespace twice": (PlacementPolicy, {"namespaces": ["a", "a"]}, "Duplicate value"),
    "idle above peak": (NodeProfile, {"nodeClass": "c", "idleWatts": 9, "peakWatts": 8}, "idleWatts must not be above"),
    "a tag": (
        PolicyModel, {"source": "oci://r/p:v1", "sha256": DIGEST, "algorithm": "PPO"}, "must name its digest",
    ),
    "a short digest": (
        PolicyModel, {"source": "file:///p", "sha256": "abc", "algorithm": "PPO"}, "spec.sha256",
    ),
    "no end": (TrainingRun, {}, "a TrainingRun needs an end"),
    "a window that runs backwards": (
        TrainingRun,
        {"minutes": 1, "data": {"since": "2026-11-02T00:00:00Z", "until": "2026-11-01T00:00:00Z"}},
        "since must be before until",
    ),
    "two windows": (
        TrainingRun, {"minutes": 1, "data": {"since": "2026-11-02T00:00:00Z", "lastHours": 3}}, "lastHours excludes",
    ),
    "more minutes than a week has": (TrainingRun, {"minutes": 20000}, "less than or equal to 10080"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_object_is_refused_in_our_words(server: ControlPlane, case: str) -> None:
    kind, spec, says = REFUSED[case]
    with pytest.raises(ApiError) as refused:
        server.call("POST", kind.path("default"), made(kind.__name__, spec))
    assert refused.value.status == 422
    assert says in refused.value.message


IMMUTABLE: dict[str, tuple[type[Resource], Json, Json, str]] = {
    "a model's digest": (
        PolicyModel,
        {"source": "file:///p", "sha256": DIGEST, "algorithm": "PPO"},
        {"sha256": DIGEST[::-1]},
        "a PolicyModel cannot be changed",
    ),
    "a run's seed": (TrainingRun, {"minutes": 1}, {"seed": 2}, "a TrainingRun cannot be changed"),
    "a profile's class": (NodeProfile, {"nodeClass": "c"}, {"nodeClass": "d"}, "nodeClass cannot be changed"),
}


@pytest.mark.parametrize("case", IMMUTABLE)
def test_what_is_immutable_cannot_be_changed(server: ControlPlane, case: str) -> None:
    kind, spec, change, says = IMMUTABLE[case]
    server.call("POST", kind.path("default"), made(kind.__name__, spec))
    patch = {"metadata": {"labels": {"a": "b"}}}
    server.call("PATCH", f"{kind.path('default')}/x", patch, MERGE)
    with pytest.raises(ApiError, match=says):
        server.call("PATCH", f"{kind.path('default')}/x", {"spec": change}, MERGE)


def test_what_nobody_acts_on_yet_says_so_from_its_first_moment(server: ControlPlane) -> None:
    run = server.call("POST", TrainingRun.path("default"), made("TrainingRun", {"minutes": 1}))
    (accepted,) = run["status"]["conditions"]
    assert (accepted["type"], accepted["status"], accepted["reason"]) == ("Accepted", "False", "NotSupported")
    spec = {"source": "file:///p", "sha256": DIGEST, "algorithm": "PPO"}
    model = server.call("POST", PolicyModel.path(), made("PolicyModel", spec))
    assert {c["type"]: c["status"] for c in model["status"]["conditions"]} == {
        "Verified": "Unknown", "ParityPassed": "Unknown", "Loaded": "Unknown",
    }  # fmt: skip


# --- those who write status


async def until(reached: Callable[[], Json | None], what: str, timeout_s: float = 30.0) -> Json:
    """What `reached` gives, once it gives anything; it runs in a thread, as it may talk to the API server."""
    for _ in range(int(timeout_s / 0.1)):
        found = await asyncio.to_thread(reached)
        if found is not None:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in {timeout_s:g} s: {what}")


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    yield
    assert not task.done()  # it bears whatever happens
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def get(plane: ControlPlane, kind: type[Resource], name: str) -> Json | None:
    with contextlib.suppress(ApiError):
        return plane.call("GET", f"{kind.path()}/{name}")
    return None


def known_of(*names: str) -> Known:
    """One workload that runs twice as fast on the class `fast`, 20 times each, and these nodes of it."""
    estimator = RunTimeEstimator()
    for k in range(40):
        node_class, run_s = ("fast", 30.0) if k % 2 else ("slow", 60.0)
        estimator.learn(Observation(f"u{k}", "train", False, node_class, run_s * math.exp(0.02 * (k % 5 - 2)), 1.0))
    nodes = ({"metadata": {"name": name, "labels": {"nodewise.dev/node-class": "fast"}}} for name in names)
    return Known(Learned.of(estimator), tuple(map(node_spec, nodes)))


async def test_profiles_are_written_when_the_kind_appears_only_on_change_and_beside_what_others_write(
    server: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    server.call("DELETE", f"{CRDS}/nodeprofiles.nodewise.dev")
    await until(lambda: {} if not listed(server) else None, "the kind is gone")
    known = [known_of("n1", "n2")]

    async def source() -> Known:
        return known[0]

    caplog.set_level(logging.INFO)
    async with await connect(server.kubeconfig) as api:
        work = profiles.run(api, source, every_s=0.2, again_s=0.3, reference="slow")
        async with running(work):
            await asyncio.sleep(1.5)
            assert sum("not installed" in record.message for record in caplog.records) == 1
            await asyncio.to_thread(install, server, NodeProfile)
            first = await until(lambda: with_status(server, lambda s: s.get("nodes") == 2), "a profile")
            assert first["spec"] == {
                "nodeClass": "fast", "selector": {"matchLabels": {"nodewise.dev/node-class": "fast"}},
            }  # fmt: skip
            status = first["status"]
            assert status["overall"]["speed"] == pytest.approx(2.0, rel=0.05)
            assert status["overall"]["lower"] < 2.0 < status["overall"]["upper"]
            await asyncio.sleep(1.5)  # seven rounds
            same = await until(lambda: get(server, NodeProfile, "fast"), "the profile")
            assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

            measured = {"name": "sort", "seconds": 2.5, "runs": 3, "measuredAt": "2026-11-21T10:00:00Z"}
            theirs = NodeProfile.head() | {"metadata": {"name": "fast"}, "status": {"benchmarks": [measured]}}
            path = f"{NodeProfile.path()}/fast"
            query = "status?fieldManager=nodewise-profile&force=true"
            await asyncio.to_thread(server.call, "PATCH", f"{path}/{query}", theirs, APPLY)
            spec = {"spec": {"priceUsdPerHour": 0.25, "idleWatts": 40, "peakWatts": 90}}
            await asyncio.to_thread(server.call, "PATCH", path, spec, MERGE)
            known[0] = known_of("n1", "n2", "n3")
            after = await until(lambda: with_status(server, lambda s: s.get("nodes") == 3 and "price" in s), "3 nodes")
            assert after["status"]["benchmarks"] == [measured]
            assert after["status"]["price"] == {"usdPerHour": 0.25, "source": "spec of NodeProfile fast"}
            assert after["spec"]["priceUsdPerHour"] == 0.25
            shown = (await asyncio.to_thread(of_category, server)).splitlines()
    assert shown[0].split() == ["NAME", "NODES", "SPEED", "INTERVAL", "SAMPLES", "USD/H", "WATTS", "AGE"]
    name, nodes, speed, interval, samples, price, watts, _age = shown[1].split()
    assert (name, nodes, samples, price, watts) == ("nodeprofile.nodewise.dev/fast", "3", "19", "0.25", "90")
    assert float(speed) == pytest.approx(2.0, rel=0.05)
    lower, upper = map(float, interval.split("-"))
    assert lower < 2.0 < upper


def listed(plane: ControlPlane) -> bool:
    try:
        plane.call("GET", NodeProfile.path())
    except ApiError:
        return False
    return True


def with_status(plane: ControlPlane, holds: Callable[[Json], bool]) -> Json | None:
    found = get(plane, NodeProfile, "fast") if listed(plane) else None
    return found if found is not None and holds(found.get("status") or {}) else None


async def test_without_the_right_to_write_that_is_said_once_and_nothing_ends(
    server: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    name = "reads-only"
    rules = [{"apiGroups": ["nodewise.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    server.call("POST", f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    subject = {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
    bound = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
    server.call("POST", f"{rbac}/clusterrolebindings", bound)
    async with await connect(server.kubeconfig) as api:
        as_user(api, name)
        async with running(profiles.run(api, one_node, every_s=0.1, again_s=0.2)):
            await asyncio.sleep(2.0)
        as_user(api, "nobody")
        async with running(profiles.run(api, one_node, every_s=0.1, again_s=0.2)):
            await asyncio.sleep(1.0)
    assert [r.levelname for r in caplog.records if "cannot be written (403: " in r.message] == ["WARNING"]
    assert get(server, NodeProfile, "fast") is None


async def one_node() -> Known:
    return known_of("n1")


def as_user(api: ApiClient, name: str) -> None:
    api.set_default_header("Impersonate-User", name)  # type: ignore[no-untyped-call]


async def test_a_policys_status_follows_its_extenders_and_its_generation(server: ControlPlane) -> None:
    held: dict[str, Reported] = {}

    def told(generation: int, mode: str, **more: Any) -> None:
        one = PolicyReport(name="p", generation=generation, mode=mode, policy="economic", digest="d", **more)
        report = Report(extender="e-1", time_s=0.0, policy="economic", digest="d", placement_policies=[one])
        held["e-1"] = Reported(report, time.time())

    def ready(reason: str) -> Callable[[], Json | None]:
        def look() -> Json | None:
            found = get(server, PlacementPolicy, "p") or {}
            said = {c["type"]: c["reason"] for c in (found.get("status") or {}).get("conditions") or ()}
            return found if said.get("Ready") == reason else None

        return look

    server.call("POST", PlacementPolicy.path(), made("PlacementPolicy", {"mode": "Shadow"}, "p"))
    async with await connect(server.kubeconfig) as api:
        work = placement_status.run(api, lambda: held.values(), look_every_s=0.1, counts_every_s=0.5)
        async with running(work):
            await asyncio.sleep(0.5)
            assert "status" not in (get_now := await until(lambda: get(server, PlacementPolicy, "p"), "it")), get_now
            told(1, "shadow", decisions=10)
            first = await until(ready("InForce"), "in force")
            assert first["status"]["observedGeneration"] == 1
            await asyncio.to_thread(
                kubectl, server, "patch", "ppol", "p", "--type=merge", "-p", '{"spec":{"mode":"Active"}}'
            )
            await until(ready("NotEverywhere"), "the new generation is not in force yet")
            told(2, "active", decisions=20, bound_winner=9, bound_other=1, fallbacks={"deadline": 2})
            await until(ready("InForce"), "in force again")
            done = await until(
                lambda: (f := ready("InForce")()) and (f if f["status"].get("agreement") == "90.0%" else None), "counts"
            )
            assert done["status"]["extenders"][0]["fallbacks"] == {"deadline": 2}
            shown = (await asyncio.to_thread(kubectl, server, "get", "ppol", "-o", "wide")).splitlines()
            await asyncio.sleep(1.0)
            same = await until(lambda: get(server, PlacementPolicy, "p"), "it")
    assert same["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]
    assert shown[0].split() == [
        *("NAME", "MODE", "POLICY", "READY", "IN-FORCE", "AGREEMENT"),
        *("DECISIONS", "FALLBACKS", "DEGRADED", "STALE", "PRIORITY", "AGE"),
    ]  # fmt: skip
    assert shown[1].split()[:6] == ["p", "Active", "economic", "True", "1/1", "90.0%"]
