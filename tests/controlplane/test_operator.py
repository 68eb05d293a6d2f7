"""The operator on a real API server: its rows are right whatever happens to it; pods and nodes are never written to."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import create_database, postgres_server

from nodewise.core.errors import UserError
from nodewise_operator.store import Fate, Store
from nodewise_simulator.controlplane import ApiError, ControlPlane, Kubelet, Process, node, pod, programs
from nodewise_simulator.controlplane.access import free_ports

__all__ = ["postgres_server"]

Json = dict[str, Any]

USER = "nodewise-operator"
GIB = 1 << 30
KILLS = int(os.environ.get("NODEWISE_OPERATOR_KILLS", "6"))
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@pytest.fixture(scope="module")
def audited() -> Iterator[ControlPlane]:
    """A control plane that notes every request, with a user that has the operator's rights."""
    try:
        programs()
    except UserError as missing:
        if os.environ.get("NODEWISE_REQUIRE_CONTROLPLANE") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with ControlPlane(users=[USER], audit=True) as plane:
        rights = [
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        ]
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        plane.call("POST", f"{rbac}/clusterroles", {"metadata": {"name": USER}, "rules": rights})
        subject = {"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": "ClusterRole", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}
        plane.call(
            "POST", f"{rbac}/clusterrolebindings", {"metadata": {"name": USER}, "subjects": [subject], "roleRef": role}
        )
        yield plane


class Scheduled:
    """Binds pods as they are created, with the clients of the harness: a scheduler is not what is tested here."""

    def __init__(self, plane: ControlPlane, nodes: int = 8) -> None:
        self.plane = plane
        self.nodes = [f"n{k}" for k in range(nodes)]
        plane.create_nodes(
            node(name, cpu_milli=64_000, memory_bytes=256 * GIB, instance_type=f"type-{k % 2}", pods=500)
            for k, name in enumerate(self.nodes)
        )

    def run(self, namespace: str, *pods: Json) -> list[Json]:
        made = self.plane.create_pods(pods)
        for created in made:
            self.bind(namespace, created["metadata"]["name"])
        return made

    def bind(self, namespace: str, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": random.choice(self.nodes)}
        body = {"metadata": {"name": name}, "target": target}
        self.plane.call("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", body)


class Running:
    """An operator process and its store."""

    def __init__(
        self, plane: ControlPlane, folder: Path, *flags: str, url: str = "", store: str = "operator.db"
    ) -> None:
        self.plane, self.folder = plane, folder
        self.store_path: Path | str = store if "://" in store else folder / store
        (self.port,) = free_ports(1)
        self.argv = [
            sys.executable, "-m", "nodewise.cli.main", "operator",
            "--kubeconfig", str(plane.user_kubeconfig(USER, url)), "--store", str(self.store_path),
            "--port", str(self.port), "--channel-port", "0", "--unknown-after-s", "2",
            *flags,
        ]  # fmt: skip
        self.log = folder / f"operator-{self.port}.log"
        self.process = self.start()

    def start(self) -> Process:
        self.process = Process("operator", self.argv, self.log)
        return self.process

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return str(reply.read().decode())
        except OSError:
            return ""

    def ready(self) -> "Running":
        self.process.wait_until(lambda: bool(self.get("/readyz")), 90.0)
        return self

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"nodewise_operator_{name} ")]
        return float(lines[0].split()[1]) if lines else -1.0

    def rows(self) -> dict[str, Any]:
        """Pods by name, as they are in the store."""
        with contextlib.closing(Store.open(str(self.store_path), create=False)) as store:
            return {row.name: row for row in store.pods()}

    def wait_rows(self, count: int, reached: Callable[[Any], bool], timeout_s: float = 60.0) -> dict[str, Any]:
        give_up_s = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(UserError):  # the store is not there yet
                rows = self.rows()
                if sum(map(reached, rows.values())) >= count:
                    return rows
            if time.monotonic() > give_up_s:
                seen = Counter((row.fate, row.reason) for row in rows.values())
                raise AssertionError(f"{seen} after {timeout_s:g} s; the log ends:\n{self.process.log_tail()}")
            time.sleep(0.2)


@pytest.fixture(params=["kopf", "informer"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(audited: ControlPlane) -> Iterator[Scheduled]:
    yield Scheduled(audited)
    for space in {each["metadata"]["namespace"] for each in audited.list_pods()}:
        audited.delete_pods(space)
    audited.delete_nodes()


@pytest.fixture
def namespace(audited: ControlPlane) -> str:
    name = f"test-{time.monotonic_ns()}"
    audited.create_namespace(name)
    return name


@pytest.fixture
def start(audited: ControlPlane, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as ending:

        def started(*flags: str, **more: Any) -> Running:
            made = Running(audited, tmp_path, *flags, **more)
            ending.callback(lambda: made.process.stop())
            return made

        yield started


def a_pod(namespace: str, name: str, **more: Any) -> Json:
    made = pod(name, cpu_milli=100, memory_bytes=GIB // 8, namespace=namespace, scheduler_name="any-scheduler", **more)
    made["metadata"].setdefault("annotations", {})["run-seconds"] = str(more.get("run_s", 1.0))
    return made


def lasting(namespace: str, name: str, run_s: float) -> Json:
    made = a_pod(namespace, name)
    made["metadata"]["annotations"]["run-seconds"] = str(run_s)
    return made


def run_s(pod: Json, _node: str) -> float | None:
    told = float(pod["metadata"]["annotations"]["run-seconds"])
    return told if told >= 0 else None


def fail(plane: ControlPlane, namespace: str, name: str, reason: str = "Error", exit_code: int = 3) -> None:
    """As the kubelet says it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ended = {"exitCode": exit_code, "reason": reason, "startedAt": now, "finishedAt": now}
    status = {
        "name": "main",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    body = {"status": {"phase": "Failed", "containerStatuses": [status]}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    plane.call("PATCH", path, body, "application/strategic-merge-patch+json")


def conserved(running: Running) -> None:
    with contextlib.closing(Store.open(str(running.store_path), create=False)) as store:
        decided = {decision.uid for decision in store.decisions()}
        pods = [row.uid for row in store.pods()]
        assert len(pods) == len(set(pods))
        assert decided == set(pods)
        downtimes = store.downtimes()
        for row in store.pods():
            if row.fate is Fate.CENSORED and row.reason == "downtime":
                assert any(d.begin_s <= row.finished_s <= d.end_s + 60.0 for d in downtimes), row


def test_both_databases_hold_the_same_rows_of_the_same_run(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], postgres_server: str
) -> None:
    operators = [start().ready(), start(store=create_database(postgres_server, "operator")).ready()]
    with Kubelet(audited.url, audited.token, run_s):
        world.run(namespace, *(lasting(namespace, f"p-{k}", 1.0 + k % 3) for k in range(60)))
        sqlite, postgres = (o.wait_rows(60, lambda row: row.fate is Fate.SUCCEEDED) for o in operators)
    for name, row in sqlite.items():
        # What the neighbours are believed to have cost depends on which event was seen first, the rest does not.
        assert replace(row, slowdown=0.0) == replace(postgres[name], slowdown=0.0)
    for operator in operators:
        conserved(operator)


def test_each_fate_is_recorded_as_the_kubelet_wrote_it_and_no_pod_or_node_is_written_to(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    operator = start("--source", source).ready()
    with Kubelet(audited.url, audited.token, run_s):
        world.run(
            namespace,
            *(lasting(namespace, f"ok-{k}", 1.0 + k % 3) for k in range(10)),
            *(lasting(namespace, name, -1) for name in ("deleted", "failed", "oom", "runs")),
        )
        operator.wait_rows(13, lambda r: r.started_s > 0)
        audited.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/deleted")
        fail(audited, namespace, "failed")
        fail(audited, namespace, "oom", "OOMKilled", 137)
        rows = operator.wait_rows(13, lambda r: r.fate not in (Fate.WAITING, Fate.RUNNING))
    assert {(rows[f"ok-{k}"].fate, rows[f"ok-{k}"].reason) for k in range(10)} == {(Fate.SUCCEEDED, "")}
    assert {name: (rows[name].fate, rows[name].reason) for name in ("deleted", "failed", "oom", "runs")} == {
        "deleted": (Fate.CENSORED, "deleted"),
        "failed": (Fate.FAILED, "Error"),
        "oom": (Fate.FAILED, "OOMKilled"),
        "runs": (Fate.RUNNING, ""),
    }
    assert rows["failed"].exit_code == 3
    for k in range(10):
        row = rows[f"ok-{k}"]
        assert row.created_s <= row.bound_s <= row.started_s <= row.finished_s
        assert abs(row.finished_s - row.started_s - (1.0 + k % 3)) <= 1.5  # the stamps are whole seconds
        assert row.node in world.nodes
        assert row.node_class.startswith("type-")
        assert row.cents >= 0
    conserved(operator)
    with contextlib.closing(Store.open(str(operator.store_path), create=False)) as store:
        scored = [d for d in store.decisions() if not d.neutral]
        assert len(scored) == 14
        assert all(d.bound in d.candidates and len(d.candidates) == 8 and d.winner in d.candidates for d in scored)
        assert all(d.features and len(d.features) == 4 * len(d.columns) * len(d.featured) for d in scored)
        assert len(list(store.observations())) >= 9
    written = [
        e
        for e in audited.audited(USER)
        if e["verb"] in WRITES and e.get("objectRef", {}).get("resource") in ("pods", "nodes")
    ]
    assert written == []
    assert {e["verb"] for e in audited.audited(USER)} >= {"list", "watch"}
    for each in audited.list_pods(namespace):
        assert not each["metadata"].get("finalizers")
        assert not [k for k in each["metadata"].get("annotations") or {} if "nodewise" in k or "kopf" in k]


class Truth:
    """Pods that come, run for 0.2 to 10 s, and are sometimes deleted, for as long as it is not told to stop."""

    def __init__(self, world: Scheduled, namespace: str, seed: int, per_s: float = 8.0) -> None:
        self.uids: dict[str, str] = {}  # by name
        self.deleted: set[str] = set()
        self._world, self._namespace, self._per_s = world, namespace, per_s
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(1.0 / self._per_s):
                name = f"p{len(self.uids)}"
                made = self._world.run(self._namespace, lasting(self._namespace, name, self._random.uniform(0.2, 10.0)))
                self.uids[name] = made[0]["metadata"]["uid"]
                if self._random.random() < 0.15:
                    victim = self._random.choice(list(self.uids))
                    if victim not in self.deleted:
                        self.deleted.add(victim)
                        with contextlib.suppress(ApiError):
                            self._world.plane.call("DELETE", f"/api/v1/namespaces/{self._namespace}/pods/{victim}")
        except BaseException as error:  # noqa: BLE001  `stop` raises it
            self._error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def judged(running: Running, truth: Truth, kubelet: Kubelet) -> Counter[str]:
    """Hold the rows against what really happened; what there is of each kind."""
    rows = running.wait_rows(len(truth.uids) // 2, lambda r: r.fate not in (Fate.WAITING, Fate.RUNNING), timeout_s=60.0)
    give_up_s = time.monotonic() + 40.0
    while any(r.fate in (Fate.WAITING, Fate.RUNNING) for r in rows.values()) and time.monotonic() < give_up_s:
        time.sleep(0.5)
        rows = running.rows()
    finished = {f.uid for f in kubelet.finished}
    there = {each["metadata"]["uid"] for each in running.plane.list_pods()}
    kinds: Counter[str] = Counter()
    for name, uid in truth.uids.items():
        row = rows.get(name)
        if row is None:
            assert uid not in there, f"{name} is in the cluster and has no row"
            kinds["never seen"] += 1  # it came and went while nobody looked
            continue
        assert row.uid == uid
        if name not in truth.deleted:
            assert row.fate is Fate.SUCCEEDED, row
        elif row.fate is Fate.SUCCEEDED:
            assert uid in finished
        else:
            assert (row.fate, row.reason in ("deleted", "downtime")) == (Fate.CENSORED, True), row
        kinds[row.fate.value if not row.reason else row.reason] += 1
    assert len(rows) <= len(truth.uids)
    conserved(running)
    with contextlib.closing(Store.open(str(running.store_path), create=False)) as store:
        repeated = [uid for uid, count in Counter(d.uid for d in store.decisions()).items() if count > 1]
        taught = Counter(seen.uid for _, seen in store.observations())
        kinds["scored"] = sum(not d.neutral for d in store.decisions())
        kinds["downtimes"] = len(store.downtimes())
    assert repeated == []
    assert not taught or max(taught.values()) == 1
    return kinds


@pytest.mark.timeout(1800)
def test_killed_at_any_moment_it_loses_no_row_that_was_written_and_repeats_none(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    seed = int(os.environ.get("NODEWISE_SEED", "1"))
    chance = random.Random(seed)
    operator = start("--source", source)
    written: dict[str, tuple[str, float]] = {}
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, seed, per_s=min(8.0, 100.0 / KILLS))
        operator.ready()
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 3.0))
            operator.process.signal(signal.SIGKILL)
            operator.process.stop()
            with contextlib.suppress(UserError):
                rows = operator.rows()
                for name, (uid, bound_s) in written.items():
                    assert (rows[name].uid, rows[name].bound_s) == (uid, bound_s)  # what was written stays
                written = {name: (row.uid, row.bound_s) for name, row in rows.items()}
            operator.start()
            if chance.random() < 0.8:  # else it is killed before it is ready
                operator.ready()
        operator.ready()
        truth.stop()
        kinds = judged(operator, truth, kubelet)
    print(f"\n{source}: {KILLS} kills, {len(truth.uids)} pods: {dict(kinds)}")
    assert kinds["succeeded"] > 20


class Proxy:
    """A TCP proxy to the API server whose connections can be cut."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("https://").split(":")
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(5)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, downstream}
        await asyncio.gather(self._pump(reader, downstream), self._pump(upstream, writer), return_exceptions=True)
        self._writers -= {writer, downstream}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.close()

    def cut(self) -> int:
        async def abort() -> int:
            cut = len(self._writers)
            for writer in self._writers:
                writer.transport.abort()
            return cut

        return asyncio.run_coroutine_threadsafe(abort(), self._loop).result(5)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


CUTS = int(os.environ.get("NODEWISE_OPERATOR_CUTS", "8"))


@pytest.mark.timeout(600)
def test_a_connection_that_is_cut_costs_no_row(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    proxy = Proxy(audited.url)
    operator = start("--source", source, url=proxy.url).ready()
    chance = random.Random(2)
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, 2)
        cut = 0
        for _ in range(CUTS):
            time.sleep(chance.uniform(0.2, 2.0))
            cut += proxy.cut()
        truth.stop()
        kinds = judged(operator, truth, kubelet)
    operator.process.stop()
    proxy.close()
    print(f"\n{source}: {cut} connections cut, {len(truth.uids)} pods: {dict(kinds)}")
    assert cut >= CUTS
    assert kinds["never seen"] == 0
    assert kinds["downtime"] == 0  # the API server still knew where each watch was


def test_a_dead_operator_keeps_nobody_from_deleting_pods_and_nodes(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running], source: str
) -> None:
    operator = start("--source", source).ready()
    world.run(namespace, *(lasting(namespace, f"p{k}", -1) for k in range(30)))
    operator.wait_rows(30, lambda r: bool(r.node))
    operator.process.signal(signal.SIGKILL)
    operator.process.stop()
    audited.delete_pods(namespace)
    audited.delete_nodes()
    assert audited.list_pods(namespace) == []
    assert audited.call("GET", "/api/v1/nodes")["items"] == []


def test_a_second_replica_takes_over_within_the_lease_and_repeats_nothing(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running]
) -> None:
    flags = ("--lease", "--lease-namespace", "default", "--lease-name", namespace, "--lease-duration-s", "5")
    first = start(*flags, "--identity", "first").ready()
    second = start(*flags, "--identity", "second")
    with Kubelet(audited.url, audited.token, run_s) as kubelet:
        truth = Truth(world, namespace, 3)
        second.process.wait_until(lambda: "standing by" in second.process.log_tail(), 60.0)
        time.sleep(2.0)
        assert (bool(second.get("/healthz")), second.get("/readyz")) == (True, "")  # alive, and not ready
        first.process.signal(signal.SIGKILL)
        first.process.stop()
        died_s = time.monotonic()
        path = f"/apis/coordination.k8s.io/v1/namespaces/default/leases/{namespace}"
        second.process.wait_until(lambda: audited.call("GET", path)["spec"]["holderIdentity"] == "second", 30.0)
        took_s = time.monotonic() - died_s
        second.ready()
        truth.stop()
        kinds = judged(second, truth, kubelet)
    print(f"\ntaken over after {took_s:.1f} s of a lease of 5 s, {len(truth.uids)} pods: {dict(kinds)}")
    assert kinds["downtimes"] == 1


def test_whoever_was_paused_and_wakes_up_without_the_lease_ends_without_writing(
    audited: ControlPlane, world: Scheduled, namespace: str, start: Callable[..., Running]
) -> None:
    flags = ("--lease", "--lease-namespace", "default", "--lease-name", namespace, "--lease-duration-s", "3")
    first = start(*flags, "--identity", "first").ready()
    first.process.signal(signal.SIGSTOP)
    second = start(*flags, "--identity", "second").ready()
    world.run(namespace, lasting(namespace, "p1", -1))
    second.wait_rows(1, lambda r: bool(r.node))
    first.process.signal(signal.SIGCONT)
    for _ in range(200):
        if first.process.returncode is not None:
            break
        time.sleep(0.1)
    assert first.process.returncode not in (None, 0)
    assert second.process.returncode is None
    conserved(second)
