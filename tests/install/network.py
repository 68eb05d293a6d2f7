"""A bridge of this machine, and a network namespace with an address of its own on it for each pod."""

import fcntl
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

NAMESPACES = Path("/run/netns")
PREFIX = "ndws"  # of every interface and namespace here; nobody else's begins so


def available() -> str:
    """Why pods cannot be run as processes here; empty where they can."""
    if os.geteuid() != 0:
        return "network and mount namespaces need root"
    name = f"{PREFIX}{os.getpid()}p"
    probe = f"ip link add {name} type bridge && ip link del {name} && unshare -m -n true && command -v nsenter setpriv"
    tried = subprocess.run(["sh", "-c", probe], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no network and mount namespaces: {tried.stderr.strip() or 'no setpriv'}"


class Bridge:
    """10.77.x.0/24 of which .1 is this machine, for the length of a `with` block; x is the first free one."""

    address: str
    """Where pods reach this machine."""

    def __enter__(self) -> Self:
        with (Path(tempfile.gettempdir()) / f"{PREFIX}.lock").open("w") as lock:  # two may look for a free one at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._enter()

    def _enter(self) -> Self:
        _sweep()
        self._made: dict[str, int] = {}  # last byte of the address by namespace
        self.name = f"{PREFIX}{os.getpid()}"
        taken = json.loads(_ip("-j", "addr"))
        used = {a["local"].rpartition(".")[0] for link in taken for a in link["addr_info"] if a["family"] == "inet"}
        self._prefix = next(p for x in range(256) if (p := f"10.77.{x}") not in used)
        self.address = f"{self._prefix}.1"
        _ip("link", "add", self.name, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.name)
        _ip("link", "set", self.name, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._made):
            self.remove(name)
        _ip("link", "del", self.name)

    def add(self) -> tuple[str, str]:
        """A new network namespace: its name, and its address on the bridge."""
        last = next(k for k in range(2, 255) if k not in self._made.values())
        name = f"{self.name}-{last}"
        self._made[name] = last
        address = f"{self._prefix}.{last}"
        outside, inside = f"{self.name}v{last}", f"{self.name}p{last}"
        _ip("netns", "add", name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
        _ip("link", "set", outside, "master", self.name, "up")
        _ip("-n", name, "link", "set", inside, "name", "eth0")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "route", "add", "default", "via", self.address)
        return name, address

    def remove(self, name: str) -> None:
        """End a namespace of `add`; its veth goes at once, so that the address is free again."""
        last = self._made.pop(name)
        subprocess.run(["ip", "link", "del", f"{self.name}v{last}"], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr.strip()}"
    return done.stdout


def _sweep() -> None:
    """What a run left that was killed: bridges and namespaces of processes that are no more."""
    links = [link["ifname"] for link in json.loads(_ip("-j", "link"))]
    namespaces = [each.name for each in NAMESPACES.iterdir()] if NAMESPACES.is_dir() else []
    for name in (*links, *namespaces):
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", *(("link",) if name in links else ("netns",)), "del", name], capture_output=True)
