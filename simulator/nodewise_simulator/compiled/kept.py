"""Compiled kernels kept on disk between processes.

numba keeps machine code by the source file of a kernel, and never sees that what the kernel calls has changed. So
each kernel that is kept is a generated module of its own, in a folder named by a digest of everything that goes into
it, taken of what this process has loaded: files may have been edited since.

numba also names the machine code of a function by its qualified name, the types of its arguments and a number that
begins at one in every process. Closures of one function compiled by two processes, say a loop around two policies, may
then have the same name, and a third process that takes both from disk calls one of them twice. So numbers are drawn.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba as nb
import numpy as np
from numba.core.bytecode import FunctionIdentity
from numba.core.dispatcher import Dispatcher

_FIXED = {*sys.stdlib_module_names, "numpy", "numba", "llvmlite"}
"""Packages that change only with their versions, so that their names are enough."""
_LOG = logging.getLogger(__name__)
_MAKING = threading.Lock()
_VERSIONS = (
    f"python {sys.version}, numba {nb.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}, drawn"
)

if not hasattr(FunctionIdentity, "_unique_ids"):
    raise ImportError(f"numba {nb.__version__} numbers functions in another way than {__file__} expects; take 0.68")
FunctionIdentity._unique_ids = iter(lambda: secrets.randbits(62), None)  # type: ignore[assignment]


def kept(text: str, *roots: Any) -> ModuleType:
    """The module of this source text, whose kernels may say `cache=True`.

    `roots` are all functions and values that it takes from elsewhere; what they use themselves is found. Raises
    TypeError if they use something that has no digest.
    """
    digest = digest_of(text, *roots)
    name = f"nodewise_kernel_{digest}"
    with _MAKING:  # worlds are played in several threads, which must not see half a module
        if name not in sys.modules:
            path = _written(digest, text)
            if not any(path.parent.rglob("*.nbi")):
                _LOG.warning("compiling a kernel of the simulator (a minute or two, once until its code changes)")
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if "kernel" in vars(module):
                vars(module)["kernel"] = _Once(module.kernel, path.with_name("lock"))
            sys.modules[name] = module
    return sys.modules[name]


class _Once:
    """A kernel that of all processes one compiles, while the others wait to read what it wrote.

    So for the types that it is called with first: for others each process compiles its own.
    """

    def __init__(self, kernel: Any, lock: Path) -> None:
        self._kernel, self._lock, self._ready = kernel, lock, False

    def __call__(self, *args: Any) -> Any:
        if self._ready:
            return self._kernel(*args)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._kernel.compile(tuple(map(self._kernel.typeof_pyval, args)))
        self._ready = True
        return self._kernel(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


def digest_of(*roots: Any) -> str:
    """Digest of functions, with all functions and constants that they use, and of plain values."""
    sha = hashlib.sha256(_VERSIONS.encode())
    for token in _tokens(roots, {}):
        sha.update(token.encode() + b"\0")
    return sha.hexdigest()[:20]


def _tokens(thing: Any, seen: dict[int, int]) -> Iterator[str]:
    if thing is None or isinstance(thing, str | bytes | bool | int | float | np.generic):
        yield repr(thing)
    elif isinstance(thing, tuple | list):
        yield f"{len(thing)} of"
        for part in thing:
            yield from _tokens(part, seen)
    elif isinstance(thing, set | frozenset):
        yield from sorted(map(repr, thing))
    elif isinstance(thing, dict):
        yield from _tokens(sorted(thing.items()), seen)
    elif isinstance(thing, np.ndarray):
        yield f"{thing.dtype} {thing.shape} {thing.tobytes().hex()}"
    elif isinstance(thing, type | ModuleType) or (hasattr(thing, "__name__") and _is_fixed(thing.__module__)):
        # Of a NamedTuple its fields matter; what of a module is used comes with the function that uses it.
        yield f"{getattr(thing, '__module__', '')}.{thing.__name__} {getattr(thing, '_fields', '')}"
    elif id(thing) in seen:
        yield f"number {seen[id(thing)]}"
    else:
        seen[id(thing)] = len(seen)
        if isinstance(getattr(thing, "_defn", None), FunctionType):  # numba's intrinsics
            yield from _tokens(thing._defn, seen)
        elif isinstance(thing, Dispatcher):
            yield from _tokens((thing.targetoptions, thing.py_func), seen)
        elif isinstance(thing, FunctionType):
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            yield from _tokens((thing.__qualname__, thing.__defaults__, thing.__kwdefaults__, cells), seen)
            yield from _of_code(thing.__code__, thing.__globals__, seen)
        elif " at 0x" in repr(thing):
            raise TypeError(f"{thing!r} has no digest, so no kernel that uses it can be kept")
        else:
            yield repr(thing)


def _is_fixed(module: str | None) -> bool:
    return module is None or module.split(".")[0] in _FIXED  # numpy's ufuncs have none


def _of_code(code: CodeType, names: dict[str, Any], seen: dict[int, int]) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_argcount, code.co_flags))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant, names, seen)
        else:
            yield from _tokens(constant, seen)
    for name in code.co_names:
        if name not in names:
            continue
        yield from _tokens((name, names[name]), seen)
        if isinstance(names[name], ModuleType) and not _is_fixed(names[name].__name__):
            # Which of its names are meant is not looked for: all that may be.
            known = vars(names[name])
            yield from _tokens([(other, known[other]) for other in code.co_names if other in known], seen)


def _written(digest: str, text: str) -> Path:
    """Path of a file with this text; in the user's cache folder, or in a new one if that cannot be written."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return _write(home / "nodewise" / "kernels" / digest, text)
    except (OSError, RuntimeError):  # Path.home() raises the second for a user without an entry
        return _write(Path(tempfile.mkdtemp(prefix="nodewise-kernels-")), text)


def _write(folder: Path, text: str) -> Path:
    path = folder / "kernel.py"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        Path(name).write_text(text, encoding="utf-8")
        # numba trusts its files only as long as the source's time is the same: whoever writes it, it always is.
        os.utime(name, (0, 0))
        Path(name).replace(path)
    if not os.access(folder, os.W_OK):  # numba keeps nothing there, nor reads what is there
        raise PermissionError(f"{folder} cannot be written")
    return path
