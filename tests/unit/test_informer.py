"""The informer against a fake API server, over real sockets and through the real client."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.aio.client import ApiClient

from nodewise.core.errors import UserError
from nodewise.kube.api import ACTIVE_PODS, FINISHED_PODS, Call, connect, node_call, pod_call
from nodewise.kube.informer import Informer
from nodewise_simulator.fake_api import FakeApi

Object = dict[str, Any]
LIMIT_S = 20.0  # only a hang reaches it


def node(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels}, "spec": {}, "status": {}}


def pod(name: str, phase: str, node_name: str | None = None) -> Object:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    return {"metadata": meta, "spec": {"nodeName": node_name} if node_name else {}, "status": {"phase": phase}}


@dataclass
class Seen:
    """A consumer that remembers what it was told."""

    lists: list[list[str]] = field(default_factory=list)
    events: list[tuple[str, str, int]] = field(default_factory=list)  # kind, name, resourceVersion
    objects: dict[str, Object] = field(default_factory=dict)
    last: Object | None = None
    broken: str = ""  # the name that makes the callback of an event raise

    def replace(self, objects: list[Object]) -> None:
        self.objects = {o["metadata"]["name"]: o for o in objects}
        self.lists.append([o["metadata"]["name"] for o in objects])

    def event(self, kind: str, obj: Object) -> None:
        meta = obj["metadata"]
        if meta["name"] == self.broken:
            raise RuntimeError("no")
        self.last = obj
        self.events.append((kind, meta["name"], int(meta["resourceVersion"])))
        if kind == "DELETED":
            del self.objects[meta["name"]]
        else:
            self.objects[meta["name"]] = obj


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        yield server


@pytest.fixture
async def client(api: FakeApi, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with await connect(api.kubeconfig(tmp_path / "kubeconfig")) as connection:
        yield connection


@asynccontextmanager
async def running(call: Call, seen: Seen, **settings: Any) -> AsyncIterator[Informer[Object]]:
    defaults: dict[str, Any] = {"backoff_s": (0.01, 0.05), "project": dict, "on_replace": seen.replace, "name": "test"}
    informer: Informer[Object] = Informer(call, on_event=seen.event, **(defaults | settings))
    task = asyncio.create_task(informer.run())
    try:
        yield informer
        assert not task.done(), "the informer died"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(api: FakeApi, call: Call, seen: Seen, **settings: Any) -> AsyncIterator[Informer[Object]]:
    """An informer that has synced and whose watch the server has accepted."""
    before = len(watches(api))
    async with running(call, seen, **settings) as informer:
        await eventually(lambda: informer.synced.is_set() and len(watches(api)) > before)
        yield informer


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  (what is waited for happens in another thread)
            await asyncio.sleep(0.005)


def queries(api: FakeApi) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(request).query) for request in list(api.requests)]


def watches(api: FakeApi) -> list[dict[str, list[str]]]:
    return [query for query in queries(api) if "watch" in query]


# --- list


async def test_a_list_arrives_in_pages_and_as_one(api: FakeApi, client: ApiClient) -> None:
    for i in range(7):
        api.put("nodes", node(f"n{i}"))
    seen = Seen()
    async with watching(api, node_call(client), seen, page=3):
        assert seen.lists == [[f"n{i}" for i in range(7)]]
        lists = [query for query in queries(api) if "watch" not in query]
        assert [query["limit"] for query in lists] == [["3"]] * 3
        assert [("continue" in query, "resourceVersion" in query) for query in lists] == [
            (False, False),
            (True, False),
            (True, False),
        ]


async def test_a_watch_starts_where_the_list_was_taken_although_objects_changed_between_its_pages(
    api: FakeApi, client: ApiClient
) -> None:
    for i in range(4):
        api.put("nodes", node(f"n{i}"))
    changed: list[int] = []

    def project(obj: Object) -> Object:
        if not changed:
            changed.append(api.put("nodes", node("n3", late="yes")))
        return obj

    seen = Seen()
    async with running(node_call(client), seen, page=2, project=project) as informer:
        await informer.wait_for(5, LIMIT_S)
        assert seen.events == [("MODIFIED", "n3", 5)]
        assert seen.objects["n3"]["metadata"]["labels"] == {"late": "yes"}


async def test_an_expired_continue_token_starts_the_list_again(api: FakeApi, client: ApiClient) -> None:
    for i in range(5):
        api.put("nodes", node(f"n{i}"))
    api.expire_continue_tokens()
    seen = Seen()
    async with watching(api, node_call(client), seen, page=2) as informer:
        assert seen.lists == [[f"n{i}" for i in range(5)]]
        assert not informer.errors


async def test_an_object_that_cannot_be_projected_does_not_hide_the_others(api: FakeApi, client: ApiClient) -> None:
    for name in ("good", "bad", "fine"):
        api.put("nodes", node(name))

    def project(obj: Object) -> Object:
        if obj["metadata"]["name"] == "bad":
            raise KeyError("status")
        return obj

    seen = Seen()
    async with watching(api, node_call(client), seen, project=project) as informer:
        assert seen.lists == [["good", "fine"]]
        assert informer.errors == {"projection": 1}


async def test_a_list_that_nobody_took_is_asked_for_again(api: FakeApi, client: ApiClient) -> None:
    api.put("nodes", node("a"))
    seen, failures = Seen(), [RuntimeError("not yet")]

    def replace(objects: list[Object]) -> None:
        if failures:
            assert not informer.synced.is_set()
            raise failures.pop()
        seen.replace(objects)

    async with running(node_call(client), seen, on_replace=replace) as informer:
        await eventually(informer.synced.is_set)
        assert seen.lists == [["a"]]
        assert informer.errors == {"callback": 1}


# --- watch


async def test_events_arrive_in_order_and_wait_for_returns_after_them(api: FakeApi, client: ApiClient) -> None:
    api.put("nodes", node("a"))
    seen = Seen()
    async with watching(api, node_call(client), seen) as informer:
        api.put("nodes", node("b"))
        api.put("nodes", node("a", zone="z"))
        last = api.delete("nodes", "uid-b")
        await informer.wait_for(last, LIMIT_S)
        assert seen.events == [("ADDED", "b", 2), ("MODIFIED", "a", 3), ("DELETED", "b", 4)]
        with pytest.raises(TimeoutError):
            await informer.wait_for(last + 1, 0.01)


async def test_bookmarks_move_the_resource_version_from_which_a_watch_resumes(api: FakeApi, client: ApiClient) -> None:
    api.put("nodes", node("a"))
    seen = Seen()
    async with watching(api, node_call(client), seen) as informer:
        rv = api.put("pods", pod("elsewhere", "Pending"))
        api.bookmark()
        await informer.wait_for(rv, LIMIT_S)
        assert not seen.events
        api.end_watches()
        await eventually(lambda: len(watches(api)) == 2)
        assert watches(api)[1]["resourceVersion"] == [str(rv)]
        assert informer.relists == 0


async def test_a_dropped_connection_loses_no_event_and_doubles_none(api: FakeApi, client: ApiClient) -> None:
    seen = Seen()
    expected: list[tuple[str, str, int]] = []
    async with watching(api, node_call(client), seen) as informer:
        for round_ in range(3):
            for i in range(20):
                name = f"n{round_}-{i}"
                expected.append(("ADDED", name, api.put("nodes", node(name))))
                if i == 10:
                    api.drop_watches()
        await informer.wait_for(expected[-1][2], LIMIT_S)
        assert seen.events == expected
        assert len(seen.lists) == 1
        assert informer.reconnects >= 1
        assert set(informer.errors) == {"connection"}


async def test_a_silent_connection_is_given_up_and_resumed(api: FakeApi, client: ApiClient) -> None:
    seen = Seen()
    async with watching(api, node_call(client), seen, stall_s=0.2) as informer:
        api.stall_watches()
        rv = api.put("nodes", node("unheard"))
        await informer.wait_for(rv, LIMIT_S)
        assert seen.events == [("ADDED", "unheard", rv)]
        assert set(informer.errors) == {"stall"}
        assert informer.relists == 0


async def test_a_quiet_watch_that_has_bookmarks_is_not_taken_for_a_silent_one(tmp_path: Path) -> None:
    with FakeApi(bookmark_s=0.1) as api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        async with (
            await connect(kubeconfig) as client,
            watching(api, node_call(client), Seen(), stall_s=0.8) as informer,
        ):
            api.put("pods", pod("elsewhere", "Pending"))
            await asyncio.sleep(1.0)
            assert not informer.errors


async def test_where_nothing_happens_a_new_watch_is_the_proof_of_life(api: FakeApi, client: ApiClient) -> None:
    async with watching(api, node_call(client), Seen(), stall_s=0.1) as informer:
        api.bookmark()  # sends nothing, as nothing has happened
        before_s = informer.last_event_s
        await eventually(lambda: len(watches(api)) >= 3)
        assert informer.last_event_s > before_s
        assert (set(informer.errors), informer.relists) == ({"stall"}, 0)


@pytest.mark.parametrize("how", ["forgotten", "told", "http"])
async def test_after_a_410_the_list_is_taken_again_and_what_was_removed_is_gone(
    api: FakeApi, client: ApiClient, how: str
) -> None:
    for name in ("stays", "goes"):
        api.put("nodes", node(name))
    seen = Seen()
    async with watching(api, node_call(client), seen, stall_s=0.3) as informer:
        if how == "told":
            api.expire_watches()
            await eventually(lambda: informer.relists)
            api.delete("nodes", "uid-goes")
        else:
            api.stall_watches()  # so that nobody hears of the removal
            api.delete("nodes", "uid-goes")
            if how == "forgotten":
                api.compact()
            else:
                api.refuse(1, status=410)
        await eventually(lambda: set(seen.objects) == {"stays"})
        assert informer.relists >= 1
        if how != "told":
            assert seen.lists[-1] == ["stays"]
            assert not seen.events


async def test_410_after_every_list_slows_down(api: FakeApi, client: ApiClient) -> None:
    seen = Seen()
    async with watching(api, node_call(client), seen, backoff_s=(60.0, 60.0)) as informer:
        api.expire_watches()
        await eventually(lambda: len(watches(api)) == 2)  # the first is free
        api.expire_watches()
        await eventually(lambda: informer.errors["expired"])
        assert informer.relists == 1


async def test_an_unreadable_event_is_asked_for_again_and_then_listed_around(api: FakeApi, client: ApiClient) -> None:
    seen = Seen()
    async with watching(api, node_call(client), seen) as informer:
        api.corrupt_watches(b'{"type":"ADDED","object":7}\n')
        await eventually(lambda: len(watches(api)) == 2)
        assert (informer.relists, informer.errors["unreadable"]) == (0, 1)
        api.corrupt_watches(b"{oops\n")
        await eventually(lambda: len(watches(api)) == 3)
        assert (informer.relists, informer.errors["unreadable"]) == (1, 2)
        await informer.wait_for(api.put("nodes", node("a")), LIMIT_S)


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_an_endless_event_is_refused(api: FakeApi, client: ApiClient, end: bytes) -> None:
    seen = Seen()
    async with watching(api, node_call(client), seen, max_line_bytes=1000) as informer:
        api.corrupt_watches(b'{"type":"' + b"A" * 2000 + end)
        await eventually(lambda: informer.relists == 1 and len(watches(api)) == 2)
        assert informer.errors == {"line_too_long": 1}
        await informer.wait_for(api.put("nodes", node("a")), LIMIT_S)


async def test_errors_of_the_server_are_waited_out_without_a_new_list(api: FakeApi, client: ApiClient) -> None:
    seen = Seen()
    async with watching(api, node_call(client), seen) as informer:
        api.refuse(3)
        api.end_watches()
        await eventually(lambda: informer.errors["http"] == 3)
        rv = api.put("nodes", node("a"))
        await informer.wait_for(rv, LIMIT_S)
        assert seen.events == [("ADDED", "a", rv)]
        assert informer.relists == 0


async def test_a_server_that_asks_for_patience_gets_it(api: FakeApi, client: ApiClient) -> None:
    api.refuse(1, status=429, headers={"Retry-After": "60"})
    async with running(node_call(client), Seen()) as informer:
        await eventually(lambda: informer.errors["http"])
        await asyncio.sleep(0.2)  # several of this test's own back-offs
        assert len(api.requests) == 1


async def test_a_consumer_that_raises_is_counted_and_the_rest_still_arrives(
    api: FakeApi, client: ApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(broken="b")
    async with watching(api, node_call(client), seen) as informer:
        for name in "abc":
            rv = api.put("nodes", node(name))
        await informer.wait_for(rv, LIMIT_S)
        assert [name for _, name, _ in seen.events] == ["a", "c"]
        assert informer.errors == {"callback": 1}
        assert "RuntimeError: no" in caplog.text


# --- pods


async def test_a_finished_pod_leaves_the_active_ones_with_its_old_status_and_joins_the_finished_ones_with_its_last(
    api: FakeApi, client: ApiClient
) -> None:
    active, finished = Seen(), Seen()
    api.put("pods", pod("p", "Pending"))
    async with (
        watching(api, pod_call(client, ACTIVE_PODS), active) as first,
        watching(api, pod_call(client, FINISHED_PODS), finished) as second,
    ):
        bound = api.bind("default", "p", "n1")
        api.put("pods", pod("p", "Running", "n1"))
        done = api.put("pods", pod("p", "Succeeded", "n1"))
        await asyncio.gather(first.wait_for(done, LIMIT_S), second.wait_for(done, LIMIT_S))
        assert active.events == [("ADDED", "p", bound), ("MODIFIED", "p", bound + 1), ("DELETED", "p", done)]
        assert active.last is not None
        assert active.last["status"]["phase"] == "Running"
        assert finished.events == [("ADDED", "p", done)]
        assert finished.objects["p"]["status"]["phase"] == "Succeeded"


# --- connection


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("a: [b", "is not YAML"),
        ("", "malformed"),
        ("just a sentence", "malformed"),
        ("apiVersion: v1\nkind: Config\n", "current-context"),
        ("current-context: c\ncontexts: [{name: c, context: {cluster: x, user: u}}]\nclusters: []\nusers: []\n", "x"),
    ],
)
async def test_a_bad_kubeconfig_is_told_in_one_sentence_with_its_path(
    tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says) as refusal:
        await connect(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


async def test_a_server_whose_certificate_is_not_to_be_verified_is_watched(tmp_path: Path) -> None:
    with FakeApi(tls=self_signed(tmp_path)) as api:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        async with await connect(kubeconfig) as client, watching(api, node_call(client), Seen()) as informer:
            await informer.wait_for(api.put("nodes", node("a")), LIMIT_S)


async def test_the_client_would_end_no_watch_before_the_server_does(api: FakeApi, client: ApiClient) -> None:
    """kubernetes.aio gives every request 300 s by default, and watches last up to 600 s."""
    limits: list[tuple[int, float]] = []
    call = node_call(client)

    async def noting(**arguments: Any) -> Any:
        if "watch" in arguments:
            limits.append((arguments["timeout_seconds"], arguments["_request_timeout"]))
        return await call(**arguments)

    async with watching(api, noting, Seen()):
        ((server_s, client_s),) = limits
        assert 300 <= server_s <= 600
        assert server_s < client_s


def self_signed(folder: Path) -> ssl.SSLContext:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    both = folder / "server.pem"
    pem = serialization.Encoding.PEM
    both.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return context
