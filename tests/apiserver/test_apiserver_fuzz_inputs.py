"""Every decoder against strangers: YAML, protobuf, patches, selectors, continue tokens, paths and headers.

Where the door's own fuzzing sends bytes that are hardly HTTP, this sends right HTTP around wrong contents. Whatever comes,
the answer is a status below 500 and the next request is served; what is stored can still be listed afterwards.
"""

from __future__ import annotations

import base64
import struct
from random import Random
from typing import Any
from urllib.parse import quote

import orjson
from apiserver_harness import CONTENT, DEPLOYMENTS, MAPS, PODS, config_map, deployment, pod
from crd_harness import CRDS
from fuzz_door import SAMPLES, Door, door, nothing_is_logged_as_unexpected, request
from hypothesis import given
from hypothesis import strategies as st

from sampan.apiserver import protobuf
from sampan.kube import schema

__all__ = ["door", "nothing_is_logged_as_unexpected"]

JSON = {"Content-Type": "application/json"}
SERVICES = "/api/v1/namespaces/default/services"


def holds(door: Door, wire: bytes, *allowed: int) -> None:
    """One answer, not a server's error; the statuses that are `allowed` beside 2xx and 4xx."""
    (status,) = door.says(wire)
    assert status < 500 or status in allowed, (status, wire[:2000])


# --- YAML -------------------------------------------------------------------------------------------

DOCUMENTS = [
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  a: b\n",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: &m\n  name: y\n  labels: {a: b}\ndata: *m\n",
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: y}, data: {a: !!str 1, b: 0x1f, c: 1e3}}",
    "---\nkind: ConfigMap\n...\n---\nkind: ConfigMap\n",
    "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    "? [complex, key]\n: value\n",
    "data: |\n  text\n   more\n text\n",
    "<<: {kind: ConfigMap}\nmetadata: {name: 2030-01-01, labels: {on: yes, off: ~}}\n",
]
PIECES = st.sampled_from(
    ["&a ", "*a", "!!binary ", "!!python/object:os.system ", "<<: ", "? ", "- ", ": ", "\t", "\n", "---\n", "...\n", "%YAML 1.2\n",
     "{", "}", "[", "]", "|\n ", ">\n ", "#", "'", '"', "\\x00", "\ufeff", "\x00", "1e999", "0o777", ".nan", "~", "=", "2030-01-01T00:00:00Z"]
)  # fmt: skip


@st.composite
def yaml_text(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(DOCUMENTS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.one_of(PIECES, st.text(max_size=3)))
            + text[at + draw(st.integers(0, 3)) :]
        )
    return text.encode("utf-8", "surrogatepass")


@given(yaml_text(), st.sampled_from(["POST", "PUT", "PATCH", "DELETE"]))
@SAMPLES
def test_yaml(door: Door, body: bytes, method: str) -> None:
    content = CONTENT["apply"] if method == "PATCH" else "application/yaml"
    path = MAPS if method == "POST" else MAPS + "/y?fieldManager=x"
    holds(door, request(method, path, {"Content-Type": content}, body))


def test_a_bomb_of_aliases_is_refused(door: Door) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    body = "\n".join(levels).encode()
    assert door.says(request("POST", MAPS, {"Content-Type": "application/yaml"}, body)) == [400]


# --- protobuf ---------------------------------------------------------------------------------------

MESSAGES = [
    ("v1", "Pod", PODS),
    ("v1", "ConfigMap", MAPS),
    ("v1", "Service", SERVICES),
    ("apps/v1", "Deployment", DEPLOYMENTS),
    ("batch/v1", "Job", "/apis/batch/v1/namespaces/default/jobs"),
    ("networking.k8s.io/v1", "Ingress", "/apis/networking.k8s.io/v1/namespaces/default/ingresses"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRDS),
]
TEXTS = (b"", b"a", b"x.y", b"100m", b"\xff\xfe", b"v1", b"TCP", b"Always", b"/a", b"a" * 300)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, wire: int, payload: bytes) -> bytes:
    return varint(number << 3 | wire) + (varint(len(payload)) if wire == 2 else b"") + payload


def message(random: Random, name: str, depth: int) -> bytes:
    """A message of that type, some of its fields wrong."""
    out = b""
    for number, (_, kind) in protobuf._fields_of(name).items():
        if random.random() > (0.9 if depth < 2 else 0.25 if depth < 6 else 0.02):
            continue
        kind = kind.lstrip("*[")
        choice = random.random()
        if choice < 0.05:
            out += field(
                number, random.choice((0, 1, 2, 5)), random.choice(TEXTS)[:8].ljust(8, b"\1")
            )
        elif kind in protobuf._table():
            out += field(number, 2, message(random, kind, depth + 1))
        elif kind[0] == "{":
            inner = kind[1:]
            value = message(random, inner, depth + 1) if inner in protobuf._table() else b"x"
            out += field(number, 2, field(1, 2, random.choice(TEXTS)) + field(2, 2, value))
        elif choice < 0.6:
            out += field(number, 2, random.choice(TEXTS))
        elif choice < 0.95:
            out += field(number, 0, varint(random.choice((0, 1, 5, 2**31, 2**64 - 1))))
        else:
            out += field(number, 1, struct.pack("<d", random.random()))
    return out


@given(st.integers(0, 2**32), st.sampled_from(MESSAGES), st.integers(-1, 60), st.binary(max_size=4))
@SAMPLES
def test_protobuf(door: Door, seed: int, row: tuple[str, str, str], cut: int, junk: bytes) -> None:
    api_version, kind, path = row
    group, _, version = api_version.rpartition("/")
    name = schema.kinds()[f"{group}/{version}/{kind}"]
    raw = message(Random(seed), name, 0)
    if cut >= 0:  # bytes overwritten somewhere
        at = cut * len(raw) // 60
        raw = raw[:at] + junk + raw[at + len(junk) :]
    meta = field(1, 2, api_version.encode()) + field(2, 2, kind.encode())
    body = protobuf.MAGIC + field(1, 2, meta) + field(2, 2, raw)
    holds(door, request("POST", path, {"Content-Type": protobuf.MEDIA_TYPE}, body))


# --- patches ----------------------------------------------------------------------------------------

LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 70000), st.sampled_from(["", "a", "c", "x.y", "80", "50%", "100m"])
)  # fmt: skip
SPOTS = [
    "metadata", "labels", "annotations", "finalizers", "ownerReferences", "spec", "template", "containers", "env", "ports",
    "volumes", "name", "image", "containerPort", "key", "value", "replicas", "strategy", "type", "rollingUpdate", "selector",
    "matchLabels", "data", "status", "conditions", "$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers",
    "tolerations", "resources", "limits", "cpu", "managedFields", "uid", "kind", "apiVersion",
]  # fmt: skip
TREE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(SPOTS), inner, max_size=3)
    ),
    max_leaves=10,
)
POINTERS = st.lists(
    st.sampled_from([*SPOTS, "0", "-", "1", "~0", "~1", "~", "", "a~1b"]), max_size=5
).map(lambda parts: "/".join(["", *parts]))
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
            "path": POINTERS,
        },
        optional={"from": POINTERS, "value": TREE},
    ),
    max_size=4,
)
TARGETS = [
    MAPS + "/one", PODS + "/one", DEPLOYMENTS + "/one", DEPLOYMENTS + "/one/scale", DEPLOYMENTS + "/one/status",
    PODS + "/one/status", PODS + "/one/resize", PODS + "/one/ephemeralcontainers",
]  # fmt: skip
WRAPPED = st.sampled_from(["spec", "metadata", "status", "data", "spec.template.spec"])


@given(st.sampled_from(TARGETS), st.sampled_from(list(CONTENT.values())), OPERATIONS, TREE, WRAPPED)
@SAMPLES
def test_patches(
    door: Door, path: str, content: str, operations: list[Any], tree: Any, wrapped: str
) -> None:
    body: Any = operations
    if content != CONTENT["json"]:
        body = tree
        for key in reversed(wrapped.split(".")):
            body = {key: body}
    if content == CONTENT["apply"]:
        base = pod("one") if "/pods/" in path else deployment("one")
        body = {**(config_map("one") if path.startswith(MAPS) else base), **body}
    target = path + "?dryRun=All&fieldManager=fuzz&force=true"
    holds(door, request("PATCH", target.replace("&force=true", "") if content != CONTENT["apply"] else target,
                        {"Content-Type": content}, orjson.dumps(body)))  # fmt: skip


# --- what a query may say ---------------------------------------------------------------------------

SELECTOR = st.lists(
    st.sampled_from(["a", "b", "x.y/z", "=", "==", "!=", "!", "in", "notin", "(", ")", ",", " ", ">", "<", "1", "", "\\", "metadata.name",
                     "spec.nodeName", "status.phase", "one", "'", '"', "\x00", "é", "a" * 70]),
    max_size=8,
).map("".join)  # fmt: skip
NUMBER = st.sampled_from(
    ["", "0", "1", "-1", "1.5", "x", "1e3", "9" * 30, " 1", "0x1", "+1", "\u0661"]
)
BOOLEAN = st.sampled_from(["", "true", "false", "1", "0", "x", "True"])
QUERY = st.fixed_dictionaries(
    {},
    optional={
        "labelSelector": SELECTOR, "fieldSelector": SELECTOR, "limit": NUMBER, "resourceVersion": NUMBER,
        "resourceVersionMatch": st.sampled_from(["", "Exact", "NotOlderThan", "x"]), "sendInitialEvents": BOOLEAN,
        "allowWatchBookmarks": BOOLEAN, "timeout": st.sampled_from(["", "1s", "x", "-1s", "1h", "9" * 40 + "s", "0"]),
        "pretty": BOOLEAN, "dryRun": st.sampled_from(["", "All", "x"]), "includeObject": st.sampled_from(["", "None", "Object", "x"]),
    },
)  # fmt: skip
LISTED = [MAPS, PODS, SERVICES, DEPLOYMENTS, "/api/v1/pods", "/api/v1/nodes", "/api/v1/events", "/apis/events.k8s.io/v1/events",
          "/apis/batch/v1/jobs", "/api/v1/namespaces"]  # fmt: skip
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@given(st.sampled_from(LISTED), QUERY, st.booleans(), st.sampled_from(["GET", "DELETE"]))
@SAMPLES
def test_queries(door: Door, path: str, query: dict[str, str], table: bool, method: str) -> None:
    if method == "DELETE":
        query["dryRun"] = "All"
    text = "&".join(f"{key}={quote(value)}" for key, value in query.items())
    # A version of the future is waited for, and then refused with 504.
    accept = {"Accept": TABLE} if table else {}
    holds(door, request(method, f"{path}?{text}", {**JSON, **accept}), 504)


@given(
    st.one_of(
        st.binary(max_size=40),
        st.fixed_dictionaries(
            {},
            optional={
                "v": st.sampled_from(["meta.k8s.io/v1", "meta.k8s.io/v2", "", 1]),
                "rv": st.one_of(st.integers(-3, 2**70), st.text(max_size=3), st.none()),
                "start": st.one_of(st.text(max_size=12), st.sampled_from(["m", "../x", "/", "a/../../b", "\x00"])),
            },
        ).map(lambda token: orjson.dumps(token, option=orjson.OPT_NON_STR_KEYS) if fits(token) else b"{}"),
    ),
    st.sampled_from(LISTED),
)  # fmt: skip
@SAMPLES
def test_continue_tokens(door: Door, token: bytes, path: str) -> None:
    text = base64.urlsafe_b64encode(token).decode()
    holds(door, request("GET", f"{path}?limit=1&continue={quote(text)}", JSON), 504)


def fits(token: dict[str, Any]) -> bool:
    try:
        orjson.dumps(token)
    except TypeError:  # beyond 64 bits, or half a character
        return False
    return True


# --- paths and headers ------------------------------------------------------------------------------

SEGMENT = st.one_of(
    st.sampled_from(["api", "apis", "v1", "apps", "namespaces", "default", "pods", "one", "status", "proxy", "watch", "exec", "log", "scale",
                     "configmaps", "nodes", "openapi", "v2", "v3", "version", "metrics", "healthz", "..", ".", "", "%2e%2e", "%00", "%ff",
                     "a%2fb", "*", "?", "#", "namespaces:443", "https:one:80", "finalize", "token", "eviction", "binding"]),
    st.text(max_size=3).map(lambda text: quote(text, safe="")),
)  # fmt: skip
HEADER = st.sampled_from(
    ["Accept", "Accept-Encoding", "Authorization", "Content-Type", "Content-Encoding", "If-None-Match", "Impersonate-User",
     "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a%2Fb", "Range", "Expect", "Connection", "Upgrade", "Audit-ID",
     "X-Forwarded-For", "User-Agent", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol", "Traceparent", "Cookie"]
)  # fmt: skip
CONTENTS = st.one_of(
    st.sampled_from(["", "*/*", "application/json;q=0", "application/json;as=Table;v=v9;g=x", ";;;=,,", "gzip;q=x", "gzip", "Bearer ", "Bearer a.b.c",
                     "Basic Og==", '"x', "bytes=0-1", "100-continue", "websocket", "SPDY/3.1", "v4.channel.k8s.io", "system:masters", "a" * 5000,
                     "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf", "application/cbor"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12),
)  # fmt: skip


@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    st.lists(SEGMENT, max_size=9),
    st.dictionaries(HEADER, CONTENTS, max_size=3),
)
@SAMPLES
def test_paths_and_headers(
    door: Door, method: str, segments: list[str], headers: dict[str, str]
) -> None:
    head = [f"{method} /{'/'.join(segments)} HTTP/1.1".encode(), b"Host: x"]
    head += [f"{key}: {value}".encode("latin-1") for key, value in headers.items()]
    wire = b"\r\n".join(head) + b"\r\n\r\n"
    # Nodes and pods that nobody runs cannot be reached: 502 and 503 are what a proxy says then.
    for status in door.says(wire):
        assert status < 500 or status in (502, 503, 504), wire
    assert door.says(request("GET", "/version", {})) == [200]


def test_what_was_stored_meanwhile_can_be_read(door: Door) -> None:
    for path in LISTED:
        for accept in ("application/json", TABLE):
            assert door.says(request("GET", path, {"Accept": accept})) == [200]
