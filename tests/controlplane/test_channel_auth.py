"""The channel's tokens, as the real API server makes and reviews them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodewise.kube import api as kube
from nodewise_operator.auth import AUDIENCE, NotAllowedError, TokenReviews
from nodewise_operator.store import Store
from nodewise_simulator.controlplane import ControlPlane

from ..unit import channel_objects as objects  # noqa: TID252


def account(plane: ControlPlane, namespace: str, name: str) -> str:
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    plane.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", made)
    return name


def token(plane: ControlPlane, namespace: str, name: str, audience: str = AUDIENCE) -> str:
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [audience]}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    made: str = plane.call("POST", path, asked)["status"]["token"]
    return made


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def reviews(plane: ControlPlane, namespace: str) -> AsyncIterator[TokenReviews]:
    account(plane, namespace, "extender")
    api = await kube.connect(plane.kubeconfig)
    yield TokenReviews(api, frozenset({f"{namespace}/extender"}), clock=Clock())
    await api.close()  # type: ignore[no-untyped-call]


async def refused(reviews: TokenReviews, header: str) -> tuple[int, str]:
    with pytest.raises(NotAllowedError) as error:
        await reviews(header)
    return error.value.status, str(error.value)


async def status(reviews: TokenReviews, header: str) -> int:
    try:
        await reviews(header)
    except NotAllowedError as error:
        return error.status
    return 200


async def test_the_named_service_account_is_let_in_and_asked_about_once_a_minute(
    plane: ControlPlane, namespace: str, reviews: TokenReviews
) -> None:
    header = f"Bearer {token(plane, namespace, 'extender')}"
    for _ in range(3):
        assert await reviews(header) == f"system:serviceaccount:{namespace}:extender"
    assert reviews.reviews == 1
    plane.call("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/extender")
    assert await reviews(header)  # for as long as the answer holds
    async with asyncio.timeout(60.0):  # the API server remembers a token for ten seconds itself
        while await status(reviews, header) == 200:
            reviews._clock.now_s += 61.0  # type: ignore[attr-defined]
            await asyncio.sleep(0.5)
    assert await status(reviews, header) == 401


async def test_whoever_else_is_refused_by_what_is_wrong(
    plane: ControlPlane, namespace: str, reviews: TokenReviews
) -> None:
    account(plane, namespace, "other")
    for header in ("", "Basic abc", "Bearer", "Bearer " + "x" * 20_000, "Bearer \u00e9"):
        assert (await refused(reviews, header))[0] == 401
    assert reviews.reviews == 0  # the API server is not bothered with these
    forged = token(plane, namespace, "extender")[:-6] + "AAAAAA"
    for bad in ("garbage", forged, token(plane, namespace, "extender", "https://somebody.else")):
        assert await refused(reviews, f"Bearer {bad}") == (
            401,
            f"the API server does not accept the token for audience {AUDIENCE}",
        )
    code, why = await refused(reviews, f"Bearer {token(plane, namespace, 'other')}")
    assert (code, why.split()[0]) == (403, f"system:serviceaccount:{namespace}:other")
    asked = reviews.reviews
    await refused(reviews, "Bearer garbage")
    assert reviews.reviews == asked
    reviews._clock.now_s += 11.0  # type: ignore[attr-defined]
    await refused(reviews, "Bearer garbage")
    assert reviews.reviews == asked + 1


async def test_an_api_server_that_cannot_be_asked_lets_nobody_in_and_is_asked_again(tmp_path: Path) -> None:
    nowhere = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(nowhere))
    api = await kube.connect(tmp_path / "kubeconfig")
    reviews = TokenReviews(api, frozenset({"a/b"}))
    for _ in range(2):
        assert (await refused(reviews, "Bearer abc"))[0] == 503
    assert reviews.reviews == 2
    await api.close()  # type: ignore[no-untyped-call]


async def test_decisions_go_over_tls_with_a_token_of_the_api_server(
    plane: ControlPlane, namespace: str, reviews: TokenReviews, tmp_path: Path
) -> None:
    authority, file = objects.Authority(tmp_path), tmp_path / "token"
    cert_file, key_file = authority.pair()
    account(plane, namespace, "other")
    file.write_text(token(plane, namespace, "other"))
    store = Store.open(str(tmp_path / "nodewise.db"))
    end = objects.OperatorEnd(store)
    async with end.serving(auth=reviews, cert_file=cert_file, key_file=key_file) as port:
        extender = objects.ExtenderEnd(f"https://127.0.0.1:{port}", token_file=file, ca_file=authority.file)
        async with extender.running():
            extender.spool.add(objects.encoded("a"))
            await objects.eventually(lambda: "status 403" in extender.client.trouble.get("upload", ""))
            file.write_text(token(plane, namespace, "extender"))
            await objects.eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["a"]
    store.close()
