"""What the API server says to bad input: the HTTP status, `reason` and field that Kubernetes gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from space import Space

Ask = Callable[..., tuple[int, dict[str, Any]]]
MERGE, STRATEGIC, JSON_PATCH = (
    f"application/{name}+json" for name in ("merge-patch", "strategic-merge-patch", "json-patch")
)


@pytest.fixture(scope="module")
def ask(cluster: Cluster, space: Space) -> Ask:
    """`ask(method, path, body)` as the admin, raw: (HTTP status, the answer). `{ns}` in a path is the file's namespace."""

    def send(
        method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        status, answer = cluster.request(
            method, path.replace("{ns}", space.name), data, content_type
        )
        return status, json.loads(answer or b"{}")

    return send


def refused(
    answer: tuple[int, dict[str, Any]], code: int, reason: str, *words: str
) -> dict[str, Any]:
    """The Status of an answer that has to be a refusal with these words."""
    status = answer[1]
    assert (answer[0], status.get("reason")) == (code, reason), status
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code)
    for word in words:
        assert word in status["message"], status["message"]
    return status


def fields(status: dict[str, Any]) -> set[str]:
    return {cause["field"] for cause in status["details"]["causes"]}


def pod(name: str = "bad", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "box", "image": "box:wasm"}], **spec},
    }


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


PODS = "/api/v1/namespaces/{ns}/pods"
MAPS = "/api/v1/namespaces/{ns}/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{ns}/deployments"


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod()["spec"]},
        },
    }


# Bodies


def test_unknown_fields(ask: Ask, space: Space) -> None:
    made = pod(sail="red")
    made["spec"]["containers"][0]["mast"] = 1
    refused(
        ask("POST", f"{PODS}?fieldValidation=Strict", made), 400, "BadRequest",
        "strict decoding error", 'unknown field "spec.sail"', 'unknown field "spec.containers[0].mast"',
    )  # fmt: skip
    message = space.kubectl_fails("create", "-f", "-", stdin=json.dumps(made))
    assert 'unknown field "spec.sail"' in message
    code, answer = ask("POST", f"{PODS}?fieldValidation=Ignore&dryRun=All", made)
    assert code == 201 and "sail" not in answer["spec"]
    done = space.cluster.run(
        "kubectl",
        "-n",
        space.name,
        "create",
        "--validate=warn",
        "--dry-run=server",
        "-f",
        "-",
        stdin=json.dumps(made),
    )
    assert 'Warning: unknown field "spec.sail"' in done.stderr


def test_duplicate_fields(ask: Ask) -> None:
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","name":"y"},"data":{}}'
    refused(
        ask("POST", f"{MAPS}?fieldValidation=Strict", body), 400, "BadRequest",
        "strict decoding error", 'duplicate field "metadata.name"',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pod(hostNetwork="yes"), ["cannot be handled as a Pod", "hostNetwork"]),
        (pod(containers={"name": "box"}), ["cannot be handled as a Pod", "spec.containers"]),
        (pod(terminationGracePeriodSeconds="soon"), ["terminationGracePeriodSeconds"]),
        ({**pod(), "metadata": {"name": 7}}, ["metadata.name"]),
        ({**pod(), "metadata": {"name": "x", "labels": ["a"]}}, ["metadata.labels"]),
        ({**pod(), "spec": 5}, ["spec"]),
    ],
)
def test_wrong_types(ask: Ask, body: dict[str, Any], words: list[str]) -> None:
    refused(ask("POST", PODS, body), 400, "BadRequest", *words)


def test_what_is_no_object(ask: Ask) -> None:
    refused(ask("POST", PODS, b""), 400, "BadRequest")
    refused(ask("POST", PODS, b"{"), 400, "BadRequest")
    refused(ask("POST", PODS, b"[1]"), 400, "BadRequest")
    # The path says what is meant; so only what is in it can be missing.
    refused(
        ask("POST", PODS, b'{"apiVersion":"v1","metadata":{}}'),
        422,
        "Invalid",
        "name or generateName is required",
    )
    refused(ask("POST", PODS, config_map("x")), 400, "BadRequest", "ConfigMap")
    refused(ask("POST", PODS, b"name: \xff\xfe", "application/yaml"), 400, "BadRequest")
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"\xff\xfe"}}'
    code, answer = ask("POST", f"{MAPS}?dryRun=All", body)
    if code == 201:  # Go's JSON decoder replaces what is no UTF-8
        assert answer["data"]["a"] == "\ufffd\ufffd"
    else:
        refused((code, answer), 400, "BadRequest")
    refused(
        ask("POST", PODS, b"<pod/>", "application/xml"),
        415,
        "UnsupportedMediaType",
        "application/json",
    )


def test_bodies_that_are_too_large(ask: Ask) -> None:
    large = config_map("large", data={"a": "x" * 4_000_000})
    status = refused(ask("POST", MAPS, large), 413, "RequestEntityTooLarge")
    assert "limit" in status["message"]
    medium = config_map("large", data={"a": "x" * 1_100_000})
    status = refused(ask("POST", MAPS, medium), 422, "Invalid", "Too long")
    assert fields(status) == {""} or fields(status) == {"[]"}, status
    deep = (
        b'{"apiVersion":"v1","kind":"ConfigMap","metadata":'
        + b'{"a":' * 100_000
        + b"1"
        + b"}" * 100_001
    )
    refused(ask("POST", MAPS, deep), 400, "BadRequest")


# Validation


@pytest.mark.parametrize(
    ("made", "field", "words"),
    [
        (pod("X"), "metadata.name", 'Invalid value: "X": a lowercase RFC 1123 subdomain must consist of'),
        (pod("x" * 254), "metadata.name", "must be no more than 253 characters"),
        (pod(containers=[]), "spec.containers", "Required value"),
        (pod(containers=[{"name": "a"}]), "spec.containers[0].image", "Required value"),
        (pod(containers=[{"name": "A_", "image": "x"}]), "spec.containers[0].name", "RFC 1123 label"),
        (pod(containers=[{"name": "a", "image": "x"}] * 2), "spec.containers[1].name", 'Duplicate value: "a"'),
        (pod(restartPolicy="Sometimes"), "spec.restartPolicy", 'supported values: "Always", "OnFailure", "Never"'),
        (
            pod(containers=[{"name": "a", "image": "x", "ports": [{"containerPort": 70000}]}]),
            "spec.containers[0].ports[0].containerPort",
            "must be between 1 and 65535",
        ),
        (
            pod(containers=[{"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
            "spec.containers[0].volumeMounts[0].name",
            'Not found: "v"',
        ),
        (
            pod(
                containers=[
                    {
                        "name": "a",
                        "image": "x",
                        "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
                    }
                ]
            ),
            "spec.containers[0].resources.requests",
            "must be less than or equal to cpu limit of 1",
        ),
        ({**pod(), "metadata": {"name": "x", "labels": {"a b": ""}}}, "metadata.labels", '"a b"'),
    ],
)  # fmt: skip
def test_invalid_pods(ask: Ask, made: dict[str, Any], field: str, words: str) -> None:
    status = refused(ask("POST", PODS, made), 422, "Invalid", words)
    assert field in fields(status)
    assert status["details"]["kind"] == "Pod"


def test_bad_quantities(ask: Ask) -> None:
    made = pod()
    made["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "much"}}
    refused(
        ask("POST", PODS, made), 400, "BadRequest", "quantities must match the regular expression"
    )


def test_fields_that_cannot_change(ask: Ask, space: Space) -> None:
    assert ask("POST", DEPLOYMENTS, deployment("fixed"))[0] == 201
    patch = {
        "spec": {
            "selector": {"matchLabels": {"app": "other"}},
            "template": {"metadata": {"labels": {"app": "other"}}},
        }
    }
    status = refused(
        ask("PATCH", f"{DEPLOYMENTS}/fixed", patch, MERGE), 422, "Invalid", "field is immutable"
    )
    assert fields(status) == {"spec.selector"}
    space.start("wasm", "fixed", "sleep")
    patch = {"spec": {"containers": [{"name": "box", "env": [{"name": "A", "value": "b"}]}]}}
    status = refused(
        ask("PATCH", f"{PODS}/fixed", patch, STRATEGIC),
        422,
        "Invalid",
        "pod updates may not change fields other than",
    )
    assert fields(status) == {"spec"}
    status = refused(
        ask("PATCH", f"{PODS}/fixed", {"metadata": {"uid": "other"}}, MERGE), 409, "Conflict"
    )
    assert "UID" in status["message"]
    refused(
        ask("PATCH", f"{PODS}/fixed", {"metadata": {"name": "other"}}, MERGE),
        400,
        "BadRequest",
        "name",
    )
    frozen = config_map("frozen", data={"a": "b"}, immutable=True)
    assert ask("POST", MAPS, frozen)[0] == 201
    status = refused(ask("PATCH", f"{MAPS}/frozen", {"data": {"a": "c"}}, MERGE), 422, "Invalid")
    assert fields(status) == {"data"}
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "fixed"}, "spec": {"ports": [{"port": 80}]},
    }  # fmt: skip
    services = "/api/v1/namespaces/{ns}/services"
    assert ask("POST", services, service)[0] == 201
    status = refused(
        ask("PATCH", f"{services}/fixed", {"spec": {"clusterIP": "10.43.9.9", "clusterIPs": ["10.43.9.9"]}}, MERGE),
        422, "Invalid", "may not change once set",
    )  # fmt: skip
    assert "spec.clusterIPs[0]" in fields(status)


# Patches


def test_patches_that_do_not_apply(ask: Ask) -> None:
    assert ask("POST", MAPS, config_map("target", data={"a": "b"}))[0] == 201
    place = f"{MAPS}/target"
    refused(
        ask("PATCH", place, [{"op": "test", "path": "/data/a", "value": "x"}], JSON_PATCH),
        422,
        "Invalid",
    )
    refused(
        ask("PATCH", place, [{"op": "remove", "path": "/data/none"}], JSON_PATCH), 422, "Invalid"
    )
    refused(ask("PATCH", place, [{"op": "fly", "path": "/data"}], JSON_PATCH), 422, "Invalid")
    refused(ask("PATCH", place, b"{", JSON_PATCH), 400, "BadRequest")
    refused(ask("PATCH", place, b"{", MERGE), 400, "BadRequest")
    refused(ask("PATCH", place, {"data": {"a": 5}}, MERGE), 422, "Invalid", "patch", "data")
    refused(ask("PATCH", place, {"data": []}, STRATEGIC), 422, "Invalid")
    refused(ask("PATCH", place, {}, "application/json"), 415, "UnsupportedMediaType", JSON_PATCH)
    refused(ask("PATCH", f"{MAPS}/none", {}, MERGE), 404, "NotFound")
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"a": "c"}}
    refused(ask("PATCH", place, stale, MERGE), 409, "Conflict", "the object has been modified")
    assert ask("GET", place)[1]["data"] == {"a": "b"}


# Reads


def test_watches_from_the_future_and_the_past(ask: Ask) -> None:
    status = refused(
        ask("GET", f"{MAPS}?resourceVersion=999999999"),
        504,
        "Timeout",
        "Too large resource version",
    )
    causes = status["details"]["causes"]
    assert causes == [
        {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    ]
    # A watch waits for the future to come, for as long as it was asked to (API concepts, "Unavailable resource versions").
    assert ask("GET", f"{MAPS}?watch=1&resourceVersion=999999999&timeoutSeconds=1") == (200, {})
    refused(ask("GET", f"{MAPS}?watch=1&resourceVersion=soon"), 400, "BadRequest")
    refused(ask("GET", f"{MAPS}?limit=1&continue=nonsense"), 400, "BadRequest", "continue")
    refused(ask("GET", f"{MAPS}?limit=many"), 400, "BadRequest")
    refused(ask("GET", f"{MAPS}?labelSelector=a%20b%20c"), 400, "BadRequest")
    refused(
        ask("GET", f"{MAPS}?fieldSelector=data.a%3Db"),
        400,
        "BadRequest",
        "is not a known field selector",
    )
    code, answer = ask("GET", f"{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")
    assert code == 200 or (code, answer["reason"]) == (410, "Expired")


def test_what_is_not_there_or_not_allowed(ask: Ask) -> None:
    assert ask("GET", "/api/v1/nothing")[0] == 404
    assert ask("GET", "/apis/example.org/v1")[0] == 404
    refused(ask("GET", f"{PODS}/nobody"), 404, "NotFound", 'pods "nobody" not found')
    refused(ask("PUT", PODS, pod()), 405, "MethodNotAllowed")
    refused(
        ask(
            "POST",
            MAPS,
            config_map("target2", data={"a": "b"})
            | {"metadata": {"name": "x", "namespace": "other"}},
        ),
        400,
        "BadRequest",
        "namespace",
    )
    refused(
        ask("POST", "/api/v1/namespaces/nowhere/configmaps", config_map("x")),
        404,
        "NotFound",
        'namespaces "nowhere" not found',
    )
    refused(ask("DELETE", "/api/v1/namespaces/kube-system"), 403, "Forbidden")
    assert ask("POST", MAPS, config_map("guarded"))[0] == 201
    refused(
        ask("DELETE", f"{MAPS}/guarded", {"preconditions": {"uid": "x"}}),
        409,
        "Conflict",
        "Precondition failed",
    )
    refused(
        ask("POST", MAPS, config_map("guarded")),
        409,
        "AlreadyExists",
        'configmaps "guarded" already exists',
    )
    refused(ask("PUT", f"{MAPS}/guarded", config_map("other")), 400, "BadRequest", "name")


def test_the_server_is_well_after_all_this(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    assert all(part["restarts"] == 0 for part in cluster.status()["parts"].values())
