"""Both ends of the channel for tests: an operator with a store, a TCP proxy that can be cut, certificates."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nodewise.channel.client import Client
from nodewise.channel.endpoint import Endpoint
from nodewise.channel.follower import Follower
from nodewise.channel.messages import DecisionRow, PredictorUpdate, Report, Segment
from nodewise.channel.spool import Spool
from nodewise.core.estimator import Observation, RunTimeEstimator
from nodewise_operator.auth import Auth, anyone
from nodewise_operator.channel_server import channel_app
from nodewise_operator.channel_serving import serving
from nodewise_operator.predictor import Predictor
from nodewise_operator.store import Batch, Store

LIMIT_S = 30.0  # only a hang reaches it


def row(uid: str, **changes: Any) -> DecisionRow:
    made = DecisionRow(
        uid=uid, namespace="default", pod=f"pod-{uid}", time_s=1000.0, source="extender", mode="active", policy="p",
        digest="d", candidates=["n0", "n1"], scores=[0.5, 1.5], winner="n1", reply=[("n1", 10)], propensity=1.0,
        columns=["a", "b", "c"], featured=[1, 0], features=bytes(range(24)), latency_us=81.5, sequence=7,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def encoded(*uids: str) -> list[bytes]:
    return [msgspec.json.encode(row(uid)) for uid in uids]


def observation(uid: str, run: float = 30.0) -> Observation:
    return Observation(uid, "sort", False, "old", run, 1.0)


class OperatorEnd:
    """What an operator does with what arrives, on one thread; `broken` makes its store fail."""

    def __init__(self, store: Store) -> None:
        self.store = store
        store.take_over("test")
        self.predictor = Predictor(save=store.save_estimator, save_every=10)
        self.predictor.restore(store)
        self.reports: list[Report] = []
        self.broken = False

    async def keep(self, segment: Segment) -> int:
        if self.broken:
            raise OSError("no space left on device")
        given = segment.extender, segment.sequence, segment.dropped
        self.store.write(Batch(decisions=tuple(segment.rows), segment=given))
        return self.store.acknowledged(segment.extender)

    async def update(self, epoch: str, since: int) -> PredictorUpdate:
        return self.predictor.update(epoch, since)

    async def learn(self, observations: list[Observation]) -> list[str]:
        return [seen.uid for seen in observations if not self.see(seen)]

    def see(self, seen: Observation) -> bool:
        new = self.predictor.learn(seen)
        if new:
            self.store.write(Batch(observations=(seen,)))
        return new

    async def report(self, report: Report) -> None:
        self.reports.append(report)

    @asynccontextmanager
    async def serving(self, port: int = 0, auth: Auth = anyone, **given: Any) -> AsyncIterator[int]:
        app = channel_app(
            store=self.keep, predictor=self.predictor, update=self.update, learn=self.learn, report=self.report,
            auth=auth,
        )  # fmt: skip
        async with serving(app, "127.0.0.1", port, auth=auth, **({"unauthenticated": True} | given)) as bound:
            yield bound

    def uids(self) -> list[str]:
        return sorted(row.uid for row in self.store.decisions())


class ExtenderEnd:
    """The channel of one extender, without the extender."""

    def __init__(self, url: str, folder: Path | None = None, spool: Spool | None = None, **given: Any) -> None:
        self.spool = spool or Spool(folder)
        self.follower = Follower(RunTimeEstimator())
        report = partial(Report, extender="", time_s=1.0, policy="p", digest="d")
        self.client = Client(Endpoint(url, **given), self.spool, self.follower, report)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ExtenderEnd]:
        task = asyncio.create_task(self.client.run())
        try:
            yield self
            assert not task.done(), task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class Proxy:
    """Between the two: `cut` ends what is open and lets nobody in, `mend` ends that; `deaf` swallows what is said."""

    def __init__(self, target: int) -> None:
        self.target, self.port, self.passed = target, 0, 0
        self.deaf = self._cut = False
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.cut()
            server.close()

    def cut(self) -> None:
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self._cut = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._cut:
            writer.transport.abort()
            return
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(out)
        await asyncio.gather(self._pass(reader, out), self._pass(there, writer))
        self._writers -= {writer, out}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self.deaf:
                    self.passed += len(data)
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()


class Authority:
    """A certificate authority that signs for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(self._name, self._key, None)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def pair(self, name: str = "server") -> tuple[Path, Path]:
        """Certificate and key; a second time, in the same files, other ones."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        made = self._certificate(subject, key, ipaddress.ip_address("127.0.0.1"))
        cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        key_file.write_bytes(pem)
        return cert_file, key_file

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, address: ipaddress.IPv4Address | Any
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
        )
        if address is not None:
            made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
        return made.sign(self._key, hashes.SHA256())


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():  # noqa: ASYNC110  (what is waited for happens elsewhere)
            await asyncio.sleep(0.01)


async def _serve(store: str, port: int) -> None:
    async with OperatorEnd(Store.open(store)).serving(port):
        await asyncio.Event().wait()


if __name__ == "__main__":  # an operator's end that can be killed
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
