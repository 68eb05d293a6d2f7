"""A scripted API server for tests of `kubectl nodewise`, and the plugin run in this process."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import pytest

from nodewise.cli.kubectl import main as plugin

Json = dict[str, Any]
Answer = Callable[[str, str, dict[str, str], Any], tuple[int, Json]]
"""(method, path, query, body) to (status, answer)."""


def status(code: int, reason: str, message: str = "") -> tuple[int, Json]:
    """What an API server says when it says no."""
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message or reason}


class Scripted:
    """Serves `answer` on 127.0.0.1, and remembers what was asked."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                url = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.asked.append((self.command, url.path))
                code, told = answer(self.command, url.path, dict(parse_qsl(url.query)), body)
                data = json.dumps(told).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PATCH = _any  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder: Path, namespace: str = "") -> Path:
        """A file that names this server, and a context `other` for a namespace of that name."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        context: Json = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "contexts": [
                {"name": "here", "context": context},
                {"name": "other", "context": {"cluster": "c", "user": "u", "namespace": "elsewhere"}},
            ],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }  # fmt: skip
        file = folder / "kubeconfig"
        file.write_text(json.dumps(config))
        return file


def pending(name: str, *, namespace: str = "team", **more: Any) -> Json:
    """A pod that waits for our scheduler, as the API server tells of it."""
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "7",
                     "creationTimestamp": "2026-01-01T00:00:00Z", **more},
        "spec": {"schedulerName": "nodewise", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending"},
    }  # fmt: skip


def run_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `kubectl nodewise WORDS`."""
    monkeypatch.setattr(sys, "argv", ["kubectl-nodewise", *words])
    with pytest.raises(SystemExit) as left:
        plugin.main()
    said = capsys.readouterr()
    code = left.value.code
    assert isinstance(code, int) or code is None
    return code or 0, said.out, said.err
