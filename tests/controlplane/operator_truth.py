"""What really happened to many pods, and the operator's rows held against it."""

import contextlib
import random
import threading
import time
from collections import Counter

from nodewise_operator.store import Fate, Store
from nodewise_simulator.controlplane import ApiError, Kubelet

from .operator_runs import Running, Scheduled, conserved, lasting


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
