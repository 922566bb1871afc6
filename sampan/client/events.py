"""EventRecorder: tells users what happened to an object, as `kubectl describe` and `kubectl events` show it.

`event` only puts a line into a bounded queue, so it may be called anywhere and never waits; a task of the owner sends them.
When the server is slow or away the oldest are dropped, with a count in the log: events are help, not records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sampan.client.backoff import Backoff
from sampan.client.client import Client
from sampan.client.correlate import COMBINED, Correlator, EventKey, Sent
from sampan.client.resources import EVENTS
from sampan.kube.errors import ApiError
from sampan.kube.objects import metadata

log = logging.getLogger(__name__)

Object = dict[str, Any]

QUEUED = 1000
ATTEMPTS = 12  # per event while the server cannot be reached
LONGEST_MESSAGE = 1024


@dataclass(slots=True)
class _Line:
    key: EventKey
    message: str  # differs from the key's when combined
    resource_version: str
    at: str  # RFC 3339


class EventRecorder:
    def __init__(
        self,
        client: Client,
        component: str,
        host: str = "",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self.client = client
        self.component = component
        self.host = host
        self._clock = clock
        self._correlator = Correlator()
        self._queue: deque[_Line] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._dropped = 0
        self._serial = 0

    def event(
        self, obj: Object, type: str, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Report on `obj`. `type` is Normal or Warning; `reason` one UpperCamelCase word.

        `field_path` names a part of the object: `spec.containers{web}`.
        """
        meta = metadata(obj)
        if len(message) > LONGEST_MESSAGE:
            message = message[: LONGEST_MESSAGE - 1] + "…"
        key = EventKey(
            obj.get("kind", ""),
            meta.get("namespace") or "",
            meta.get("name") or "",
            meta.get("uid") or "",
            obj.get("apiVersion", ""),
            field_path,
            type,
            reason,
            message,
        )
        now = self._clock()
        admitted = self._correlator.admit(key, now)
        if admitted is None:
            return
        if len(self._queue) >= QUEUED:
            self._queue.popleft()
            self._dropped += 1
        text = COMBINED + message if admitted is not key else message
        version = meta.get("resourceVersion") or ""
        self._queue.append(_Line(admitted, text, version, _rfc3339(now)))
        self._empty.clear()
        self._wake.set()

    def start(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        return group.create_task(self.run(), name=f"events {self.component}")

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._send(self._queue.popleft())
                if self._dropped:
                    log.warning("%s: dropped %d events", self.component, self._dropped)
                    self._dropped = 0
            self._empty.set()

    async def flush(self) -> None:
        """Return when everything queued was sent or given up. Needs `run` to be running."""
        await self._empty.wait()

    async def _send(self, line: _Line) -> None:
        backoff = Backoff(0.5, 10.0)
        for _ in range(ATTEMPTS):
            try:
                await self._write(line)
                return
            except ApiError as error:
                # Mostly a namespace that is going away: nobody will read it.
                log.debug("event %s for %s: %s", line.key.reason, line.key.name, error.message)
                return
            except (OSError, TimeoutError) as error:
                log.debug("event %s for %s: %s", line.key.reason, line.key.name, error)
                await asyncio.sleep(backoff.next())
        self._dropped += 1

    async def _write(self, line: _Line) -> None:
        namespace = line.key.namespace or "default"
        sent = self._correlator.sent(line.key)
        if sent is not None:
            count = sent.count + 1
            patch = {"count": count, "lastTimestamp": line.at, "message": line.message}
            try:
                await self.client.patch(EVENTS, sent.name, patch, namespace, kind="merge")
            except ApiError as error:
                if error.code != 404:
                    raise
                self._correlator.forget(line.key)
            else:
                self._correlator.remember(line.key, Sent(sent.name, count, sent.first))
                return
        name = self._name(line.key.name)
        await self.client.create(EVENTS, self._object(line, namespace, name), namespace)
        self._correlator.remember(line.key, Sent(name, 1, line.at))

    def _name(self, of: str) -> str:
        """Unique: the object's name and the time in nanoseconds, as kubectl users know it."""
        self._serial += 1
        stamp = f"{int(self._clock() * 1e9) + self._serial:x}"
        return f"{of[: 253 - len(stamp) - 1]}.{stamp}"

    def _object(self, line: _Line, namespace: str, name: str) -> Object:
        key = line.key
        involved = {
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "uid": key.uid,
            "apiVersion": key.api_version,
            "resourceVersion": line.resource_version,
            "fieldPath": key.field_path,
        }
        source = {"component": self.component, "host": self.host}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {name: value for name, value in involved.items() if value},
            "reason": key.reason,
            "message": line.message,
            "source": {name: value for name, value in source.items() if value},
            "firstTimestamp": line.at,
            "lastTimestamp": line.at,
            "count": 1,
            "type": key.type,
            "eventTime": None,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
