"""Whether a scheduler holds its Lease and how many pods wait for it, as an operator's metrics tell."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from prometheus_client.parser import text_string_to_metric_families

from nodewise.core.errors import UserError
from nodewise_operator.app import working
from nodewise_operator.scheduler_lease import SchedulerLease, Waiting, checked_lease, follow_scheduler
from nodewise_operator.settings import OperatorSettings
from nodewise_simulator.fake_api import FakeApi

Json = dict[str, Any]


def lease(holder: str, renewed: str, duration_s: int = 15) -> Json:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": duration_s, "renewTime": renewed}
    return {"metadata": {"name": "l", "namespace": "n"}, "spec": spec}


class Wire:
    """An API server that has one answer, and a clock."""

    def __init__(self) -> None:
        self.status, self.body = 404, Json()
        self.now_s = 1_000.0
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path}")
        return web.json_response(self.body, status=self.status)


async def test_a_lease_is_held_for_as_long_as_renewals_are_seen_whatever_its_own_stamps_say() -> None:
    wire = Wire()
    made = web.Application()
    made.router.add_get("/{path:.*}", wire.answer)
    runner = web.AppRunner(made, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api: Any = ApiClient(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    seen = SchedulerLease(api, "n", "l", clock=lambda: wire.now_s)
    try:
        assert math.isnan(seen.held)
        assert seen.unread

        await seen.look()  # there is none
        assert (seen.held, seen.age_s, seen.unread) == (0.0, math.inf, False)

        wire.status, wire.body = 200, lease("a", "1999-01-01T00:00:00.000000Z")  # their clock is far behind
        await seen.look()
        assert (seen.held, seen.age_s) == (1.0, 0.0)

        wire.now_s += 60.0  # it is not renewed any more
        await seen.look()
        assert (seen.held, seen.age_s) == (0.0, 60.0)

        wire.body = lease("b", "1999-01-01T00:00:00.000000Z")  # another took over
        await seen.look()
        assert (seen.held, seen.age_s) == (1.0, 0.0)

        wire.body = lease("", "1999-01-01T00:00:01.000000Z")  # and gave it up
        await seen.look()
        assert (seen.held, seen.age_s) == (0.0, math.inf)

        wire.body = {"metadata": {"name": "l", "namespace": "n"}}
        await seen.look()
        assert seen.held == 0.0

        wire.status = 403
        wire.now_s += 50.0
        await seen.look()
        assert (seen.held, seen.unread) == (0.0, False), "what was read a moment ago still holds"
        assert "grant `get`" in seen.trouble
        wire.now_s += 20.0
        assert math.isnan(seen.held)
        assert seen.unread

        wire.status, wire.body = 200, lease("b", "1999-01-01T00:00:02.000000Z")
        await seen.look()
        assert (seen.held, seen.trouble) == (1.0, "")
        assert set(wire.asked) == {"GET /apis/coordination.k8s.io/v1/namespaces/n/leases/l"}
    finally:
        await api.close()
        await runner.cleanup()


def test_pods_grow_older_between_two_counts() -> None:
    now_s = 1_000.0
    waiting = Waiting(clock=lambda: now_s)
    assert waiting.counts() == {"0": 0, "60": 0, "300": 0, "900": 0}
    assert waiting.oldest_s() == 0.0
    waiting.seen([940.0, 1_005.0, 100.0])  # one of them in our future: the API server's clock is ahead
    assert waiting.counts() == {"0": 3, "60": 2, "300": 1, "900": 1}
    assert waiting.oldest_s() == 900.0
    now_s += 240.0
    assert waiting.counts() == {"0": 3, "60": 3, "300": 2, "900": 1}


def waiting_pod(name: str, **spec: Any) -> Json:
    meta = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": "2020-01-01T00:00:00Z"}
    containers = [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]
    return {"metadata": meta, "spec": {"schedulerName": "nodewise", "containers": containers} | spec}


async def test_without_a_lease_the_metrics_tell_of_pods_that_wait_and_of_nobody_who_holds_it(tmp_path: Path) -> None:
    with FakeApi() as api:
        api.put("pods", waiting_pod("ours"))
        api.put("pods", waiting_pod("gated", schedulingGates=[{"name": "quota"}]))
        api.put("pods", waiting_pod("theirs", schedulerName="default-scheduler"))
        api.put("pods", waiting_pod("placed", nodeName="n"))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        given = {"store": str(tmp_path / "store.db"), "port": 0, "source": "informer", "kubeconfig": kubeconfig}
        told = {"scheduler_name": "nodewise", "scheduler_lease": "nodewise-system/nodewise-scheduler"}
        settings = OperatorSettings.model_validate(given | told)
        async with working(settings) as operator, asyncio.timeout(30.0):
            while not operator.intake.synced.is_set():  # noqa: ASYNC110  a thread sets it
                await asyncio.sleep(0.05)
            following = asyncio.create_task(follow_scheduler(operator))
            try:
                while samples(operator.telemetry.text()).get("waiting_pods0") != 1.0:
                    await asyncio.sleep(0.05)
                    assert not following.done()
            finally:
                following.cancel()
            found = samples(operator.telemetry.text())
    assert {age: found[f"waiting_pods{age}"] for age in (0, 60, 300, 900)} == {0: 1.0, 60: 1.0, 300: 1.0, 900: 1.0}
    assert (found["scheduler_lease_held"], found["scheduler_lease_unread"]) == (0.0, 0.0)
    assert found["scheduler_lease_age_seconds"] == math.inf
    assert found["oldest_waiting_pod_seconds"] > 86_400.0


def samples(text: bytes) -> dict[str, float]:
    return {
        sample.name.removeprefix("nodewise_operator_") + sample.labels.get("older_than_seconds", ""): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"scheduler_lease": "nodewise", "scheduler_name": "nodewise"}, "write it as namespace/name"),
        ({"scheduler_lease": "a/b/c", "scheduler_name": "nodewise"}, "write it as namespace/name"),
        ({"scheduler_lease": "a/b"}, "needs --scheduler-name"),
    ],
)
def test_a_lease_that_cannot_be_followed_is_refused_in_one_sentence(told: Json, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked_lease(OperatorSettings.model_validate(told))
