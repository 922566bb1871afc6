"""What becomes of an event before it is sent: counted, combined or dropped, as client-go's EventCorrelator decides it.

Three rules, each per reporting component (each recorder has its own correlator). The same event again is counted on the
first one. More than 10 different messages for one object, type and reason within 10 minutes become one combined event.
An object that causes more than 25 events at once is heard only once every 5 minutes. Pure: the caller gives the time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

REMEMBERED = 4096  # entries per table, the least recently used go first
SIMILAR_LIMIT = 10
SIMILAR_SECONDS = 600.0
BURST = 25
REFILL_PER_SECOND = 1 / 300
COMBINED = "(combined from similar events): "


class EventKey(NamedTuple):
    kind: str
    namespace: str
    name: str
    uid: str
    api_version: str
    field_path: str
    type: str
    reason: str
    message: str


@dataclass(slots=True)
class Sent:
    """An event as the server has it, or is about to."""

    name: str  # of the Event object
    count: int
    first: str  # RFC 3339


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: float = 0.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    last: float


class Correlator:
    def __init__(self) -> None:
        self._sent: OrderedDict[EventKey, Sent] = OrderedDict()
        self._similar: OrderedDict[EventKey, _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()

    def admit(self, key: EventKey, now: float) -> EventKey | None:
        """The key to count the event under, possibly a combined one; None: drop it. `now` in monotonic seconds."""
        bucket = _recall(self._buckets, key[:5], lambda: _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.last) * REFILL_PER_SECOND)
        bucket.last = now
        similar = _recall(self._similar, key._replace(message=""), _Similar)
        if now - similar.last > SIMILAR_SECONDS:
            similar.messages.clear()
        similar.last = now
        if bucket.tokens < 1:
            return None
        bucket.tokens -= 1
        if key.message in similar.messages or len(similar.messages) < SIMILAR_LIMIT:
            similar.messages.add(key.message)
            return key
        return key._replace(message=COMBINED)

    def sent(self, key: EventKey) -> Sent | None:
        return self._sent.get(key)

    def remember(self, key: EventKey, sent: Sent) -> None:
        self._sent[key] = sent
        self._sent.move_to_end(key)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def forget(self, key: EventKey) -> None:
        """The server no longer has it (events expire)."""
        self._sent.pop(key, None)


def _recall(table: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    entry = table.get(key)
    if entry is None:
        entry = table[key] = make()
        while len(table) > REMEMBERED:
            table.popitem(last=False)
    else:
        table.move_to_end(key)
    return entry
