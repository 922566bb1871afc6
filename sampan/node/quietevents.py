"""Events wait until the node has a quiet moment.

A pod's start is told in four events; a rollout of thirty pods in over a hundred requests, as many as the rollout itself
needs. They are help for people, who read them seconds later: so they are sent when no pod was being started in two looks
running, or when they are two seconds old. Their order stays.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sampan.client.events import EventRecorder
from sampan.node.podspec import Object

LOOK = 0.1  # seconds between looks while there is something to send
LONGEST = 2.0


class QuietRecorder:
    def __init__(self, recorder: EventRecorder, busy: Callable[[], bool]) -> None:
        self._recorder = recorder
        self._busy = busy
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = False  # at the last look

    def start(self, group: asyncio.TaskGroup) -> None:
        self._recorder.start(group)

    def event(
        self, obj: Object, kind: str, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """As EventRecorder's."""

        def send() -> None:
            self._recorder.event(obj, kind, reason, message, field_path=field_path)

        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time(), send))
        if self._timer is None:
            self._quiet = False
            self._timer = loop.call_later(LOOK, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        was_quiet, self._quiet = self._quiet, not self._busy()
        settled = was_quiet and self._quiet
        if not settled and loop.time() - self._waiting[0][0] < LONGEST:
            self._timer = loop.call_later(LOOK, self._look)
            return
        while self._waiting:
            self._waiting.popleft()[1]()
