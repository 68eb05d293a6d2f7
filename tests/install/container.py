"""One container: a program in its pod's network namespace, that sees its image, its mounts and nothing else."""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, or folders of their own
SYSTEM = (
    *("/usr", *(f"/{name}" for name in MERGED)),
    *("/etc/ssl", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/localtime", "/etc/mime.types"),
)
"""What the images' own distribution would bring: libraries and certificates, no configuration of this machine."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Mount:
    """`here` appears as `path` in the container."""

    here: Path
    path: str
    read_only: bool


@dataclass(frozen=True)
class Start:
    """All that is known of a container once its pod is on a node."""

    argv: Sequence[str]
    env: Mapping[str, str]
    mounts: Sequence[Mount]
    user: int
    group: int
    groups: Sequence[int]
    working_dir: str
    read_only_root: bool
    drop_capabilities: bool
    no_new_privileges: bool


class Running:
    """The process of one start of a container."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.pid = child.pid

    @classmethod
    async def start(cls, what: Start, namespace: str, folder: Path, log: Path) -> "Running":
        """Enter network namespace and a new mount namespace, make the root, become the user, run the program.

        Each step replaces the one before, so the process id stays: signals reach the program itself.
        """
        root = folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        script = folder / "start.sh"
        script.write_text(_script(what, root))
        with log.open("ab") as out:
            child = await asyncio.create_subprocess_exec(
                *(
                    "nsenter",
                    f"--net=/run/netns/{namespace}",
                    "unshare",
                    "--mount",
                    "--uts",
                    "--propagation",
                    "private",
                ),
                *("sh", "-eu", str(script)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={"PATH": PATH},
                start_new_session=True,
            )
        return cls(child)

    async def wait(self) -> int:
        """Exit code as a container runtime says it: 128 + signal for one that was killed."""
        code = await self._child.wait()
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """To the program alone, or nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)

    def kill(self) -> None:
        """The program and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def enter(pid: int, argv: Sequence[str]) -> list[str]:
    """A command line that runs `argv` inside a running container, for `exec` probes."""
    return ["nsenter", "--target", str(pid), "--net", "--mount", "--root", "--wd", *argv]


def _script(what: Start, root: Path) -> str:
    at = shlex.quote(str(root))
    lines = [f"mount -t tmpfs -o mode=755 tmpfs {at}", f"cd {at}", "mkdir -p proc dev sys etc tmp run var/tmp"]
    lines += ["chmod 1777 tmp var/tmp", "mount --rbind /dev dev", "mount -t proc proc proc"]
    lines += [f"ln -s usr/{name} {name}" for name in MERGED if Path(f"/{name}").is_symlink()]
    users = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532::/tmp:/usr/sbin/nologin\n"  # as our images have it
    lines += [f"printf %s {shlex.quote(users)} >etc/passwd", "printf 'root:x:0:\\nnonroot:x:65532:\\n' >etc/group"]
    lines += ["printf '# nobody\\n' >etc/resolv.conf"]
    there = [path for path in SYSTEM if Path(path).exists() and not (path[1:] in MERGED and Path(path).is_symlink())]
    own = [Mount(Path(path), path, read_only=True) for path in there]
    # What lies deeper comes later: the clone of the repository may itself be below a path that the pod mounts, as /tmp.
    for mount in sorted((*own, *what.mounts), key=lambda each: len(Path(each.path).parts)):
        here, inside = shlex.quote(str(mount.here)), shlex.quote("." + mount.path)
        if mount.here.is_dir():
            lines.append(f"mkdir -p {inside}")
        else:
            lines.append(f"mkdir -p $(dirname {inside}) && [ -e {inside} ] || touch {inside}")
        lines.append(f"mount --bind {here} {inside}")
        if mount.read_only:
            lines.append(f"mount -o remount,bind,ro {inside}")
    work = shlex.quote("." + what.working_dir)
    lines.append(f"[ -d {work} ] || install -d -o {what.user} -g {what.group} {work}")
    if what.read_only_root:
        lines.append(f"mount -o remount,ro {at}")
    lines.append(f"hostname {shlex.quote(what.env['HOSTNAME'])}")
    groups = f"--groups={','.join(map(str, what.groups))}" if what.groups else "--clear-groups"
    become = ["setpriv", f"--reuid={what.user}", f"--regid={what.group}", groups, "--pdeathsig=KILL"]
    if what.drop_capabilities:
        become += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    if what.no_new_privileges:
        become.append("--no-new-privs")
    env = [f"{name}={value}" for name, value in what.env.items()]
    go = f'cd {shlex.quote(what.working_dir)} && exec env -i "$@"'
    program = ["chroot", ".", *become, "sh", "-c", go, "sh", *env, *what.argv]
    lines.append(f"exec {shlex.join(program)}")
    return "\n".join(lines) + "\n"
