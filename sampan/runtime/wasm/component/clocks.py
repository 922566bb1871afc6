"""wasi:clocks and wasi:random."""

from __future__ import annotations

import os
import time

from sampan.runtime.wasm.component.guest import Stop
from sampan.runtime.wasm.component.streams import Pollable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest

_RANDOM_LIMIT = 1 << 20  # bytes a call


class Alarm:
    """Ready at a time of the monotonic clock, in ns."""

    def __init__(self, when: int) -> None:
        self.when = when

    def ready(self) -> bool:
        return time.monotonic_ns() >= self.when

    def event(self) -> tuple[int, int, float]:
        return -1, 0, self.when / 1e9


def datetime(ns: int) -> dict[str, int]:
    seconds, nanoseconds = divmod(ns, 1_000_000_000)
    return {"seconds": max(0, seconds), "nanoseconds": nanoseconds}


def random_bytes(guest: Guest, size: int) -> bytes:
    if size > _RANDOM_LIMIT:
        raise Stop(f"more than {_RANDOM_LIMIT} random bytes at once")
    return os.urandom(size)


def random_number(guest: Guest) -> int:
    return int.from_bytes(os.urandom(8), "little")


INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:clocks/monotonic-clock": {
        "now": lambda _: time.monotonic_ns(),
        "resolution": lambda _: 1,
        "subscribe-instant": lambda _, when: Pollable(Alarm(when)),
        "subscribe-duration": lambda _, span: Pollable(Alarm(time.monotonic_ns() + span)),
    },
    "wasi:clocks/wall-clock": {
        "now": lambda _: datetime(time.time_ns()),
        "resolution": lambda _: datetime(1),
    },
    "wasi:random/random": {"get-random-bytes": random_bytes, "get-random-u64": random_number},
    "wasi:random/insecure": {
        "get-insecure-random-bytes": random_bytes,
        "get-insecure-random-u64": random_number,
    },
    "wasi:random/insecure-seed": {
        "insecure-seed": lambda _: [random_number(_), random_number(_)],
    },
}
