"""The informer against a fake API server, over real sockets: how it connects, and what a list brings."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kubernetes.aio.client import ApiClient

from nodewise.core.errors import UserError
from nodewise.kube.api import ACTIVE_PODS, FINISHED_PODS, connect, node_call, pod_call
from nodewise_simulator.fake_api import FakeApi

from .informer_objects import LIMIT_S, Object, Seen, api, client, eventually, node, pod, queries, running, watching

__all__ = ["api", "client"]


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
