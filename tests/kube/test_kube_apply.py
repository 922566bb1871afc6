"""Server-side apply as pure functions: sets of fields, comparison, merging, ownership, and the laws that must hold."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from apply_live import (
    DEPLOYMENT,
    POD,
    SPECS,
    TYPE,
    Object,
)
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube.apply import fields, operations
from sampan.kube.apply.compare import ABSENT, Comparison, compare, created
from sampan.kube.apply.fields import FieldsError
from sampan.kube.apply.merge import merge, remove
from sampan.kube.apply.values import TypeErrors, check, field_set

assert DEPLOYMENT is not None and POD is not None


# --- sets -------------------------------------------------------------------------------------------

ELEMENTS = st.sampled_from(
    ["f:a", "f:b", "f:c", 'k:{"name":"x"}', 'k:{"port":80,"protocol":"TCP"}', 'v:"é"', "v:1", "i:0"]
)
PATHS = st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple)
SETS = st.sets(PATHS, max_size=12)


@given(SETS)
def test_a_set_is_its_paths_and_survives_the_wire(paths: set[fields.Path]) -> None:
    found = fields.of(*paths)
    assert set(fields.paths(found)) == paths
    assert fields.root(found) == found
    assert all(fields.has(found, path) for path in paths)


@given(SETS, SETS)
def test_algebra_is_that_of_sets(one: set[fields.Path], other: set[fields.Path]) -> None:
    a, b = fields.of(*one), fields.of(*other)
    before = deepcopy((a, b))
    assert set(fields.paths(fields.union(a, b))) == one | other
    assert set(fields.paths(fields.intersection(a, b))) == one & other
    assert set(fields.paths(fields.difference(a, b))) == one - other
    kept = {
        path for path in one if not any(path[:size] in other for size in range(1, len(path) + 1))
    }
    assert set(fields.paths(fields.without(a, b))) == kept
    tops = {path for path in one if not any(p != path and p[: len(path)] == path for p in one)}
    assert set(fields.paths(fields.leaves(a))) == tops
    assert (a, b) == before, "sets share nodes: nothing may change one"


def test_elements_are_read_in_any_spelling() -> None:
    wire = {
        'k:{"protocol":"TCP", "port":80}': {".": {}, "f:name": {}},
        "x:future": {},
        'v:"a<b"': {},
    }
    assert fields.root(wire) == {
        'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}},
        'v:"a\\u003cb"': {},
    }
    assert fields.shown_path(("f:spec", 'k:{"name":"c"}', 'v:"x"', "i:3")) == (
        '.spec[name="c"][="x"][3]'
    )


@pytest.mark.parametrize(
    "bad", [{"f": {}}, {"name": {}}, {"k:{": {}}, {"i:x": {}}, [], "x", {"f:a": 1}]
)
def test_what_is_no_set_is_refused(bad: Any) -> None:
    with pytest.raises(FieldsError):
        fields.root(bad)


# --- types and values -------------------------------------------------------------------------------


def test_a_configuration_owns_its_leaves_and_items() -> None:
    spec = {
        "size": 1,
        "labels": {"a": "b"},
        "whole": {"x": "y"},
        "set": ["s"],
        "list": ["l"],
        "ports": [{"port": 80, "name": "web"}],
        "any": {"deep": {"er": [1]}},
        "limit": "10%",
    }
    paths = {fields.shown_path(path) for path in fields.paths(field_set({"spec": spec}, TYPE))}
    assert paths == {
        ".spec.size",
        ".spec.labels.a",
        ".spec.whole",
        '.spec.set[="s"]',
        ".spec.list",
        '.spec.ports[port=80,protocol="TCP"]',
        '.spec.ports[port=80,protocol="TCP"].port',
        '.spec.ports[port=80,protocol="TCP"].name',
        ".spec.any.deep",
        ".spec.any.deep.er",
        ".spec.limit",
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"foo": 1}, ".spec.foo: field not declared in schema"),
        ({"title": 8}, ".spec.title: expected string, got &value.valueUnstructured{Value:8}"),
        ({"size": "8"}, ".spec.size: expected numeric (int or float), got string"),
        ({"labels": ["a"]}, ".spec.labels: expected map, got &{[a]}"),
        ({"ports": {}}, ".spec.ports: expected list, got &{map[]}"),
        ({"set": ["a", "a"]}, '.spec.set: duplicate entries for key [="a"]'),
        (
            {"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]},
            '.spec.ports: duplicate entries for key [port=80,protocol="TCP"]',
        ),
        ({"foo": 1, "title": 8}, None),
    ],
)
def test_wrong_types_are_told_as_structured_merge_diff_tells_them(
    spec: Object, message: str | None
) -> None:
    with pytest.raises(TypeErrors) as caught:
        check({"spec": spec}, TYPE)
    if message is not None:
        assert str(caught.value) == message


def test_a_creator_owns_what_a_deployment_s_creator_owns_in_kubernetes() -> None:
    obj = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "c", "resources": {}, "ports": [{"containerPort": 80}]}
                    ],
                    "securityContext": {},
                },
            },
        },
        "status": {"replicas": 3},
    }
    assert operations.created(obj, DEPLOYMENT, ("status",)) == {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"c"}': {
                            ".": {},
                            "f:name": {},
                            "f:resources": {},
                            "f:ports": {
                                ".": {},
                                'k:{"containerPort":80,"protocol":"TCP"}': {
                                    ".": {},
                                    "f:containerPort": {},
                                },
                            },
                        }
                    },
                    "f:securityContext": {},
                },
            },
        },
    }


@given(SPECS)
def test_creation_is_the_comparison_with_nothing(spec: Object) -> None:
    obj = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    assert created(obj, TYPE) == compare({}, obj, TYPE).added
    pod = {"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": []}, "metadata": {}}
    assert created(pod, POD) == compare({}, pod, POD).added


@given(SPECS, SPECS)
def test_a_comparison_tells_what_changed_and_nothing_else(one: Object, other: Object) -> None:
    found = compare({"spec": one}, {"spec": other}, TYPE)
    back = compare({"spec": other}, {"spec": one}, TYPE)
    assert (found.added, found.removed, found.modified) == (
        back.removed,
        back.added,
        back.modified,
    )
    assert compare({"spec": one}, {"spec": deepcopy(one)}, TYPE) == Comparison()
    assert compare(ABSENT, {"spec": one}, TYPE).removed == {}


def test_true_is_not_one() -> None:
    found = compare({"spec": {"any": {"x": 1}}}, {"spec": {"any": {"x": True}}}, TYPE)
    assert found.modified == {"f:spec": {"f:any": {"f:x": {}}}}


# --- merging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "applied", "wanted"),
    [
        ("abc", "b", "abc"),  # untouched order stays
        ("abc", "cb", "acb"),  # shared items take the order of the configuration
        ("ab", "xa", "xab"),
        ("ab", "bx", "abx"),
        ("abcd", "dxb", "acdxb"),
        ("", "ab", "ab"),
    ],
)
def test_lists_keep_the_live_order_where_nothing_is_said(
    live: str, applied: str, wanted: str
) -> None:
    merged = merge({"spec": {"set": list(live)}}, {"spec": {"set": list(applied)}}, TYPE)
    assert "".join(merged["spec"]["set"]) == wanted


@given(SPECS, SPECS)
def test_a_merge_says_all_that_was_applied_and_removes_nothing(
    live: Object, config: Object
) -> None:
    merged = merge({"spec": live}, {"spec": config}, TYPE)
    assert merge(merged, {"spec": config}, TYPE) == merged
    found = compare({"spec": config}, merged, TYPE)
    assert not found.modified and not set(fields.paths(found.removed)) & set(
        fields.paths(field_set({"spec": config}, TYPE))
    )
    lost = set(fields.paths(compare({"spec": live}, merged, TYPE).removed))
    assert not lost


def test_removing_takes_items_and_leaves_their_neighbours() -> None:
    spec = {"labels": {"a": "1", "b": "2"}, "ports": [{"port": 1}, {"port": 2, "name": "x"}]}
    gone = fields.of(
        ("f:spec", "f:labels", "f:a"),
        ("f:spec", "f:ports", 'k:{"port":2,"protocol":"TCP"}'),
    )
    assert remove({"spec": spec}, gone, TYPE) == {
        "spec": {"labels": {"b": "2"}, "ports": [{"port": 1}]}
    }
