"""Structural schemas: fitting objects to them, and what is wrong with values, worded as Kubernetes words it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kube.structural import fit, formats, jsonpath, lists, patterns, values
from sampan.kube.structural.node import Node
from sampan.kube.structural.resource import ResourceSchema

STRING = {"type": "string"}


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def wrong(value: Any, schema: dict[str, Any], old: Any = values.MISSING) -> list[str]:
    return [str(cause) for cause in values.validate(value, Node(schema), old=old)]


# --- OpenAPI keywords ---------------------------------------------------------------------------------

SPEC = "spec.x in body should"
CASES: list[tuple[dict[str, Any], Any, list[str]]] = [
    ({"type": "integer", "maximum": 10}, 11, [f"Invalid value: 11: {SPEC} be less than or equal to 10"]),
    ({"type": "integer", "maximum": 10, "exclusiveMaximum": True}, 10, [f"Invalid value: 10: {SPEC} be less than 10"]),
    ({"type": "number", "minimum": 1.5}, 1.25, [f"Invalid value: 1.25: {SPEC} be greater than or equal to 1.5"]),
    ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, 0, [f"Invalid value: 0: {SPEC} be greater than 0"]),
    ({"type": "integer", "multipleOf": 5}, 7, [f"Invalid value: 7: {SPEC} be a multiple of 5"]),
    ({"type": "number", "maximum": 1e6}, 2e6, [f"Invalid value: 2e+06: {SPEC} be less than or equal to 1e+06"]),
    ({"type": "string", "pattern": "^a+$"}, "b", [f"Invalid value: \"b\": {SPEC} match '^a+$'"]),
    ({"type": "string", "pattern": "^a$"}, "a\n", [f"Invalid value: \"a\\n\": {SPEC} match '^a$'"]),
    ({"type": "string", "minLength": 2}, "é", [f'Invalid value: "é": {SPEC} be at least 2 chars long']),
    ({"type": "string", "maxLength": 2}, "abc", ["Too long: may not be more than 2 bytes"]),
    ({"type": "string", "enum": ["a", "b"]}, "c", ['Unsupported value: "c": supported values: "a", "b"']),
    ({"type": "integer", "enum": [1, 2]}, 3, ['Unsupported value: 3: supported values: "1", "2"']),
    ({"type": "string"}, 4, ['Invalid value: "integer": spec.x in body must be of type string: "integer"']),
    ({"type": "integer"}, "4", ['Invalid value: "string": spec.x in body must be of type integer: "string"']),
    ({"type": "integer"}, 1.0, []),
    ({"type": "number"}, 1, []),
    ({"type": "boolean"}, 1, ['Invalid value: "integer": spec.x in body must be of type boolean: "integer"']),
    ({"type": "string"}, None, ['Invalid value: "null": spec.x in body must be of type string: "null"']),
    ({"type": "string", "nullable": True}, None, []),
    ({"type": "string", "format": "date-time"}, "soon",
     ['Invalid value: "soon": spec.x in body must be of type date-time: "soon"']),
    ({"type": "string", "format": "no-such-format"}, "x", []),
    ({"x-kubernetes-int-or-string": True}, "25%", []),
    ({"x-kubernetes-int-or-string": True}, 25, []),
    ({"x-kubernetes-int-or-string": True}, True,
     ['Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean"']),
    ({"type": "array", "items": STRING, "minItems": 1}, [], [f"Invalid value: 0: {SPEC} have at least 1 items"]),
    ({"type": "array", "items": STRING, "maxItems": 1}, ["a", "b"], ["Too many: 2: must have at most 1 item"]),
    ({"type": "object", "additionalProperties": STRING, "maxProperties": 1}, {"a": "", "b": ""},
     ["Too many: 2: must have at most 1 item"]),
    ({"type": "object", "additionalProperties": STRING, "minProperties": 1}, {},
     [f"Invalid value: 0: {SPEC} have at least 1 properties"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "value", "expected"), CASES)
def test_keywords(schema: dict[str, Any], value: Any, expected: list[str]) -> None:
    found = wrong({"spec": {"x": value}}, obj(spec=obj(x=schema)))
    assert found == [f"spec.x: {each}" for each in expected]


def test_paths_of_items_map_values_and_required_fields() -> None:
    item = {"type": "object", "required": ["name"], "properties": {"name": STRING}}
    schema = obj(
        list={"type": "array", "items": item},
        map={"type": "object", "additionalProperties": {"type": "integer"}},
    )
    assert wrong({"list": [{"name": "a"}, {}], "map": {"k": "v"}}, schema) == [
        "list[1].name: Required value",
        'map.k: Invalid value: "string": map.k in body must be of type integer: "string"',
    ]


def test_junctors() -> None:
    either = {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], **obj(a=STRING, b=STRING)}
    assert wrong({"spec": {}}, obj(spec=either)) == [
        '<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid',
        "spec.a: Required value",
    ]
    assert wrong({"spec": {"a": "", "b": ""}}, obj(spec=either)) == [
        '<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives',
    ]
    never = {"not": {"required": ["a"]}, **obj(a=STRING)}
    assert wrong({"spec": {"a": ""}}, obj(spec=never)) == [
        '<nil>: Invalid value: "": "spec" must not validate the schema (not)'
    ]
    both = {"type": "string", "allOf": [{"minLength": 2}, {"pattern": "^a"}]}
    assert wrong({"x": "b"}, obj(x=both)) == [
        'x: Invalid value: "b": x in body should be at least 2 chars long',
        "x: Invalid value: \"b\": x in body should match '^a'",
        '<nil>: Invalid value: "": "x" must validate all the schemas (allOf). None validated',
    ]
    # The alternative that fits best is the one complained about.
    best = {"type": "object", "anyOf": [
        {"required": ["nothing"]},
        {"properties": {"a": {"enum": ["x"]}}, "required": ["a"]},
    ], **obj(a=STRING)}  # fmt: skip
    assert wrong({"a": "y"}, best)[1:] == ['a: Unsupported value: "y": supported values: "x"']


def test_what_did_not_change_is_forgiven() -> None:
    item = {
        "type": "object",
        "required": ["n"],
        "properties": {"n": STRING, "v": {"type": "integer", "maximum": 5}},
    }
    schema = obj(
        kept={"type": "string", "maxLength": 2},
        named={"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]},
        atomic={"type": "array", "items": {"type": "integer", "maximum": 5}},
    )  # fmt: skip
    old = {"kept": "long", "named": [{"n": "a", "v": 9}, {"n": "b", "v": 9}], "atomic": [9]}
    assert wrong(old, schema) and not wrong(copy.deepcopy(old), schema, old)
    new = {"kept": "longer", "named": [{"n": "b", "v": 9}, {"n": "a", "v": 8}], "atomic": [9, 1]}
    assert wrong(new, schema, old) == [
        "kept: Too long: may not be more than 2 bytes",
        "named[1].v: Invalid value: 8: named[1].v in body should be less than or equal to 5",
        "atomic[0]: Invalid value: 9: atomic[0] in body should be less than or equal to 5",
    ]
    assert wrong({"kept": True}, schema, {"kept": 1}), "1 and true are not the same"


def test_status_is_checked_under_its_own_path() -> None:
    schema = ResourceSchema(
        obj(spec=obj(a=STRING), status=obj(n={"type": "integer", "minimum": 1}))
    )
    old: dict[str, Any] = {"spec": {"a": 1}, "status": {"n": 1}}
    assert [
        str(each) for each in schema.validate_status({"spec": {"a": 1}, "status": {"n": 0}}, old)
    ] == ["status.n: Invalid value: 0: n in body should be greater than or equal to 1"]


FORMATS = {
    "ipv4": (["10.0.0.1"], ["10.0.0.256", "::1", ""]),
    "ipv6": (["::1"], ["10.0.0.1"]),
    "cidr": (["10.0.0.0/8", "fd00::/64"], ["10.0.0.0", "10.0.0.0/33"]),
    "uri": (["https://a.b/c?d", "/a"], ["a b", "", "a"]),
    "email": (["a@b.c", "A <a@b.c>"], ["a", "a@", "@b", "<a@b"]),
    "hostname": (["a.b-c", "x"], ["-a", "a..b", ""]),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    "uuid4": (["123e4567-e89b-42d3-a456-426614174000"], ["123e4567-e89b-12d3-a456-426614174000"]),
    "byte": (["aGk="], ["a", "%"]),
    "date": (["2024-02-29"], ["2023-02-29", "2024-2-9"]),
    "date-time": (["2024-02-29T23:59:59.5Z", "2024-01-01T00:00:00+01:00"], ["2024-02-30T00:00:00Z", "2024-01-01"]),
    "duration": (["1h2m", "22 ns", "-1.5s", "3 days"], ["x", "1"]),
    "mac": (["00:1b:63:84:45:e6", "001b.6384.45e6"], ["00:1b:63:84:45"]),
    "creditcard": (["4111 1111 1111 1111"], ["4111111111111112"]),
    "isbn": (["0321751043", "978-0321751041"], ["0321751044"]),
    "hexcolor": (["#fff", "00ff00"], ["#ff"]),
    "rgbcolor": (["rgb(1, 2,255)"], ["rgb(1,2,256)"]),
    "ssn": (["123-45-6789"], ["12-45-6789"]),
    "bsonobjectid": (["507f1f77bcf86cd799439011"], ["507f"]),
    "k8s-short-name": (["a-b"], ["A", "-a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    check = formats.check(name)
    assert check is not None
    good, bad = FORMATS[name]
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


def test_patterns_are_re2() -> None:
    assert patterns.matches("[[:alpha:]]+\\z", "1ab")
    for bad in ("(?=a)", "(a", "a**"):
        with pytest.raises(patterns.PatternError, match="error parsing regexp"):
            patterns.compiled(bad)


def test_lists_of_type_set_and_map() -> None:
    keys = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n", "p"]}
    schema = Node(obj(
        set={"type": "array", "items": STRING, "x-kubernetes-list-type": "set"},
        map={"type": "array", "items": obj(n=STRING, p=STRING), **keys},
    ))  # fmt: skip
    value = {
        "set": ["a", "b", "a", "a"],
        "map": [{"n": "x"}, {"n": "x", "p": "t"}, {"n": "x", "p": "t", "v": 1}],
    }
    assert [str(each) for each in lists.validate(value, schema)] == [
        'set[2]: Duplicate value: "a"',
        'map[2]: Duplicate value: {"n":"x","p":"t"}',
    ]


# --- fitting ------------------------------------------------------------------------------------------


def test_pruning_names_what_it_drops() -> None:
    schema = obj(
        spec=obj(
            a=STRING,
            any={"type": "object", "x-kubernetes-preserve-unknown-fields": True, **obj(known=obj(b=STRING))},
            map={"type": "object", "additionalProperties": obj(c=STRING)},
            list={"type": "array", "items": obj(d=STRING)},
            whole={"type": "object", "x-kubernetes-embedded-resource": True, **obj(spec=obj(e=STRING))},
        )
    )  # fmt: skip
    value = {
        "apiVersion": "v1", "kind": "K", "metadata": {"anything": 1}, "other": 1,
        "spec": {
            "a": "", "x": {"y": 1},
            "any": {"free": {"deep": 1}, "known": {"b": "", "z": 1}},
            "map": {"k": {"c": "", "z": 1}},
            "list": [{"d": ""}, {"d": "", "z": 1}],
            "whole": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"e": "", "z": 1}},
        },
    }  # fmt: skip
    unknown: list[str] = []
    fit.prune(value, Node(schema), unknown, root=True)
    assert unknown == [
        "other", "spec.any.known.z", "spec.list[1].z", "spec.map.k.z", "spec.whole.spec.z", "spec.x",
    ]  # fmt: skip
    assert value["spec"]["any"] == {"free": {"deep": 1}, "known": {"b": ""}}
    assert value["spec"]["whole"]["metadata"] == {"name": "p"}
    assert value["metadata"] == {"anything": 1}


def test_defaults_and_nulls() -> None:
    schema = ResourceSchema(
        obj(
            spec=obj(
                a={"type": "integer", "default": 1},
                b={"type": "string", "nullable": True, "default": "x"},
                c=STRING,
                d={"type": "string", "nullable": True},
                o={"default": {}, **obj(e={"type": "integer", "default": 2})},
                list={"type": "array", "items": obj(f={"type": "integer", "default": 3})},
                map={"type": "object", "additionalProperties": {"type": "integer", "default": 4}},
            )
        )
    )
    value: dict[str, Any] = {
        "spec": {"a": None, "b": None, "c": None, "d": None, "list": [{}], "map": {"k": None}}
    }
    schema.fit(value)
    assert value == {
        "spec": {"a": 1, "b": None, "d": None, "o": {"e": 2}, "list": [{"f": 3}], "map": {"k": 4}}
    }
    other: dict[str, Any] = {"spec": {}}
    schema.fit(other)
    other["spec"]["o"]["e"] = 9
    third: dict[str, Any] = {"spec": {}}
    schema.fit(third)
    assert third["spec"]["o"] == {"e": 2}, "defaults are shared by no two objects"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcde"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
scalars = st.sampled_from([
    STRING, {"type": "integer"}, {"type": "integer", "default": 1}, {"type": "string", "nullable": True},
    {"type": "string", "nullable": True, "default": "d"}, {"x-kubernetes-int-or-string": True},
])  # fmt: skip
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda found: obj(**found)),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(lambda found: {**obj(**found), "default": {}}),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=2).map(
            lambda found: {**obj(**found), "x-kubernetes-preserve-unknown-fields": True}
        ),
        inner.map(lambda found: {"type": "object", "additionalProperties": found}),
        inner.map(lambda found: {"type": "array", "items": found}),
    ),
    max_leaves=8,
)  # fmt: skip
roots = st.dictionaries(st.sampled_from("abcd"), schemas, max_size=4).map(
    lambda found: obj(**found)
)
objects = st.dictionaries(st.sampled_from("abcde"), json_values, max_size=5)


@settings(max_examples=150, deadline=None)
@given(roots, objects)
def test_fitting_is_idempotent(schema: dict[str, Any], value: dict[str, Any]) -> None:
    found = ResourceSchema(schema)
    found.fit(value)
    once = copy.deepcopy(value)
    unknown: list[str] = []
    found.fit(value, unknown)
    assert values.equal(value, once)
    assert unknown == []


@settings(max_examples=100, deadline=None)
@given(roots, objects)
def test_validation_takes_any_value_and_forgives_what_stays(
    schema: dict[str, Any], value: dict[str, Any]
) -> None:
    found = ResourceSchema(schema)
    found.validate_create(value)
    assert found.validate_update(copy.deepcopy(value), value) == []


# --- paths --------------------------------------------------------------------------------------------

CONDITIONS = {
    "metadata": {"labels": {"a.b/c": "d"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"}]},
}  # fmt: skip
PATHS = {
    ".status.conditions[1].type": "Synced",
    ".status.conditions[-1].type": "Synced",
    ".status.conditions[5].type": None,
    '.status.conditions[?(@.type=="Synced")].status': "False",
    ".status.conditions[?(@.type=='Ready')].status": "True",
    ".status.conditions[*].type": "Ready",
    ".status.conditions[1:].type": "Synced",
    ".metadata.labels.a\\.b/c": "d",
    ".metadata.labels['a\\.b/c']": "d",
    ".metadata.none.at.all": None,
    "..type": "Ready",
}


@pytest.mark.parametrize("path", PATHS)
def test_json_paths(path: str) -> None:
    assert jsonpath.first(CONDITIONS, path)[1] == PATHS[path]
