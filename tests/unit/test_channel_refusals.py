"""Who may send decisions over the channel, and in which words everybody and everything else is refused."""

from __future__ import annotations

import asyncio
import gzip
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from nodewise.channel.endpoint import Endpoint
from nodewise.channel.messages import ObservationRow, PolicyReport, Report, Segment
from nodewise.core.errors import UserError
from nodewise_operator.auth import AUDIENCE, NotAllowedError, TokenReviews, anyone
from nodewise_operator.channel_serving import Certificate, serving

from .channel_ends import end, post
from .channel_objects import Authority, ExtenderEnd, OperatorEnd, encoded, eventually, observation, row

__all__ = ["end"]


def segment(**changes: Any) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(Segment(extender="e", sequence=1, rows=[]), **changes))


WRONG = {
    "no JSON": (b"{", {}, 400, "the body makes no sense: Input data was truncated"),
    "deep": (b"[" * 100_000, {}, 400, "the body makes no sense: "),
    "bad UTF-8": (b'{"extender":"\xff"}', {}, 400, "the body makes no sense: "),
    "another version": (segment(v=7), {}, 422, "segments of version 7 are not known here, only 1: upgrade the older"),
    "no sequence": (segment(sequence=0), {}, 400, "a segment needs the name of its extender and a sequence number"),
    "observed": (
        segment(rows=[row("a", source="observed")]),
        {},
        400,
        "row 0 (pod default/pod-a) has source 'observed'",
    ),
    "features": (segment(rows=[row("a", features=b"1")]), {}, 400, "has 1 bytes of features for 2 candidates and 3"),
    "featured": (segment(rows=[row("a", featured=[2, 0])]), {}, 400, "features of a candidate that it does not have"),
    "no uid": (segment(rows=[row("")]), {}, 400, "row 0 (pod default/pod-) has no uid"),
    "no gzip": (b"plain", {"Content-Encoding": "gzip"}, 400, "the body is not gzip"),
    "half": (gzip.compress(segment())[:-4], {"Content-Encoding": "gzip"}, 400, "not one whole gzip stream"),
    "bomb": (gzip.compress(b" " * (40 << 20)), {"Content-Encoding": "gzip"}, 413, "inflates to more than 33554432"),
    "long": (b" " * (9 << 20), {}, 413, "the body is longer than 8388608 bytes"),
    "brotli": (b"", {"Content-Encoding": "br"}, 415, "content encoding 'br' is not known here: use gzip"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_makes_no_sense_is_refused_with_a_sentence(end: OperatorEnd, what: str) -> None:
    body, headers, status, says = WRONG[what]
    async with end.serving() as port:
        answer = await post(port, "/v1/segments", body, **headers)
    assert answer[0] == status
    assert says in msgspec.json.decode(answer[1])["error"]
    assert end.uids() == []


ODD: dict[str, dict[str, Any]] = {
    "no name": {"extender": ""},
    "long name": {"extender": "e" * 254},
    "no time": {"time_s": 1e999},
    "many policies": {
        "placement_policies": [PolicyReport(name="p", generation=1, mode="off", policy="", digest="")] * 1001
    },
    "long policy": {
        "placement_policies": [PolicyReport(name="p" * 254, generation=1, mode="off", policy="", digest="")]
    },
    "many observations": {"observations": [ObservationRow.of(observation("a"))] * 1001},
    "long uid": {"observations": [ObservationRow.of(observation("a" * 254))]},
}


@pytest.mark.parametrize("what", ODD)
async def test_a_report_that_makes_no_sense_is_refused_whole(end: OperatorEnd, what: str) -> None:
    report = msgspec.structs.replace(Report(extender="e", time_s=1.0, policy="p", digest="d"), **ODD[what])
    body = msgspec.json.encode(report).replace(b'"time_s":null', b'"time_s":1e999')
    async with end.serving() as port:
        status, said = await post(port, "/v1/reports", body)
    assert (status, end.reports, end.predictor.revision) == (400, [], 0)
    assert msgspec.json.decode(said)["error"].startswith(("a report ", "the body makes no sense: Number out of range"))


@asynccontextmanager
async def token_reviews() -> AsyncIterator[tuple[TokenReviews, asyncio.Event]]:
    """An API server that knows the token `right`, and answers about others when the event says so."""
    others = asyncio.Event()

    async def review(request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["spec"]["token"] != "right":
            await others.wait()
            return web.json_response({**asked, "status": {"authenticated": False}}, status=201)
        user = {"username": "system:serviceaccount:nodewise-system:nodewise-extender"}
        status = {"authenticated": True, "audiences": [AUDIENCE], "user": user}
        return web.json_response({**asked, "status": status}, status=201)

    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with ApiClient(configuration) as api:
        yield TokenReviews(api, frozenset({"nodewise-system/nodewise-extender"}), clock=lambda: clock[0]), others
    others.set()
    await runner.cleanup()


clock = [0.0]


async def test_tokens_that_somebody_makes_up_keep_nobody_out_who_was_allowed() -> None:
    async with token_reviews() as (auth, others):
        name = await auth("Bearer right")
        made_up = [asyncio.create_task(auth(f"Bearer made-up-{k}")) for k in range(20)]
        await eventually(lambda: auth.reviews == 5)
        clock[0] += 100.0
        async with asyncio.timeout(2.0):  # less than a review may take
            assert await auth("Bearer right") == name
        others.set()
        refused = await asyncio.gather(*made_up, return_exceptions=True)
        assert {getattr(error, "status", None) for error in refused} == {401}


async def only_right(header: str) -> str:
    if header != "Bearer right":
        raise NotAllowedError(401, "not that one")
    return "system:serviceaccount:nodewise-system:nodewise-extender"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/segments"), ("GET", "/v1/predictor"), ("POST", "/v1/reports")]
)
async def test_every_route_asks_who_it_is_before_anything_else(end: OperatorEnd, method: str, path: str) -> None:
    async with end.serving(auth=only_right) as port, aiohttp.ClientSession() as session:
        async with session.request(method, f"http://127.0.0.1:{port}{path}", data=b"x" * 100) as reply:
            assert (reply.status, await reply.json()) == (401, {"error": "not that one"})
        for other in ("/docs", "/openapi.json", "/"):
            async with session.get(f"http://127.0.0.1:{port}{other}") as reply:
                assert reply.status == 404


async def test_with_tls_and_a_token_that_is_read_anew_for_each_request(
    end: OperatorEnd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, token = Authority(tmp_path), tmp_path / "token"
    cert_file, key_file = authority.pair()
    token.write_text("wrong\n")
    async with end.serving(auth=only_right, cert_file=cert_file, key_file=key_file) as port:
        extender = ExtenderEnd(f"https://127.0.0.1:{port}", token_file=token, ca_file=authority.file)
        async with extender.running():
            extender.spool.add(encoded("a"))
            await eventually(lambda: "upload" in extender.client.trouble)
            assert extender.client.trouble["upload"] == "status 401: not that one"
            token.write_text("right\n")  # the kubelet rotates it
            await eventually(lambda: not extender.spool.segments)
    assert end.uids() == ["a"]
    assert "right" not in caplog.text


@pytest.mark.parametrize("trusts", ["another authority", "the system's"])
async def test_an_operator_whose_certificate_is_not_trusted_gets_nothing(
    end: OperatorEnd, tmp_path: Path, trusts: str
) -> None:
    cert_file, key_file = Authority(tmp_path).pair()
    ca_file = Authority(tmp_path, "other").file if trusts == "another authority" else None
    async with (
        end.serving(cert_file=cert_file, key_file=key_file) as port,
        ExtenderEnd(f"https://127.0.0.1:{port}", ca_file=ca_file).running() as extender,
    ):
        extender.spool.add(encoded("a"))
        await eventually(lambda: "upload" in extender.client.trouble)
        assert "certificate verify failed" in extender.client.trouble["upload"]
    assert end.uids() == []


@pytest.mark.parametrize("encrypted", [True, False])
async def test_who_speaks_tls_to_a_port_without_or_the_reverse_is_told_what_to_write(
    end: OperatorEnd, tmp_path: Path, encrypted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    cert_file, key_file = authority.pair()
    given: dict[str, Any] = {"cert_file": cert_file, "key_file": key_file} if encrypted else {}
    scheme, fix = ("http", "write https://") if encrypted else ("https", "on loopback write http://")
    async with (
        end.serving(**given) as port,
        ExtenderEnd(f"{scheme}://127.0.0.1:{port}", ca_file=authority.file).running() as extender,
    ):
        await eventually(lambda: "report" in extender.client.trouble)
        assert fix in extender.client.trouble["report"]
        assert f"the operator at {scheme}://127.0.0.1:{port}" in caplog.text
        assert "connected to the operator" not in caplog.text


async def test_it_is_said_once_that_the_operator_was_reached_and_that_the_extender_ends(
    end: OperatorEnd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with end.serving() as port:
        async with ExtenderEnd(f"http://127.0.0.1:{port}").running():
            await eventually(lambda: len(end.reports) >= 1)
            await eventually(lambda: "connected" in caplog.text)
            assert not end.reports[-1].ended
        assert end.reports[-1].ended
        assert end.reports[-1].extender == end.reports[0].extender
    assert caplog.text.count(f"connected to the operator at http://127.0.0.1:{port}") == 1


async def test_a_new_certificate_is_taken_up_and_a_bad_one_is_not(
    end: OperatorEnd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    authority = Authority(tmp_path)
    cert_file, key_file = authority.pair()

    async def shown(port: int) -> bytes:
        context = ssl.create_default_context(cafile=authority.file)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        got: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return got

    async with end.serving(cert_file=cert_file, key_file=key_file, reload_s=0.02) as port:
        first = await shown(port)
        authority.pair()
        await eventually(lambda: "has a new certificate" in caplog.text)
        second = await shown(port)
        assert second != first
        cert_file.write_text("no certificate")
        await eventually(lambda: "keeps its old certificate" in caplog.text)
        assert await shown(port) == second


def test_a_url_that_would_send_a_token_in_clear_text_is_refused() -> None:
    for url in ("http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1", "https://nodewise.example:1"):
        Endpoint(url)
    with pytest.raises(UserError, match=r"http://10\.0\.0\.1:1 is not encrypted and 10\.0\.0\.1 is another machine"):
        Endpoint("http://10.0.0.1:1")
    for url in ("operator:8891", "ftp://x", "https://", "https://a:b@c", "https://x:port", "https://[x"):
        with pytest.raises(UserError, match="write https://HOST:PORT"):
            Endpoint(url)


async def test_a_channel_that_others_could_read_or_write_is_not_opened(end: OperatorEnd, tmp_path: Path) -> None:
    cert_file, key_file = Authority(tmp_path).pair()
    _, other_key = Authority(tmp_path).pair("other")
    app: Any = None

    async def opened(host: str, **given: Any) -> None:
        async with serving(app, host, 0, **given):
            pass

    with pytest.raises(UserError, match="would take decisions from anybody"):
        await opened("127.0.0.1", auth=anyone)
    with pytest.raises(UserError, match="would take decisions from anybody"):
        await opened("0.0.0.0", auth=anyone, unauthenticated=True, cert_file=cert_file, key_file=key_file)
    with pytest.raises(UserError, match=r"on 0\.0\.0\.0 would not be encrypted: name a certificate"):
        await opened("0.0.0.0", auth=only_right)
    with pytest.raises(UserError, match="belong together"):
        await opened("127.0.0.1", auth=only_right, cert_file=cert_file)
    with pytest.raises(UserError, match=r"server.crt and key .*other.key cannot be used .*KEY_VALUES_MISMATCH"):
        Certificate(cert_file, other_key)
    with pytest.raises(UserError, match="No such file"):
        Certificate(tmp_path / "none", key_file)
