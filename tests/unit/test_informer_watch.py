"""The informer against a fake API server, over real sockets: what a watch brings, and what may befall it."""

import asyncio
from pathlib import Path

import pytest
from kubernetes.aio.client import ApiClient

from nodewise.kube.api import connect, node_call
from nodewise_simulator.fake_api import FakeApi

from .informer_objects import (
    LIMIT_S,
    Seen,
    api,
    client,
    eventually,
    node,
    pod,
    running,
    watches,
    watching,
)

__all__ = ["api", "client"]


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
