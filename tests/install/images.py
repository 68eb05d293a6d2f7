"""Which program of this machine stands for an image, and what of the machine its container sees."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.install.container import PATH

from nodewise_simulator.controlplane import program

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Image:
    """What a container of it starts, and as whom."""

    entrypoint: tuple[str, ...]  # argv before the container's `args`; its `command` takes the place of this
    user: int
    files: tuple[tuple[Path, str], ...]  # (here, in the container), read-only
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"


def image(name: str) -> Image | None:
    """The stand-in of an image by its full name, such as registry.k8s.io/kube-scheduler:v1.36.3; None if unknown."""
    repository, _, tag = name.partition("@")[0].rpartition(":")
    match repository:
        case "ghcr.io/nodewise/nodewise-operator" | "ghcr.io/nodewise/nodewise-extender":
            # The wheel and its Python, at the paths where they are here, because a virtual environment cannot move.
            seen = (Path(sys.base_prefix), Path(sys.prefix), REPOSITORY)
            # As the Dockerfile has it.
            python = ((f"PYTHON{name}", "1") for name in ("DONTWRITEBYTECODE", "UNBUFFERED", "FAULTHANDLER"))
            env = (("PATH", f"{sys.prefix}/bin:{PATH}"), ("HOME", "/tmp"), *python)
            files = tuple((each, str(each)) for each in seen)
            return Image(("nodewise",), 65532, files, env, "/var/lib/nodewise")
        case "registry.k8s.io/kube-scheduler":
            minor = ".".join(tag.removeprefix("v").split(".")[:2])
            binary = program("kube-scheduler-1.34" if minor == "1.34" else "kube-scheduler")
            # The real image starts nothing by itself: its entry point is a runner for a command.
            return Image((), 0, ((binary, "/image/kube-scheduler"),), (("PATH", f"/image:{PATH}"),))
        case "busybox" | "registry.k8s.io/e2e-test-images/busybox":
            shell = shutil.which("sh")
            return Image((str(shell),), 0, ())
        case _:
            return None
