"""When a CronJob is due: the times that its schedule names, in its time zone.

The five fields of cron and its macros are read by `cronsim`; `?` is another star, and `@every 90m` counts from the last time,
as in robfig/cron. Source: kubernetes.io/docs/concepts/workloads/controllers/cron-jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sampan.kube.flags import duration
from sampan.kube.objects import parse_time

Object = dict[str, Any]

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
EVERY = "@every "
MANY = 100  # missed times that are worth a warning


class Impossible(ValueError):
    """A schedule that names no moment at all, such as the 31st of February. The API lets it in: its fields are in range."""


class Due(NamedTuple):
    last: datetime | None  # the latest time that has passed unserved
    missed: int  # how many have; at most MANY + 1
    next: datetime | None  # the next time to come


def times(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The scheduled times after `after`, ascending. Raises Impossible, and ValueError for what is no zone."""
    from cronsim import CronSim, CronSimError

    try:
        local = after.astimezone(ZoneInfo(zone or "UTC"))
        ahead = CronSim(MACROS.get(expression, expression).replace("?", "*"), local)
    except CronSimError as error:
        raise Impossible(f"{expression} : {error}") from None
    except (KeyError, OSError) as error:
        raise ValueError(f"{expression!r} in zone {zone or 'UTC'!r}: {error}") from None
    return _in_utc(ahead)


def _in_utc(ahead: Iterator[datetime]) -> Iterator[datetime]:
    """Ends where cronsim finds nothing within fifty years."""
    for moment in ahead:
        yield moment.astimezone(UTC)


def due(cron_job: Object, now: datetime) -> Due:
    """What has come due since the CronJob last ran, was made, or as far back as its deadline lets it look."""
    spec, status = cron_job["spec"], cron_job.get("status") or {}
    since = parse_time(cron_job["metadata"]["creationTimestamp"])
    if status.get("lastScheduleTime"):
        since = parse_time(status["lastScheduleTime"])
    deadline = spec.get("startingDeadlineSeconds")
    if deadline is not None:
        since = max(since, now - timedelta(seconds=deadline))
    if spec["schedule"].startswith(EVERY):
        return _every(timedelta(seconds=duration(spec["schedule"].removeprefix(EVERY))), since, now)
    zone = spec.get("timeZone") or ""
    upcoming = next(times(spec["schedule"], zone, now), None)
    passed: list[datetime] = []
    for moment in islice(times(spec["schedule"], zone, since), MANY + 1):
        if moment > now:
            break
        passed.append(moment)
    if len(passed) > MANY:
        # Too long ago to walk through one by one: the latest is all that counts.
        return Due(_latest(spec["schedule"], zone, now), len(passed), upcoming)
    return Due(passed[-1] if passed else None, len(passed), upcoming)


def _every(interval: timedelta, since: datetime, now: datetime) -> Due:
    interval = max(timedelta(seconds=int(interval.total_seconds())), timedelta(seconds=1))
    passed = max((now - since) // interval, 0)
    last = since + passed * interval if passed else None
    return Due(last, min(passed, MANY + 1), since + (passed + 1) * interval)


def _latest(expression: str, zone: str, now: datetime) -> datetime | None:
    """The last scheduled time up to now, by looking back twice as far until one is found."""
    span = timedelta(minutes=2)
    while span < timedelta(days=400):
        found = None
        for moment in times(expression, zone, now - span):
            if moment > now:
                break
            found = moment
        if found is not None:
            return found
        span *= 2
    return None
