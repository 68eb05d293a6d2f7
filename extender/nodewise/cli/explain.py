"""`nodewise explain`: one placement in words, from the extender that decided it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer
from rich.table import Table

from nodewise.cli.output import Format, OutputOption, console, document, number
from nodewise.core.errors import UserError

_TIMEOUT_S = 10.0
_FACTS = (
    "namespace", "pod", "workload", "placement_policy", "mode", "policy", "winner", "bound", "fallback", "neutral",
)  # fmt: skip


def command(
    pod: Annotated[str, typer.Argument(help="Without NAMESPACE, it is 'default'.", metavar="[NAMESPACE/]POD")],
    admin: Annotated[str, typer.Option(help="Address of the extender's admin port.")] = "http://127.0.0.1:8889",
    output: OutputOption = Format.TABLE,
) -> None:
    """Say why a pod was placed where it is: the winner, the candidates, what each would cost, and a sentence."""
    told = fetch(admin, *split(pod))
    if output is Format.JSON:
        document(told.get("candidates", ()), **{key: held for key, held in told.items() if key != "candidates"})
    else:
        show(told)


def split(pod: str) -> tuple[str, str]:
    """Namespace and name of `[NAMESPACE/]POD`. Raises UserError for anything else."""
    namespace, slash, name = pod.partition("/")
    if not slash:
        namespace, name = "default", pod
    if not namespace or not name or "/" in name:
        raise UserError(f"{pod!r} does not name a pod; write POD or NAMESPACE/POD")
    return namespace, name


def fetch(admin: str, namespace: str, name: str) -> Mapping[str, Any]:
    """What the extender at `admin` says of a pod. Raises UserError if it is not there or does not know the pod."""
    try:
        url = urlsplit(admin)
        host, port = url.hostname, url.port
    except ValueError:  # such as a port that is not a number
        host, port, url = None, None, urlsplit("")
    if not host or url.scheme != "http":
        raise UserError(f"--admin {admin!r} is not an address; write it like http://127.0.0.1:8889")
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", f"{url.path.rstrip('/')}/explain/{quote(namespace, safe='')}/{quote(name, safe='')}")
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"no extender answers at {admin} ({error}); start one, or name its admin port with --admin"
        ) from None
    finally:
        connection.close()
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        raise UserError(told["error"])
    if reply.status != http.HTTPStatus.OK or not isinstance(told, dict) or "candidates" not in told:
        raise UserError(f"what answers at {admin} (HTTP {reply.status}) is not an extender's admin port; check --admin")
    return told


def show(told: Mapping[str, Any]) -> None:
    """Print an explanation, as `/explain` answers it: facts, candidates, and the sentence."""
    facts = Table.grid(padding=(0, 2))
    for label in _FACTS:
        if told.get(label):
            facts.add_row(label.replace("_", " "), str(told[label]))
    if not told.get("bound"):
        facts.add_row("bound", "not seen yet")
    console.print(facts)
    if told.get("candidates"):
        console.print(_table(told["candidates"], told.get("winner")))
    console.print(told.get("words", ""), markup=False)


def _table(candidates: Sequence[Mapping[str, Any]], winner: object) -> Table:
    """A line per candidate: score, a learned policy's correction, believed cost, and the parts of that cost."""
    corrected = ("correction",) if any("correction_cents" in candidate for candidate in candidates) else ()
    parts = _told([candidate.get("cents", {}) for candidate in candidates])
    made = Table("node", show_edge=False)
    for title in ("score", *corrected, "cost, cents", *(part.removesuffix("_cents") for part in parts)):
        made.add_column(title, justify="right")
    for candidate in candidates:
        cents = candidate.get("cents", {})
        values = [candidate.get("score"), *(candidate.get(f"{title}_cents") for title in corrected)]
        values += [candidate.get("believed_cents"), *(cents.get(part) for part in parts)]
        made.add_row(str(candidate["node"]), *map(number, values), style="bold" if candidate["node"] == winner else "")
    return made


def _told(cents: Sequence[Mapping[str, float]]) -> list[str]:
    parts = dict.fromkeys(part for candidate in cents for part in candidate)
    return [part for part in parts if any(candidate.get(part) for candidate in cents)]
