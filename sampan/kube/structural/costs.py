"""What the rules of a definition can cost at most: each one, and all together. What is too much is refused when it is written.

A rule below lists and maps runs once for each item: as often as their `maxItems` and `maxProperties` allow together, or, where one
of them has none, as often as its part of an object fits into a request.
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#resource-use-by-validation-functions
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sampan.kube import errors
from sampan.kube.cel import estimate as bounds
from sampan.kube.structural.node import Node
from sampan.kube.structural.rules import Causes, Validator, compiled

Raw = dict[str, Any]

SHARE = bounds.TOTAL_LIMIT // 100  # a rule below this is not named among those that cost too much
NAMED = 4


class _Place(NamedTuple):
    validator: Validator
    path: str
    times: int | None  # how often at most; None: nothing bounds it
    root: bool


def check(raw: Raw, path: str) -> Causes:
    """What is too expensive in a schema whose rules are sound."""
    causes: Causes = []
    spent: list[tuple[int, str]] = []
    root = compiled(Node(raw), root=True)
    for place in _places(root, path, 1, root=True):
        shape = bounds.shape_of(place.validator.node.raw, root=place.root)
        shapes = {"self": shape, "oldSelf": shape}
        times = bounds.cardinality(shape) if place.times is None else place.times
        for index, rule in enumerate(place.validator.rules):
            where = f"{place.path}.x-kubernetes-validations[{index}]"
            if rule.program is None or rule.problem:
                continue
            cost = bounds.estimate(rule.program, shapes) * times
            _judge(causes, spent, f"{where}.rule", "estimated rule cost", cost)
            if rule.message_program is not None:
                cost = bounds.estimate(rule.message_program, shapes)
                what = "estimated messageExpression cost"
                _judge(causes, spent, f"{where}.messageExpression", what, cost)
    total = sum(cost for cost, _ in spent)
    if total > bounds.TOTAL_LIMIT:
        text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        expensive = sorted((each for each in spent if each[0] >= SHARE), key=lambda each: -each[0])
        causes += [errors.forbidden_field(where, text) for _, where in expensive[:NAMED]]
        what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
        causes.append(errors.forbidden_field(path, bounds.exceeds(what, total, bounds.TOTAL_LIMIT)))
    return causes


def _judge(causes: Causes, spent: list[tuple[int, str]], where: str, what: str, cost: int) -> None:
    spent.append((cost, where))
    if cost > bounds.RULE_LIMIT:
        text = bounds.exceeds(what, cost, bounds.RULE_LIMIT)
        causes.append(errors.forbidden_field(where, text))


def _places(at: Validator | None, path: str, times: int | None, *, root: bool) -> Iterator[_Place]:
    if at is None:
        return
    raw = at.node.raw
    yield _Place(at, path, times, root or at.node.embedded)
    yield from _places(at.items, f"{path}.items", _within(times, raw.get("maxItems")), root=False)
    inner = _within(times, raw.get("maxProperties"))
    yield from _places(at.additional, f"{path}.additionalProperties", inner, root=False)
    for name, each in at.properties.items():
        yield from _places(each, f"{path}.properties[{name}]", times, root=False)


def _within(times: int | None, most: int | None) -> int | None:
    return None if times is None or most is None else times * max(most, 0)
