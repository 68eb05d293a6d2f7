"""The objects of a fake API server and the history of their changes: what a list or a watch would show. No I/O."""

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec

Object = dict[str, Any]
Fields = tuple[str, str]  # what selectors may ask for: spec.nodeName, status.phase
Selector = Callable[[Fields], bool]

KIND = {"nodes": "Node", "pods": "Pod", "namespaces": "Namespace", "placementpolicies": "PlacementPolicy"}
_FIELD = {"spec.nodeName": 0, "status.phase": 1}


class Stored:
    """One version of one object, encoded once for every list and watch that will show it."""

    __slots__ = ("body", "fields", "name")

    def __init__(self, body: bytes, name: tuple[str, str], fields: Fields) -> None:
        self.body, self.name, self.fields = body, name, fields


class Event:
    __slots__ = ("_lines", "after", "before", "rv")

    def __init__(self, rv: int, before: Stored | None, after: Stored | None) -> None:
        self.rv, self.before, self.after = rv, before, after
        self._lines: dict[str, bytes] = {}

    def line(self, selected: Selector) -> bytes:
        """The event as a watch with this selector sees it; nothing if it shows neither the old nor the new object.

        Like kube-apiserver (storage/cacher/cache_watcher.go, convertToWatchEvent), an object that leaves the selection
        is DELETED with its previous content under the new resourceVersion.
        """
        was = self.before is not None and selected(self.before.fields)
        if self.after is not None and selected(self.after.fields):
            return self._line("MODIFIED" if was else "ADDED", self.after.body)
        if not was or self.before is None:
            return b""
        if "DELETED" not in self._lines:
            last = msgspec.json.decode(self.before.body)
            last["metadata"]["resourceVersion"] = str(self.rv)
            return self._line("DELETED", msgspec.json.encode(last))
        return self._lines["DELETED"]

    def _line(self, kind: str, body: bytes) -> bytes:
        if kind not in self._lines:
            self._lines[kind] = b'{"type":"%s","object":%s}\n' % (kind.encode(), body)
        return self._lines[kind]


class Collection:
    """All objects of one resource and the last events about them."""

    def __init__(self, resource: str, history: int) -> None:
        self.kind, self._history = KIND[resource], history
        self.objects: dict[str, Stored] = {}  # by uid
        self.uids: dict[tuple[str, str], str] = {}  # by (namespace, name)
        self.events: list[Event] = []
        self.dropped = 0  # events forgotten so far; the position of an event is its index plus this
        self.oldest_rv = 0  # a watch can start here or later

    def put(self, obj: Object, rv: int) -> None:
        meta = obj["metadata"]
        uid, name = meta["uid"], (meta.get("namespace", ""), meta["name"])
        whole = {"kind": self.kind, "apiVersion": "v1", **obj, "metadata": {**meta, "resourceVersion": str(rv)}}
        fields = (obj.get("spec", {}).get("nodeName") or "", obj.get("status", {}).get("phase") or "")
        after = Stored(msgspec.json.encode(whole), name, fields if self.kind == "Pod" else ("", ""))
        self._remember(Event(rv, self.objects.get(uid), after))
        self.objects[uid] = after
        self.uids[name] = uid

    def delete(self, uid: str, rv: int) -> None:
        before = self.objects.pop(uid)
        if self.uids.get(before.name) == uid:  # the name may have a new owner
            del self.uids[before.name]
        self._remember(Event(rv, before, None))

    def _remember(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) >= 2 * self._history:  # seldom, so that the cost per event stays constant
            self.forget(len(self.events) - self._history)

    def forget(self, count: int) -> None:
        if count:
            self.oldest_rv = self.events[count - 1].rv
            del self.events[:count]
            self.dropped += count

    def position_after(self, rv: int) -> int:
        return self.dropped + bisect_right(self.events, rv, key=lambda event: event.rv)


def selector(text: str, kind: str) -> Selector:
    """Terms `field=value` and `field!=value` joined by commas, on spec.nodeName and status.phase of pods."""
    terms: list[tuple[int, bool, str]] = []
    for term in filter(None, text.split(",")):
        field, equals, value = term.partition("!=") if "!=" in term else term.partition("=")
        if kind != "Pod" or field not in _FIELD or not equals:
            raise ValueError(f'field label not supported: "{term}"')
        terms.append((_FIELD[field], equals == "=", value.removeprefix("=")))
    return lambda fields: all((fields[index] == value) is wanted for index, wanted, value in terms)
