"""Retention in an operator that runs."""

import asyncio
import time
from pathlib import Path

from nodewise_operator.app import working
from nodewise_operator.retention import keep_retention
from nodewise_operator.settings import OperatorSettings
from nodewise_operator.store import Batch, Store
from nodewise_simulator.fake_api import FakeApi

from .stored import decision_row, pod_row


async def test_what_was_over_for_longer_than_it_is_kept_leaves_the_store(tmp_path: Path) -> None:
    path = str(tmp_path / "store.db")
    with FakeApi() as api:
        for days, left in ((0.0, {"old", "new"}), (1.0, {"new"})):
            store = Store.open(path)
            now_s = time.time()
            pods = (pod_row("old"), pod_row("new", created_s=now_s - 60.0, finished_s=now_s))
            store.take_over("before")
            store.write(Batch(pods, decisions=tuple(decision_row(pod.uid) for pod in pods)))
            store.close()
            given = {"store": path, "port": 0, "source": "informer", "retain_days": days}
            settings = OperatorSettings.model_validate(given | {"kubeconfig": api.kubeconfig(tmp_path / "kubeconfig")})
            async with working(settings, (keep_retention,)) as operator, asyncio.timeout(20.0):
                while not operator.intake.synced.is_set():  # noqa: ASYNC110  a thread sets it
                    await asyncio.sleep(0.05)
                while {row.uid for row in operator.store.pods()} != left:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.2)
                assert {row.uid for row in operator.store.pods()} == left
                assert operator.store.conservation().ok
