"""SIGKILL at any moment: what was acknowledged is there once, and a schema is the old or the new one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text
from tests.postgres import postgres_server, store_url

from nodewise.core.errors import UserError
from nodewise_operator.store import Store
from nodewise_operator.store.engine import connect, parse
from nodewise_operator.store.schema import META, VERSION

from .stored import batch, batches, changed, contents, expected, set_version, to_version_1

__all__ = ["postgres_server", "store_url"]

KILLS = 10
WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from nodewise_operator.store import Store
from tests.unit.stored import batch
store = Store.open(sys.argv[1])
store.take_over("writer")
for number in range(int(sys.argv[2]), 10_000):
    store.write(batch(number))
    print(number, flush=True)
"""
UPGRADER = """
import logging, sys
from nodewise_operator.store import Store
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
Store.open(sys.argv[1]).close()
"""
LATER = """
import sys
from sqlalchemy import Column, Text
from nodewise_operator.store import engine, migrate, schema
for table in schema.TABLES.values():
    table.append_column(Column("of_version_3", Text))
with engine.connect(engine.parse(sys.argv[1])).connect().execution_options(writes=True) as connection:
    with connection.begin():
        print(migrate.upgrade(connection))
"""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str]) -> list[str]:
    """The lines that it has printed when it is dead."""
    process.send_signal(signal.SIGKILL)
    told = process.communicate()[0]
    return told.split()


def test_what_was_acknowledged_before_a_kill_is_there_once(store_url: str) -> None:
    rng = random.Random(7)
    acknowledged = 0
    for _ in range(KILLS):
        # It begins with the last one that was acknowledged, as does an operator that does not know how far it came.
        writer = started(WRITER, store_url, str(max(acknowledged, 1)))
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(rng.randrange(2, 6))]
        time.sleep(rng.uniform(0.0, 0.02))
        acknowledged = int([*told, *killed(writer)][-1])
        store = Store.open(store_url)
        found = contents(store)
        kept = next(n for n in (acknowledged, acknowledged + 1) if len(found["pods"]) == 8 * n)
        assert found == expected([*batches(kept)])
        assert not store.salvages(), "a kill is no damage"
        assert store.conservation().ok
        store.close()
    assert acknowledged > KILLS


def schema(url: str) -> tuple[int, list[str], set[str]]:
    """(version, columns of pods, indexes of pods)."""
    engine = connect(parse(url))
    with engine.connect() as connection:
        version = connection.execute(select(META.c.schema_version)).scalar()
        looked = inspect(connection)
        columns = [column["name"] for column in looked.get_columns("pods")]
        indexes = {str(index["name"]) for index in looked.get_indexes("pods")}
    engine.dispose()
    return int(version or 0), columns, indexes


def test_an_older_schema_is_upgraded_in_one_step_or_not_at_all(store_url: str) -> None:
    store = Store.open(store_url)
    for one in batches(60):
        store.write(one)
    store.close()
    new = schema(store_url)
    changed(store_url, to_version_1)
    old = schema(store_url)
    assert (old[0], "arrived_s" in old[1], "pods_by_arrival" in old[2]) == (1, False, False)
    for how in ({"migrate": False}, {"create": False}):
        with pytest.raises(UserError, match=f"schema version 1, and this program reads {VERSION}"):
            Store.open(store_url, **how)
    found = []
    for delay_s in (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64):
        upgrader = started(UPGRADER, store_url)
        assert upgrader.stdout is not None
        begun = "goes from version 1 to 2" in upgrader.stdout.readline()
        time.sleep(delay_s)
        killed(upgrader)
        found.append(schema(store_url))
        assert begun or found[-1] == new
        if found[-1] == new:
            break
    assert set(map(repr, found)) <= {repr(old), repr(new)}
    assert old in found, "no kill came half-way"
    store = Store.open(store_url)
    assert schema(store_url) == new
    assert contents(store) == expected([*batches(60)])
    assert store.verify() == {}
    store.write(batch(61))
    store.close()


def test_a_step_does_not_need_columns_that_came_after_it(store_url: str) -> None:
    store = Store.open(store_url)
    store.write(batch(1))
    store.close()
    changed(store_url, to_version_1)
    later = subprocess.run([sys.executable, "-c", LATER, store_url], capture_output=True, text=True, check=False)
    assert later.stderr == ""
    assert later.stdout == "2\n"
    store = Store.open(store_url)
    assert store.verify() == {}
    assert contents(store) == expected([*batches(1)])
    store.close()


def test_a_row_that_is_damaged_before_an_upgrade_is_so_after_it(store_url: str) -> None:
    store = Store.open(store_url)
    store.write(batch(1))
    store.close()
    changed(store_url, to_version_1)
    changed(store_url, lambda connection: connection.execute(text("UPDATE pods SET cents = 9 WHERE uid = '0001-3'")))
    store = Store.open(store_url)
    assert store.verify() == {"pods": 1}
    assert store.pod("0001-3") is None
    store.close()


def test_a_newer_schema_is_told_in_a_sentence(store_url: str) -> None:
    Store.open(store_url).close()
    changed(store_url, set_version, VERSION + 1)
    with pytest.raises(UserError, match=rf"schema version {VERSION + 1}, .* above {VERSION}; use a newer nodewise$"):
        Store.open(store_url)
