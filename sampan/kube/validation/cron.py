"""Cron schedules in the standard form of robfig/cron v3, and time zones, as CronJobs name them."""

from __future__ import annotations

import re
from typing import Final

from sampan.kube.errors import invalid_value
from sampan.kube.validation.rules import Causes

_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_DAYS: Final = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Minute, hour, day of month, month, day of week: bounds, and names for their numbers.
_CRON_FIELDS: Final[tuple[tuple[int, int, list[str]], ...]] = (
    (0, 59, []),
    (0, 23, []),
    (1, 31, []),
    (1, 12, ["", *_MONTHS]),
    (0, 6, _DAYS),
)
_CRON_NAMED: Final = frozenset(
    ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
)
_CRON_PART = re.compile(r"(?:\*|\?|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_CRON_EVERY = re.compile(r"@every (\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")


def cron_error(schedule: str) -> str:
    """Why the text is no cron schedule (robfig/cron standard form); empty when it is one."""
    if schedule.startswith("@"):
        known = schedule in _CRON_NAMED or _CRON_EVERY.fullmatch(schedule)
        return "" if known else f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if parts and parts[0].startswith(("TZ=", "CRON_TZ=")):
        parts = parts[1:]
    if len(parts) != 5:
        return f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, bounds in zip(parts, _CRON_FIELDS, strict=True):
        for item in part.split(","):
            if reason := _cron_part_error(item, *bounds):
                return reason
    return ""


def _cron_part_error(item: str, low: int, high: int, words: list[str]) -> str:
    match = _CRON_PART.fullmatch(item)
    if match is None:
        return f"failed to parse int from {item}: invalid syntax"
    numbers = []
    for text in match.group(1, 2):
        if text is None:
            continue
        if text.isdecimal() and len(text) < 9:
            numbers.append(int(text))
        elif text.lower() in words:
            numbers.append(words.index(text.lower()))
        else:
            return (
                f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
            )
    for number in numbers:
        if number < low:
            return f"beginning of range ({number}) below minimum ({low}): {item}"
        if number > high:
            return f"end of range ({number}) above maximum ({high}): {item}"
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        return f"beginning of range ({numbers[0]}) beyond end of range ({numbers[1]}): {item}"
    if match[3] is not None and not int(match[3][:9]):
        return f"step of range should be a positive number: {item}"
    return ""


def time_zone(zone: str | None, causes: Causes) -> None:
    if zone is None:
        return
    if not zone:
        text = "timeZone must be nil or non-empty string"
        causes.append(invalid_value("spec.timeZone", zone, text))
        return
    if zone.lower() == "local":
        text = (
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )
        causes.append(invalid_value("spec.timeZone", zone, text))
        return
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        causes.append(invalid_value("spec.timeZone", zone, f"unknown time zone {zone}"))
