"""A Job's status, which other controllers than ours may write too (KEP-4368): what may stand in it, and what may follow what.

Most rules hold for what changed only, so that a status which was wrong before does not stop unrelated writes. Each is a row:
the fields whose change has it checked, where it points, and the function that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from sampan.kube.errors import Cause, duplicate, invalid_value, required
from sampan.kube.objects import parse_time
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

_COUNTERS: Final = ("active", "succeeded", "failed", "ready", "terminating")
_NO_VALUE: Final = "Invalid value: "


def count_indexes(text: str, completions: int) -> int:
    """How many indexes `1,3-5` names. Raises ValueError."""
    return sum(last - first + 1 for first, last in _intervals(text, completions))


def _intervals(text: str, completions: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for part in text.split(",") if text else ():
        limits = part.split("-")
        if len(limits) > 2:
            raise ValueError(
                f'the fragment "{part}" violates the requirement that an index interval can have at '
                "most two parts separated by '-'"
            )
        numbers = []
        for limit in limits:
            if not (limit.isascii() and limit.isdigit() and len(limit) < 10):
                raise ValueError(f'cannot convert string to integer for index: "{limit}"')
            if int(limit) >= completions:
                raise ValueError(f'too large index: "{limit}"')
            numbers.append(int(limit))
        for previous, current in (
            *pairwise(numbers),
            *((end, numbers[0]) for _, end in found[-1:]),
        ):
            if previous >= current:
                raise ValueError(f"non-increasing order, previous: {previous}, current: {current}")
        found.append((numbers[0], numbers[-1]))
    return found


def _is(status: Object, kind: str, value: str = "True") -> bool:
    return any(
        each.get("type") == kind and each.get("status") == value
        for each in status.get("conditions") or ()
    )


def _finished(status: Object) -> bool:
    return _is(status, "Complete") or _is(status, "Failed")


def _without_value(path: str, detail: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"{_NO_VALUE}{detail}")


def validate(new: Object, old: Object, causes: Causes) -> None:
    """A status update; the spec is the old one."""
    spec, status, before = new.get("spec") or {}, new.get("status") or {}, old.get("status") or {}
    for field in _COUNTERS:
        rules.not_negative(causes, f"status.{field}", status.get(field))
    _uncounted(status.get("uncountedTerminatedPods") or {}, causes)
    changed = {name for name, read in _READERS.items() if read(status) != read(before)}
    for needs, check in _CHECKS:
        if changed.intersection(needs) and (cause := check(spec, status)) is not None:
            causes.append(cause)
    _pairs(spec, status, causes)
    _transitions(spec, status, before, causes)


def _uncounted(found: Object, causes: Causes) -> None:
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(found.get(field) or ()):
            where = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                causes.append(invalid_value(where, uid, "must not be empty"))
            elif uid in seen:
                causes.append(duplicate(where, uid))
            seen.add(uid)


# --- what holds where something changed -----------------------------------------------------------------

_READERS: Final[dict[str, Callable[[Object], Any]]] = {
    "finished": _finished,
    "Complete": lambda status: _is(status, "Complete"),
    "Failed": lambda status: _is(status, "Failed"),
    "FailureTarget": lambda status: _is(status, "FailureTarget"),
    "SuccessCriteriaMet": lambda status: _is(status, "SuccessCriteriaMet"),
    "completedIndexes": lambda status: status.get("completedIndexes") or "",
    "active": lambda status: status.get("active") or 0,
    "uncounted": lambda status: status.get("uncountedTerminatedPods"),
    **{
        field: lambda status, field=field: status.get(field)  # type: ignore[misc]
        for field in ("failedIndexes", "startTime", "completionTime", "ready", "terminating")
    },
}


def _both(first: str, second: str, text: str) -> Callable[[Object, Object], Cause | None]:
    def check(spec: Object, status: Object) -> Cause | None:
        if _is(status, first) and _is(status, second):
            return _without_value("status.conditions", text)
        return None

    return check


def _needs_target(kind: str, target: str) -> Callable[[Object, Object], Cause | None]:
    def check(spec: Object, status: Object) -> Cause | None:
        if _is(status, kind) and not _is(status, target):
            text = f"cannot set {kind}=True condition without the {target}=true condition"
            return _without_value("status.conditions", text)
        return None

    return check


def _completion_time(spec: Object, status: Object) -> Cause | None:
    time, complete = status.get("completionTime"), _is(status, "Complete")
    if time is not None and not complete:
        text = "cannot set completionTime when there is no Complete=True condition"
        return invalid_value("status.completionTime", time, text)
    if time is None and complete:
        return required("status.completionTime", "completionTime is required for Complete jobs")
    return None


def _times(spec: Object, status: Object) -> Cause | None:
    start, end = status.get("startTime"), status.get("completionTime")
    if start and end and parse_time(end) < parse_time(start):
        return invalid_value("status.completionTime", end, "must be equal to or after `startTime`")
    return None


def _none_left(field: str) -> Callable[[Object, Object], Cause | None]:
    def check(spec: Object, status: Object) -> Cause | None:
        count = status.get(field) or 0
        if count > 0 and _finished(status):
            text = f"{field}>0 is invalid for finished job"
            return invalid_value(f"status.{field}", count, text)
        return None

    return check


def _start_time(spec: Object, status: Object) -> Cause | None:
    nothing_to_do = spec.get("suspend") and spec.get("completions") == 0
    if status.get("startTime") is None and _finished(status) and not nothing_to_do:
        return required("status.startTime", "startTime is required for finished job")
    return None


def _all_counted(spec: Object, status: Object) -> Cause | None:
    found = status.get("uncountedTerminatedPods") or {}
    if _finished(status) and (found.get("failed") or found.get("succeeded")):
        text = "must be empty for finished job"
        return invalid_value("status.uncountedTerminatedPods", found, text)
    return None


def _indexes(field: str, needs: tuple[str, ...]) -> Callable[[Object, Object], Cause | None]:
    def check(spec: Object, status: Object) -> Cause | None:
        text = status.get(field)
        if text is not None and all(spec.get(each) is not None for each in needs):
            try:
                _intervals(text, spec["completions"])
            except ValueError as error:
                return invalid_value(f"status.{field}", text, f"error parsing {field}: {error}")
        return None

    return check


def _completed_of_indexed(spec: Object, status: Object) -> Cause | None:
    text = status.get("completedIndexes")
    if text and spec.get("completionMode") != "Indexed":
        detail = "cannot set non-empty completedIndexes when non-indexed completion mode"
        return invalid_value("status.completedIndexes", text, detail)
    return None


def _failed_with_limit(spec: Object, status: Object) -> Cause | None:
    text = status.get("failedIndexes")
    if text is not None and spec.get("backoffLimitPerIndex") is None:
        detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
        return invalid_value("status.failedIndexes", text, detail)
    return None


def _no_overlap(spec: Object, status: Object) -> Cause | None:
    completions, failed = spec.get("completions"), status.get("failedIndexes")
    if completions is None or not failed:
        return None
    try:
        done = _intervals(status.get("completedIndexes") or "", completions)
        lost = _intervals(failed, completions)
    except ValueError:
        return None  # the format is reported where it changed
    at = [
        max(first, start)
        for first, last in done
        for start, end in lost
        if first <= end and start <= last
    ]
    if not at:
        return None
    text = f"failedIndexes and completedIndexes overlap at index: {min(at)}"
    return invalid_value("status.failedIndexes", failed, text)


def _ready(spec: Object, status: Object) -> Cause | None:
    ready = status.get("ready")
    if ready is not None and ready > (status.get("active") or 0):
        return invalid_value("status.ready", ready, "cannot set more ready pods than active")
    return None


_CHECKS: Final[tuple[tuple[tuple[str, ...], Callable[[Object, Object], Cause | None]], ...]] = (
    (("Complete", "Failed"),
     _both("Complete", "Failed", "cannot set Complete=True and Failed=true conditions")),
    (("Complete", "FailureTarget"),
     _both("Complete", "FailureTarget", "cannot set Complete=True and FailureTarget=true conditions")),
    (("Complete", "completionTime"), _completion_time),
    (("startTime", "completionTime"), _times),
    (("Failed", "failedIndexes"), _needs_target("Failed", "FailureTarget")),
    (("Complete", "SuccessCriteriaMet"), _needs_target("Complete", "SuccessCriteriaMet")),
    (("finished", "active"), _none_left("active")),
    (("finished", "startTime"), _start_time),
    (("finished", "uncounted"), _all_counted),
    (("completedIndexes",), _indexes("completedIndexes", ("completions",))),
    (("failedIndexes",), _indexes("failedIndexes", ("completions", "backoffLimitPerIndex"))),
    (("completedIndexes",), _completed_of_indexed),
    (("failedIndexes",), _failed_with_limit),
    (("failedIndexes", "completedIndexes"), _no_overlap),
    (("finished", "terminating"), _none_left("terminating")),
    (("ready", "active"), _ready),
)  # fmt: skip


# --- what always holds ----------------------------------------------------------------------------------


def _pairs(spec: Object, status: Object, causes: Causes) -> None:
    met = _is(status, "SuccessCriteriaMet")
    for kind in ("Failed", "FailureTarget"):
        if met and _is(status, kind):
            text = f"cannot set SuccessCriteriaMet=True and {kind}=true conditions"
            causes.append(_without_value("status.conditions", text))
    if spec.get("successPolicy") is not None and not met and _is(status, "Complete"):
        text = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"
        causes.append(_without_value("status.conditions", text))


def _transitions(spec: Object, status: Object, before: Object, causes: Causes) -> None:
    for kind in ("Failed", "Complete", "FailureTarget"):
        if _is(before, kind) and not _is(status, kind):
            text = f"cannot disable the terminal {kind}=True condition"
            causes.append(_without_value("status.conditions", text))
    # An indexed Job whose completions equal its parallelism may be scaled down (KEP-3715).
    shrinks = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")  # fmt: skip
    for field in ("failed", "succeeded"):
        count = status.get(field) or 0
        if count < (before.get(field) or 0) and not (shrinks and field == "succeeded"):
            text = f"cannot decrease the {field} counter"
            causes.append(invalid_value(f"status.{field}", count, text))
    end, ended = status.get("completionTime"), before.get("completionTime")
    if end is not None and ended is not None and end != ended:
        causes.append(invalid_value("status.completionTime", end, rules.IMMUTABLE))
    resumes = _is(before, "Suspended") and _is(status, "Suspended", "False")
    start, started = status.get("startTime"), before.get("startTime")
    if started is not None and start != started and not spec.get("suspend") and not resumes:
        text = "field is immutable for unsuspended job once set"
        causes.append(invalid_value("status.startTime", start, text))
    met, was_met = _is(status, "SuccessCriteriaMet"), _is(before, "SuccessCriteriaMet")
    if was_met and not met:
        text = "cannot disable the SuccessCriteriaMet=True condition"
        causes.append(_without_value("status.conditions", text))
    if _is(before, "Complete") and not was_met and met:
        text = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"
        causes.append(_without_value("status.conditions", text))
