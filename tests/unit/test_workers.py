import os
import time
from multiprocessing.connection import Connection

from nodewise_simulator.workers import Workers


def stopped_within_its_result() -> bytes:
    def send(connection: Connection, data: bytes) -> None:
        os.write(connection.fileno(), data[:10])
        time.sleep(600.0)

    Connection._send = send  # type: ignore[attr-defined]
    return bytes(1000)


def test_the_end_does_not_wait_for_a_result_that_was_half_sent() -> None:
    begun_s = time.monotonic()
    with Workers(1) as workers:
        half = workers.submit(stopped_within_its_result)
        while not half.running():
            time.sleep(0.01)
        time.sleep(1.0)  # a new interpreter has begun, and has sent what it will
    assert half.exception(timeout=0) is not None
    assert time.monotonic() - begun_s < 60.0
