"""The static bound on what a rule can cost: the figures that Kubernetes 1.36 reckons for the same rules and schemas."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import cel
from sampan.kube.cel.estimate import UNKNOWN, cardinality, estimate, exceeds, shape_of

Object = dict[str, Any]


def scalar(kind: str) -> Object:
    if kind in ("duration", "date", "date-time"):
        return {"type": "string", "format": kind}
    return {"x-kubernetes-int-or-string": True} if kind == "int-or-string" else {"type": kind}


def array(kind: str, most: int | None = None) -> Object:
    return {"type": "array", "items": scalar(kind)} | ({} if most is None else {"maxItems": most})


def nested(most: int | None = None) -> Object:
    return {"type": "array", "items": array("number")} | (
        {} if most is None else {"maxItems": most}
    )


def mapping(kind: str, most: int | None = None) -> Object:
    found: Object = {"type": "object", "additionalProperties": scalar(kind)}
    return found | ({} if most is None else {"maxProperties": most})


def text(most: int | None = None) -> Object:
    return {"type": "string"} | ({} if most is None else {"maxLength": most})


def maps(most: int | None = None) -> Object:
    found: Object = {"type": "array", "items": mapping("number")}
    return found | ({} if most is None else {"maxItems": most})


ALL = "self.all(x, true)"


@pytest.mark.parametrize(
    ("rule", "schema", "cost"),
    [
        (ALL, array("number"), 4718591),
        (ALL, array("number", 10), 32),
        (ALL, array("string"), 3145727),
        (ALL, array("string", 20), 62),
        (ALL, array("boolean"), 1887437),
        (ALL, nested(), 3145727),
        (ALL, nested(100), 302),
        (ALL, mapping("number"), 1348169),
        (ALL, mapping("string"), 1179647),
        (ALL, mapping("boolean"), 943718),
        (ALL, mapping("boolean", 100), 302),
        (ALL, array("int-or-string"), 4718591),
        (ALL, array("duration"), 2359295),
        (ALL, array("date"), 725936),
        (ALL, array("date-time"), 428963),
        (ALL, mapping("int-or-string"), 1348169),
        ("self.contains('test')", text(), 314574),
        ("self.contains('test')", text(10), 5),
        ("self.startsWith('test')", text(), 2),
        ("self.endsWith('test')", text(30), 2),
        ('size(self + "hello") > size("hello")', text(), 314578),
        ('size(self + "hello") > size("hello")', text(4), 7),
        ("self[1] == 0.0", array("number"), 2),
        ("self[1] == self[1]", array("string"), 314577),
        ("self.all(x, self.all(y, true))", array("number", 10), 352),
        ("self.all(x, self.all(y, self.all(z, true)))", array("number", 10), 3552),
        ('self.matches("x")', text(), 314574),
        ('self.matches("x")', text(50), 22),
        ('"".matches("(((((((((())))))))))[0-9]")', text(), 7),
        ('self.matches("")', text(), 1),
        ('self["x"] == 0.0', mapping("number"), 2),
        ('self == "x"', text(0), 1),
        ("self.all(x, x == 0.0)", array("number"), 6291454),
        ("self[0] == 5", array("int-or-string"), 3),
        ("self[0] == false", array("boolean"), 2),
        ("self[0][0] == -1.0", nested(), 3),
        ("self.all(x, x.y == 25.2)", maps(), 6291452),
        ("self.all(x, x.y == 25.2)", maps(12), 74),
        ("self[0].x > 2.0", maps(), 4),
        ("self[0].getHours() == 2", array("duration"), 4),
        ("self[2].getDayOfMonth() == 13", array("date"), 4),
        ("self[2].getMinutes() == 45", array("date-time"), 4),
    ],
)
def test_as_kubernetes_reckons(rule: str, schema: Object, cost: int) -> None:
    program = cel.compile(rule, {"self": cel.from_schema(schema)})
    assert estimate(program, {"self": shape_of(schema)}) == cost


def test_nothing_bounds_loops_in_loops() -> None:
    schema = array("number")
    program = cel.compile("self.all(x, self.all(y, true))", {"self": cel.from_schema(schema)})
    assert estimate(program, {"self": shape_of(schema)}) > 10**12


def test_how_often_a_rule_can_run() -> None:
    required = {"type": "object", "properties": {"name": text()}, "required": ["name"]}
    assert cardinality(shape_of(required)) == 3 * 1024 * 1024 // (2 + 4 + 2 + 4 + 1)
    assert cardinality(shape_of({"type": "object"})) == 3 * 1024 * 1024 // 3


def test_the_sentence() -> None:
    assert exceeds("estimated rule cost", 12_000_000, 10_000_000).startswith(
        "estimated rule cost exceeds budget by factor of 1.200000x (try simplifying the rule"
    )
    assert "factor of 3.5x" in exceeds("c", 35, 10)
    assert "factor of more than 100x" in exceeds("c", UNKNOWN, 10)


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(0, 3))
def test_no_evaluation_costs_more_than_was_reckoned(items: list[str], which: int) -> None:
    schema = {"type": "array", "maxItems": 30, "items": {"type": "string", "maxLength": 20}}
    rule = [
        "self.all(x, self.exists(y, y == x))",
        "self.map(x, x + 'abc').all(x, x.contains('b'))",
        "self.filter(x, x.matches('^a.*')).size() >= 0",
        "self.all(x, x.startsWith('')) && self.isSorted() || self.join(',').size() > -1",
    ][which]
    program = cel.compile(rule, {"self": cel.from_schema(schema)})
    budget = cel.Budget()
    before = budget.left
    program.evaluate({"self": items}, budget)
    assert before - budget.left <= estimate(program, {"self": shape_of(schema)})
