"""Fields of timestamps (in UTC, or in a named zone) and of durations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sampan.kube.cel.functions import Library, Overload, method
from sampan.kube.cel.moments import moment_of, zone_of
from sampan.kube.cel.types import DURATION, INT, STRING, TIMESTAMP
from sampan.kube.cel.values import NANO, Timestamp

_FIELDS: dict[str, Callable[[datetime], int]] = {
    "getFullYear": lambda moment: moment.year,
    "getMonth": lambda moment: moment.month - 1,
    "getDayOfYear": lambda moment: moment.timetuple().tm_yday - 1,
    "getDayOfMonth": lambda moment: moment.day - 1,
    "getDate": lambda moment: moment.day,
    "getDayOfWeek": lambda moment: moment.isoweekday() % 7,
    "getHours": lambda moment: moment.hour,
    "getMinutes": lambda moment: moment.minute,
    "getSeconds": lambda moment: moment.second,
}
_SPANS = {"getHours": 3600 * NANO, "getMinutes": 60 * NANO, "getSeconds": NANO}


def _toward_zero(nanos: int, unit: int) -> int:
    return nanos // unit if nanos >= 0 else -(-nanos // unit)


def _field(name: str, read: Callable[[datetime], int]) -> list[Overload]:
    def plain(value: Timestamp) -> int:
        return read(moment_of(value))

    def zoned(value: Timestamp, zone: str) -> int:
        return read(moment_of(value, zone_of(zone)))

    found = [
        method(f"timestamp_{name}", (TIMESTAMP,), INT, plain),
        method(f"timestamp_{name}_with_tz", (TIMESTAMP, STRING), INT, zoned),
    ]
    unit = _SPANS.get(name)
    if unit is not None:

        def span(value: Any) -> int:
            return _toward_zero(value.nanos, unit)

        found.append(method(f"duration_{name}", (DURATION,), INT, span))
    return found


def _milliseconds(value: Timestamp, zone: str = "UTC") -> int:
    zone_of(zone)
    return value.nanos % NANO // 10**6


FUNCTIONS: Library = {
    **{name: _field(name, read) for name, read in _FIELDS.items()},
    "getMilliseconds": [
        method("timestamp_to_milliseconds", (TIMESTAMP,), INT, _milliseconds),
        method("timestamp_to_milliseconds_with_tz", (TIMESTAMP, STRING), INT, _milliseconds),
        method(
            "duration_to_milliseconds", (DURATION,), INT, lambda a: _toward_zero(a.nanos, 10**6)
        ),
    ],
}
