"""Waiting longer after each failure: 10 s, doubled to 5 min, forgotten after 10 quiet minutes, as kubelet does.

The first failure is followed by a try at once; the wait is measured from the moment of the failure, so asking twice
gives the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

INITIAL = 10.0
MAXIMUM = 300.0


@dataclass(slots=True)
class _Entry:
    delay: float
    since: float


@dataclass(slots=True)
class Backoff:
    initial: float = INITIAL
    maximum: float = MAXIMUM
    _entries: dict[str, _Entry] = field(default_factory=dict)

    def until(self, key: str, failed_at: float) -> float:
        """When the next try may be made after a failure at `failed_at`; 0 when at once."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, failed_at):
            return 0.0
        return failed_at + entry.delay

    def delay(self, key: str) -> float:
        entry = self._entries.get(key)
        return entry.delay if entry else 0.0

    def next(self, key: str, now: float) -> None:
        """A try is made now, after a failure."""
        entry = self._entries.get(key)
        if entry is None or self._expired(entry, now):
            self._entries[key] = _Entry(self.initial, now)
        else:
            entry.delay = min(entry.delay * 2, self.maximum)
            entry.since = now

    def forget(self, key: str) -> None:
        self._entries.pop(key, None)

    def _expired(self, entry: _Entry, now: float) -> bool:
        return now - entry.since > 2 * self.maximum
