"""Decoding: every body is an object or one well-worded 400, and the quick check agrees with the careful walk."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import conform, decode, schema
from sampan.kube.conform import Mismatch
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK

DEPLOYMENT = GVK("apps", "v1", "Deployment")
POD = GVK("", "v1", "Pod")
CONFIG_MAP = GVK("", "v1", "ConfigMap")
CUSTOM = GVK("stable.example.com", "v1", "CronTab")
JSON = "application/json"
YAML = "application/yaml"


def refusal(body, gvk=CONFIG_MAP, content_type=JSON, strict="Strict"):
    with pytest.raises(ApiError) as caught:
        decode.decode(body, content_type, gvk, strict=strict)
    assert (caught.value.code, caught.value.reason) == (400, "BadRequest")
    return caught.value.message


@pytest.mark.parametrize(
    ("gvk", "value", "text"),
    [
        (
            DEPLOYMENT,
            {"spec": {"replicas": "x"}},
            'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string '
            "into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            DEPLOYMENT,
            {"spec": {"replicas": 1.5}},
            "cannot unmarshal number 1.5 into Go struct field",
        ),
        (DEPLOYMENT, {"spec": {"replicas": 2**31}}, "cannot unmarshal number 2147483648"),
        (DEPLOYMENT, {"spec": {"replicas": True}}, "cannot unmarshal bool"),
        (
            POD,
            {"spec": {"containers": [{"name": 3}]}},
            "cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (POD, {"spec": {"containers": {}}}, "of type []v1.Container"),
        (
            POD,
            {"spec": []},
            "cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (CONFIG_MAP, {"data": {"a": 1}}, "ConfigMap.data of type string"),
        (CONFIG_MAP, {"data": "a"}, "of type map[string]string"),
        (CONFIG_MAP, {"binaryData": {"a": "not base64!"}}, "illegal base64 data at input byte 3"),
        (
            CONFIG_MAP,
            {"metadata": {"creationTimestamp": "yesterday"}},
            'parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse',
        ),
        (
            POD,
            {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}},
            "quantities must match the regular expression",
        ),
    ],
)
def test_wrong_types_are_named_as_go_names_them(gvk, value, text):
    assert text in refusal(orjson.dumps(value), gvk)


def test_strict_errors_come_together():
    body = b'{"spec":{"foo":1,"template":{"spec":{"containers":[{"name":"a","foo":1}]}},"replicas":1,"replicas":2}}'
    assert refusal(body, DEPLOYMENT) == (
        'Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: '
        'unknown field "spec.foo", unknown field "spec.template.spec.containers[0].foo", '
        'duplicate field "spec.replicas"'
    )


def test_strict_errors_stand_as_in_the_document():
    body = (
        b'{"spec":{"unknown1":1,"unknownDupe":1,"unknownDupe":2,"paused":true,"paused":false,"template":{"spec":'
        b'{"containers":[{"name":"a","unknownNested":{"x":1,"x":2},"imagePullPolicy":"Always","imagePullPolicy":"Never"}]}}}}'
    )
    assert refusal(body, DEPLOYMENT).partition("strict decoding error: ")[2].split(", ") == [
        'unknown field "spec.unknown1"',
        'unknown field "spec.unknownDupe"',
        'duplicate field "spec.paused"',
        'unknown field "spec.template.spec.containers[0].unknownNested"',
        'duplicate field "spec.template.spec.containers[0].imagePullPolicy"',
    ]


def test_warnings_instead_and_the_fields_are_dropped():
    body = b'{"data":{"a":"1","a":"2"},"foo":1}'
    obj, warnings = decode.decode(body, JSON, CONFIG_MAP, strict="Warn")
    assert obj == {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2"}}
    assert warnings == ['duplicate field "data.a"', 'unknown field "foo"']
    assert decode.decode(body, JSON, CONFIG_MAP)[1] == []


def test_values_are_normalised():
    body = orjson.dumps(
        {
            "metadata": {"creationTimestamp": None, "labels": {"a": None}},
            "spec": {
                "containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}],
                "volumes": None,
            },
            "status": {"startTime": "2026-01-02T03:04:05.9+02:00"},
        }
    )
    obj, _ = decode.decode(body, JSON, POD, strict="Strict")
    assert obj["metadata"] == {"labels": {"a": ""}}
    assert obj["spec"] == {
        "containers": [{"resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}]
    }
    assert obj["status"]["startTime"] == "2026-01-02T01:04:05Z"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"NaN",
        b'{"data":{"a":NaN}}',
        b'{"data":{"a":1e999}}',
        b"\xff\xfe",
        b'{"data":{"a":"\xff"}}',
        b'{"data":{"a":"\\ud800"}}',
        b'{"kind":1}',
        b'{"apiVersion":{}}',
        b'{"kind":"Pod"}',
        b'{"apiVersion":"v2"}',
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
    ],
)
@pytest.mark.parametrize("strict", ["Ignore", "Strict"])
def test_hostile_json_is_a_bad_request(body, strict):
    assert refusal(body, strict=strict)


@pytest.mark.parametrize(
    "body",
    [
        b"a: [",
        b"- " * 300_000,
        b"? " * 300_000,
        b"a: &a\n  b: *a\n",
        b"\xff",
        b"a: \x00",
        b"a: .nan",
        b"? [a]\n: b\n",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (i + 1, i + 1, *([i] * 9))
            for i in range(97, 106)
        ),
        b"a: &a {x: 1, y: 2}\n"
        + b"".join(
            b"%c: &%c {<<: [*%c,*%c,*%c]}\n" % (i + 1, i + 1, i, i, i) for i in range(97, 120)
        ),
    ],
)
def test_hostile_yaml_is_a_bad_request(body):
    assert refusal(body, content_type=YAML)


def test_yaml_reads_as_kubernetes_reads_it():
    body = b"""
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data: {port: "22:22", day: 2026-01-01, on: "x", base: &b "y", again: *b}
immutable: yes
"""
    obj, _ = decode.decode(body, YAML, CONFIG_MAP, strict="Strict")
    assert obj["data"] == {
        "port": "22:22",
        "day": "2026-01-01",
        "true": "x",
        "base": "y",
        "again": "y",
    }
    assert obj["immutable"] is True


def test_yaml_duplicates_are_strict_errors():
    message = refusal(b'data:\n  x: "1"\n  x: "2"\n', content_type=YAML)
    assert 'line 3: key "x" already set in map' in message


def test_another_media_type_is_415():
    with pytest.raises(ApiError) as caught:
        decode.decode(b"{}", "text/plain", CONFIG_MAP)
    assert caught.value.code == 415


def test_custom_kinds_keep_their_fields():
    body = b'{"metadata":{"name":"a","foo":1},"spec":{"any":[1,{"x":null}]}}'
    obj, warnings = decode.decode(body, JSON, CUSTOM, strict="Warn")
    assert obj["spec"] == {"any": [1, {"x": None}]}
    assert warnings == ['unknown field "metadata.foo"']


def test_patched_objects_are_fitted_too():
    obj = {"spec": {"replicas": 1, "foo": 1}}
    name = schema.for_gvk(DEPLOYMENT)
    assert decode.check_types(obj, name) == ['unknown field "spec.foo"']
    assert obj == {"spec": {"replicas": 1}}
    for spec, text, restoring in (
        ({"replicas": "x"}, "cannot unmarshal string", "unrecognized type: int32"),
        ({"template": []}, "cannot unmarshal array", "cannot restore struct from: slice"),
        ({"selector": {"matchLabels": "x"}}, "unmarshal string", "cannot restore map from string"),
        (
            {"selector": {"matchExpressions": {}}},
            "cannot unmarshal object",
            "cannot restore slice from map",
        ),
        ({"strategy": {"type": 1}}, "cannot unmarshal number", "cannot convert int64 to string"),
    ):
        with pytest.raises(Mismatch, match=text) as wrong:
            decode.check_types({"spec": spec}, name)
        assert wrong.value.restoring == restoring


@pytest.mark.parametrize(
    ("body", "media_type", "shown"),
    [
        (b"kind: Pod", JSON, "(6b696e643a20506f64)"),
        (b'{"kind": "Pod", "metadata": {"name": ', JSON, '({"kind": "Pod", "metadata": {" ...)'),
        (b"", JSON, "(<empty>)"),
        (b"[1]", JSON, "(5b315d)"),
        (b'{"kind": 1}', JSON, '({"kind": 1})'),
        (b"a: [", "application/yaml", "(613a205b)"),
    ],
)
def test_what_nobody_can_read_is_shown(body: bytes, media_type: str, shown: str):
    with pytest.raises(ApiError) as caught:
        decode.decode(body, media_type, DEPLOYMENT)
    assert caught.value.code == 400 and caught.value.message.endswith(shown)
    assert caught.value.message.startswith(
        "the object provided is unrecognized (must be of type Deployment): "
    )


# --- properties -------------------------------------------------------------------------------------


def of_node(node, depth=0):
    """Values that fit a schema node, with the odd null, unknown field and wrong type mixed in."""
    odd = st.sampled_from([None, 1, "x", {}, [], True, 1.5])
    if depth > 4:
        return odd
    if name := node.get("$ref"):
        properties = schema.fields(name)
        if not properties:
            return st.one_of(st.sampled_from(["1", "100m", 5, "2026-01-01T00:00:00Z"]), odd)
        chosen = st.lists(st.sampled_from(sorted(properties)), max_size=3, unique=True)
        return chosen.flatmap(
            lambda fields: st.fixed_dictionaries(
                {f: of_node(properties[f], depth + 1) for f in fields}
            )
        )
    match node.get("type"):
        case "array":
            return st.lists(of_node(node["items"], depth + 1), max_size=2)
        case "object":
            return st.dictionaries(st.sampled_from("ab"), odd, max_size=2)
        case "string":
            return st.one_of(st.just("aGk="), odd)
        case "integer":
            return st.one_of(st.integers(-(2**63), 2**63), odd)
    return odd


@given(of_node({"$ref": "io.k8s.api.core.v1.Pod"}))
def test_conforming_settles(value):
    if not isinstance(value, dict):
        return
    try:
        conform.conform(value, "io.k8s.api.core.v1.Pod")
    except conform.Mismatch:
        assert not conform.checker("io.k8s.api.core.v1.Pod")(value)
        return
    settled = orjson.dumps(value)
    assert conform.conform(value, "io.k8s.api.core.v1.Pod") == []
    assert orjson.dumps(value) == settled


@given(st.binary(max_size=40))
def test_any_bytes_decode_or_are_a_bad_request(body):
    for content_type in (JSON, YAML):
        try:
            obj, _ = decode.decode(body, content_type, CONFIG_MAP, strict="Strict")
        except ApiError as error:
            assert error.code == 400
        else:
            assert obj["kind"] == "ConfigMap"


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(-9, 9), st.text("ab", max_size=2)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(st.tuples(st.sampled_from("abc"), inner), max_size=4).map(tuple),
        ),
        max_leaves=12,
    ),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_duplicates_are_found_exactly_when_there_are_some(tree, separators):
    """A tuple stands for an object that may hold a key twice."""
    found = 0

    def text(node):
        nonlocal found
        if isinstance(node, tuple):
            found += len(node) - len({key for key, _ in node})
            inner = [f"{json.dumps(key)}{separators[1]}{text(item)}" for key, item in node]
            return "{" + separators[0].join(inner) + "}"
        if isinstance(node, list):
            return "[" + separators[0].join(map(text, node)) + "]"
        return json.dumps(node)

    body = ('{"spec":' + text(tree) + "}").encode()
    _, warnings = decode.decode(body, JSON, CUSTOM, strict="Warn")
    assert bool(warnings) == bool(found)
