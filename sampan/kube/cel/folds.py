"""The comprehensions as loops: `all`, `exists`, `map` … with one variable or two.

Each charges what cel-go's expansion of the macro would: the accumulator is read, tested and written once a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.cel import cost
from sampan.kube.cel.errors import BudgetExceeded, EvaluationError, no_overload
from sampan.kube.cel.frame import Frame, Step
from sampan.kube.cel.library.lists import sort_by
from sampan.kube.cel.values import key, unkey


def _pairs(range_: Any) -> Any:
    """What two variables run over."""
    if isinstance(range_, list):
        return enumerate(range_)
    if isinstance(range_, dict):
        return ((unkey(name), value) for name, value in list(range_.items()))
    raise no_overload()


def _runs(range_: Step, slots: tuple[int, ...]) -> Callable[[Frame], Any]:
    """Bind the variables to each element in turn; yields the (first) variable's value."""
    if len(slots) == 1:
        (slot,) = slots

        def single(frame: Frame) -> Any:
            over = range_(frame)
            if isinstance(over, dict):
                over = [unkey(name) for name in over]
            elif not isinstance(over, list):
                raise no_overload()
            variables = frame.slots
            for value in over:
                variables[slot] = value
                yield value

        return single
    first, second = slots

    def double(frame: Frame) -> Any:
        variables = frame.slots
        for name, value in _pairs(range_(frame)):
            variables[first], variables[second] = name, value
            yield name

    return double


def _all(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    return _quantifier(range_, slots, body, stop=False, units=3)


def _exists(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    return _quantifier(range_, slots, body, stop=True, units=4)


def _quantifier(
    range_: Step, slots: tuple[int, ...], body: Step, *, stop: bool, units: int
) -> Step:
    """`all` stops at the first false, `exists` at the first true; errors before that do not count."""
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> bool:
        failed: EvaluationError | None = None
        frame.cost += 1
        for _ in runs(frame):
            frame.cost += units
            if frame.cost > frame.limit:
                raise BudgetExceeded
            try:
                value = body(frame)
            except EvaluationError as error:
                failed = failed or error
                continue
            if value is stop:
                return stop
            if value is not (not stop):
                failed = failed or no_overload()
        if failed is not None:
            raise failed
        return not stop

    return fold


def _true(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise no_overload()


def _exists_one(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> bool:
        frame.charge(2)
        count = 0
        for _ in runs(frame):
            frame.charge(1)
            count += _true(body(frame))
        return count == 1

    return fold


def _map(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> list[Any]:
        frame.charge(cost.LIST + 1)
        found = []
        for _ in runs(frame):
            if filter_ is not None and not _true(filter_(frame)):
                frame.charge(1)
                continue
            frame.charge(cost.LIST + 2)
            found.append(body(frame))
        return found

    return fold


def _filter(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> list[Any]:
        frame.charge(cost.LIST + 1)
        found = []
        for value in runs(frame):
            if _true(body(frame)):
                frame.charge(cost.LIST + 3)
                found.append(value)
            else:
                frame.charge(1)
        return found

    return fold


def _transform_map(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> dict[Any, Any]:
        frame.charge(cost.MAP + 1)
        found: dict[Any, Any] = {}
        for name in runs(frame):
            if filter_ is not None and not _true(filter_(frame)):
                frame.charge(1)
                continue
            frame.charge(3)
            found[key(name)] = body(frame)
        return found

    return fold


def _transform_entries(
    range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step
) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> dict[Any, Any]:
        frame.charge(cost.MAP + 1)
        found: dict[Any, Any] = {}
        for _ in runs(frame):
            if filter_ is not None and not _true(filter_(frame)):
                frame.charge(1)
                continue
            entries = body(frame)
            if not isinstance(entries, dict):
                raise no_overload()
            frame.charge(2 + len(entries))
            for name, value in entries.items():
                if name in found:
                    raise EvaluationError(f"insert failed: key {unkey(name)} already exists")
                found[name] = value
        return found

    return fold


def _sort_by(range_: Step, slots: tuple[int, ...], filter_: Step | None, body: Step) -> Step:
    runs = _runs(range_, slots)

    def fold(frame: Frame) -> list[Any]:
        items, keys = [], []
        for value in runs(frame):
            frame.charge(cost.LIST + 2)
            items.append(value)
            keys.append(body(frame))
        frame.charge(cost.COSTS["sort"]([keys]))
        return sort_by(items, keys)

    return fold


FOLDS: dict[str, Callable[[Step, tuple[int, ...], Step | None, Step], Step]] = {
    "all": _all,
    "exists": _exists,
    "exists_one": _exists_one,
    "map": _map,
    "filter": _filter,
    "transformList": _map,
    "transformMap": _transform_map,
    "transformMapEntry": _transform_entries,
    "sortBy": _sort_by,
}
