"""Durations and timestamps as text: Go's durations, RFC 3339 with nanoseconds; calendar fields in a time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.values import NANO, Duration, Timestamp

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": NANO,
    "m": 60 * NANO,
    "h": 3600 * NANO,
}
_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"([+-]?)(\d\d):(\d\d)\Z", re.ASCII)


def parse_duration(text: str) -> Duration:
    """`1h30m`, `-1.5s`, `0`: https://pkg.go.dev/time#ParseDuration"""
    wrong = EvaluationError(f'time: invalid duration "{text}"')
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return Duration(0)
    if not body or len(body) > 200 or not body.isprintable():
        raise wrong
    total, at = 0, 0
    while at < len(body):
        match = _PART.match(body, at)
        if match is None or not (match.group(1) or match.group(2)):
            if body[at:].replace(".", "").isdigit():
                raise EvaluationError(f'time: missing unit in duration "{text}"')
            raise wrong
        whole, fraction, unit = match.groups()
        scale = _UNITS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction[:18]) * scale // 10 ** len(fraction[:18])
        at = match.end()
    if total > (1 << 63) - 1:
        raise wrong
    return Duration(-total if text[0] == "-" else total)


def duration_text(value: Duration) -> str:
    """Seconds, with as many decimals as there are."""
    sign = "-" if value.nanos < 0 else ""
    seconds, nanos = divmod(abs(value.nanos), NANO)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{sign}{seconds}{fraction}s"


def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339 section 5.6."""
    match = _TIMESTAMP.match(text)
    if match is None:
        raise EvaluationError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse')
    year, month, day, hour, minute, second, fraction, _, sign, hours, minutes = match.groups()
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC
        )
    except ValueError as error:
        raise EvaluationError(f'parsing time "{text}": {error}') from None
    offset = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise EvaluationError(f'parsing time "{text}": time zone offset out of range')
        offset = (int(hours) * 3600 + int(minutes) * 60) * (-1 if sign == "-" else 1)
    nanos = int((fraction or "0")[:9].ljust(9, "0"))
    seconds = (moment - _EPOCH) // timedelta(seconds=1) - offset
    return Timestamp(seconds * NANO + nanos)


def parse_date(text: str) -> Timestamp:
    """`2006-01-02`, the format `date`."""
    return parse_timestamp(f"{text}T00:00:00Z")


def moment_of(value: Timestamp, zone: tzinfo = UTC) -> datetime:
    """To the second, in the zone."""
    try:
        return (_EPOCH + timedelta(seconds=value.nanos // NANO)).astimezone(zone)
    except (OverflowError, ValueError):
        raise EvaluationError("timestamp overflow") from None


def timestamp_text(value: Timestamp) -> str:
    nanos = value.nanos % NANO
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    moment = moment_of(value)
    return (
        f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}T"
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d}{fraction}Z"
    )


def zone_of(name: str) -> tzinfo:
    """An IANA name or an offset such as `-08:00`. Raises EvaluationError."""
    match = _OFFSET.match(name)
    if match is not None:
        sign, hours, minutes = match.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        if offset < timedelta(hours=24):
            return timezone(-offset if sign == "-" else offset)
        raise EvaluationError(f"unknown time zone {name}")
    if name in ("", "UTC"):
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise EvaluationError(f"unknown time zone {name}") from None
