"""Where the programs are: the folder named by KUBEBUILDER_ASSETS, as in controller-runtime's envtest."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from nodewise.core.errors import UserError

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
REQUIRED = ("etcd", "kube-apiserver", "kube-scheduler")
HOW_TO_GET_THEM = (
    "get etcd and kube-apiserver with `setup-envtest use` (or from the etcd and Kubernetes release downloads) and "
    f"kube-scheduler from the Kubernetes release downloads, put them into one folder, and set {ASSETS_VARIABLE} to it"
)
CLIENTS = {
    "helm": "https://helm.sh/docs/intro/install",
    "kubeconform": "https://github.com/yannh/kubeconform",
    "kubectl": "https://kubernetes.io/docs/tasks/tools",
}
"""What any version of will do, so that the one on the PATH is good enough, and where it comes from."""


def programs() -> dict[str, Path]:
    """Paths of etcd, kube-apiserver and kube-scheduler by name; UserError if the folder or one of them is missing."""
    return {name: program(name) for name in REQUIRED}


def program(name: str) -> Path:
    """The path of one program, such as `kube-scheduler-1.34` (a second minor); raises UserError if it is missing."""
    folder = os.environ.get(ASSETS_VARIABLE)
    if name in CLIENTS:
        found = shutil.which(name, path=os.pathsep.join(filter(None, (folder, os.environ.get("PATH")))))
        if not found:
            where = f"in the folder {ASSETS_VARIABLE} or on the PATH"
            raise UserError(f"There is no program {name} {where}: {CLIENTS[name]} says how to get it.")
        return Path(found).resolve()
    if not folder:
        raise UserError(f"{ASSETS_VARIABLE} is not set, so {name} cannot be found: {HOW_TO_GET_THEM}.")
    path = Path(folder) / name
    if not os.access(path, os.X_OK) or path.is_dir():
        raise UserError(f"There is no program {name} in {folder} ({ASSETS_VARIABLE}): {HOW_TO_GET_THEM}.")
    return path.resolve()


def program_version(name: str) -> tuple[int, int, int]:
    """(major, minor, patch) of a Kubernetes program, which prints `Kubernetes v1.36.3` for `--version`."""
    argv = [str(program(name)), "--version"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout  # noqa: S603
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise UserError(
            f"{name} --version printed {said.strip()!r}, which holds no version; is it a Kubernetes program?"
        )
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch)
