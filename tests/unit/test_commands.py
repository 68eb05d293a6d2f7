"""A pod's command as a process: what ends up in the status."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from nodewise_simulator.controlplane import Exit, run_command

Json = dict[str, Any]


def pod(script: str, **more: Any) -> Json:
    return {"spec": {"containers": [{"command": ["python", "-c", script], **more}]}}


TELL = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"


@pytest.mark.parametrize(
    ("ran", "ended"),
    [
        (pod("print(1)"), Exit(0, "")),
        (pod(TELL, args=["/dev/termination-log", "done"]), Exit(0, "done")),
        (pod(TELL, args=["/end", "done"], terminationMessagePath="/end"), Exit(0, "done")),
        (pod(TELL, args=["/dev/termination-log", "x" * 5000]), Exit(0, "x" * 4096)),
        (pod("import sys; sys.exit('why')"), Exit(1, "")),
        (pod("import sys; sys.exit('why')", terminationMessagePolicy="FallbackToLogsOnError"), Exit(1, "why\n")),
        (pod("import os; os.kill(os.getpid(), 9)"), Exit(137, "")),
        (pod("import os, sys; sys.exit(int(os.environ['N']))", env=[{"name": "N", "value": "7"}]), Exit(7, "")),
    ],
)
async def test_a_pod_ends_as_its_command_does(ran: Json, ended: Exit) -> None:
    assert await run_command(ran, "node") == ended


async def test_a_command_that_is_not_there_fails() -> None:
    found = await run_command({"spec": {"containers": [{"command": ["/no/such"]}]}}, "node")
    assert (found.code, "/no/such" in found.message) == (127, True)


def test_mounts_are_folders_that_go_with_the_pod() -> None:
    told = pod(
        "import os, sys; open(sys.argv[1], 'w'); open(sys.argv[2], 'w').write(os.environ['TMPDIR'])",
        args=["/scratch/file", "/dev/termination-log"],
        env=[{"name": "TMPDIR", "value": "/scratch"}],
        volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}],
    )
    folder = Path(asyncio.run(run_command(told, "node")).message)
    assert folder.is_absolute()
    assert not folder.exists()


async def test_a_pod_that_is_deleted_takes_its_processes_with_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    sleeper = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    sleeper += f"open({str(pid)!r}, 'w').write(str(p.pid)); p.wait()"
    running = asyncio.create_task(run_command(pod(sleeper), "node"))
    async with asyncio.timeout(60):
        while not (pid.exists() and pid.read_text()):  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    limit_s = time.monotonic() + 30
    while _alive(int(pid.read_text())):
        assert time.monotonic() < limit_s
        await asyncio.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether it still runs; a zombie, which nobody has reaped yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
