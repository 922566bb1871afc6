"""The front door against strangers: whatever bytes come, the answer is HTTP, never 500, and the next client is served."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any

import orjson
from apiserver_harness import (
    DEPLOYMENTS,
    MAPS,
    PODS,
    config_map,
    deployment,
    open_server,
    pod,
)
from fuzz_door import SAMPLES, Door, door, nothing_is_logged_as_unexpected, request
from hypothesis import given
from hypothesis import strategies as st

__all__ = ["door", "nothing_is_logged_as_unexpected"]

PLAIN = {"Content-Type": "application/json", "Accept": "application/json"}
CORPUS = [
    request("GET", MAPS + "/one", PLAIN),
    request("GET", PODS + "?limit=1&labelSelector=a%3Db&fieldSelector=metadata.name%3Done", PLAIN),
    request("PUT", MAPS + "/one", PLAIN, orjson.dumps(config_map("one", x="y"))),
    request("PATCH", MAPS + "/one", {"Content-Type": "application/merge-patch+json"}, b'{"data":{"a":"c"}}'),
    request("DELETE", MAPS + "/none", PLAIN, b'{"gracePeriodSeconds":0,"propagationPolicy":"Orphan"}'),
    request("GET", "/apis", {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}),
    request("GET", PODS, {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io", "Impersonate-User": "a"}),
    b"POST " + MAPS.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    request("GET", PODS + "/one/exec?command=x&stdout=1", {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}),
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A few valid requests, then cut, doubled, overwritten at some places."""
    wire = bytearray(b"".join(draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(wire)))
        end = min(len(wire), at + draw(st.integers(0, 20)))
        what = draw(st.sampled_from(["insert", "delete", "double", "replace"]))
        new = draw(
            st.one_of(
                st.binary(max_size=6), st.sampled_from([b"\r\n", b"\n", b"\0", b" ", b":", b"%"])
            )
        )
        if what == "insert":
            wire[at:at] = new
        elif what == "delete":
            del wire[at:end]
        elif what == "double":
            wire[at:at] = wire[at:end]
        else:
            wire[at : at + len(new)] = new
    return bytes(wire)


@given(st.binary(max_size=300), st.integers(0, 40))
@SAMPLES
def test_random_bytes(door: Door, wire: bytes, step: int) -> None:
    assert set(door.says(wire + b"\r\n\r\n", step)) <= {400, 431, 501}


@given(mutated(), st.integers(0, 60))
@SAMPLES
def test_mutated_requests(door: Door, wire: bytes, step: int) -> None:
    assert 500 not in door.says(wire, step)
    assert door.says(request("GET", "/version", {})) == [200]


SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.sampled_from(["a", "one", "1", "100m", "0", "-1", "2030-01-01T00:00:00Z", "v1", "Pod", ""]),
)  # fmt: skip
KEYS = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "generateName",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "uid",
        "resourceVersion",
        "deletionTimestamp",
        "managedFields",
        "data",
        "binaryData",
        "immutable",
        "spec",
        "status",
        "replicas",
        "selector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "template",
        "containers",
        "initContainers",
        "ephemeralContainers",
        "image",
        "env",
        "valueFrom",
        "ports",
        "containerPort",
        "protocol",
        "resources",
        "requests",
        "limits",
        "cpu",
        "volumes",
        "volumeMounts",
        "tolerations",
        "affinity",
        "securityContext",
        "livenessProbe",
        "httpGet",
        "port",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "conditions",
        "type",
        "op",
        "path",
        "value",
        "from",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "target",
        "deleteOptions",
        "preconditions",
        "gracePeriodSeconds",
        "rules",
        "subjects",
        "roleRef",
    ]
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
OPERATION = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]),
        "path": st.sampled_from(
            ["", "/", "/metadata/name", "/spec", "/spec/containers/0", "/spec/containers/-", "/data/a",
             "/metadata/labels", "/metadata", "/status/conditions/0", "/a~1b~2"]
        ),
        "from": st.sampled_from(["", "/metadata", "/spec/containers/0", "/nothing"]),
        "value": VALUE,
    }
)  # fmt: skip
PATHS = st.sampled_from(
    [MAPS, MAPS + "/one", PODS, PODS + "/one", PODS + "/one/status", PODS + "/one/resize", PODS + "/one/binding",
     PODS + "/one/ephemeralcontainers", PODS + "/one/eviction", PODS + "/one/log", PODS + "/one/nothing",
     DEPLOYMENTS, DEPLOYMENTS + "/one", DEPLOYMENTS + "/one/scale", DEPLOYMENTS + "/one/status", "/api/v1/nodes",
     "/api/v1/namespaces", "/api/v1/namespaces/default/services", "/api/v1/namespaces/default/secrets",
     "/api/v1/namespaces/default/serviceaccounts/default/token", "/api/v1/pods", "/apis/apps/v1", "/openapi/v3",
     "/apis/authentication.k8s.io/v1/tokenreviews", "/apis/authorization.k8s.io/v1/subjectaccessreviews",
     "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "/apis/batch/v1/namespaces/default/jobs",
     "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
     "/apis/networking.k8s.io/v1/namespaces/default/ingresses", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
     "/apis/certificates.k8s.io/v1/certificatesigningrequests", "/metrics", "/healthz/ping", "/"]
)  # fmt: skip
QUERY = st.dictionaries(
    st.sampled_from(
        ["limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector", "dryRun", "fieldValidation", "fieldManager", "force", "pretty", "timeoutSeconds", "includeObject", "propagationPolicy", "gracePeriodSeconds"]
    ),
    st.sampled_from(
        ["0", "1", "-1", "99999999999999999999", "", "All", "Strict", "Exact", "a in (b", "a=b,!c", "metadata.name=one",
         "spec.x!=y", "eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ", "%ff", "%00", "true", "Orphan", "Object"]
    ),
    max_size=3,
)  # fmt: skip
TYPES = st.sampled_from(
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/json-patch+json",
     "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "text/x", ""]
)  # fmt: skip
KINDS: list[dict[str, Any]] = [config_map("two"), pod("two"), deployment("two"), {}]


@given(
    st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "GET"]), PATHS, QUERY, TYPES,
    st.one_of(
        VALUE,
        st.lists(OPERATION, max_size=3),
        st.tuples(st.sampled_from(KINDS), st.dictionaries(KEYS, VALUE, max_size=3)).map(lambda two: two[0] | two[1]),
    ),
)  # fmt: skip
@SAMPLES
def test_well_formed_nonsense(
    door: Door, method: str, path: str, query: dict[str, str], content: str, body: Any
) -> None:
    try:
        data = b"" if method == "GET" else orjson.dumps(body)
    except orjson.JSONEncodeError:  # a lone surrogate
        return
    target = path + "?" + "&".join(f"{key}={value}" for key, value in query.items())
    answer = door.says(request(method, target.replace(" ", "%20"), {"Content-Type": content}, data))
    assert len(answer) == 1 and answer != [500], (method, target, content, data)


async def test_garbage_over_tls_leaves_the_server_well(tmp_path: Path) -> None:
    harness = await open_server(tmp_path)
    await harness.server.start()
    pki = harness.server.pki
    context = ssl.create_default_context(cafile=str(pki.ca.crt))
    context.load_cert_chain(pki.admin.crt, pki.admin.key)
    port = harness.server.port

    async def ask(wire: bytes, tls: ssl.SSLContext | None) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(wire)
        try:
            return await reader.read(65536)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async with asyncio.timeout(20):
        # The same in every run: one in five hundred begins like a ClientHello of SSL 2, and is waited for.
        chance = random.Random(5)
        junk = [chance.randbytes(200) + b"\r\n\r\n" for _ in range(20)]
        answers = await asyncio.gather(*(ask(wire, context) for wire in junk))
        assert all(answer.startswith(b"HTTP/1.1 400") for answer in answers)
        await asyncio.gather(*(ask(wire, None) for wire in junk))  # not even TLS
        assert b" 200 OK" in await ask(request("GET", "/readyz", {}), context)
    await harness.server.close()
    await harness.store.close()
