"""OpenAPI: documents are whole, say what kubectl looks for, and name operations as the generated clients do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import kubernetes.client
import orjson
import pytest

from sampan.apiserver.openapi import OpenAPI
from sampan.apiserver.openapi.operations import group_title, path_items
from sampan.apiserver.resources import builtin
from sampan.client.transport import Request
from sampan.kube.errors import ApiError

TABLE = builtin()
OPENAPI = OpenAPI(TABLE)


def fetch(path: str, **headers: str) -> Any:
    address, _, query = path.partition("?")
    pairs = [(key, value) for key, _, value in (each.partition("=") for each in query.split("&"))]
    response = OPENAPI.respond(Request("GET", address, pairs, headers))
    assert response is not None
    return response


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):  # JSONSchemaProps has a field of that name
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_index_names_every_group_version() -> None:
    paths = fetch("/openapi/v3").json()["paths"]
    assert "api/v1" in paths
    assert "apis/apps/v1" in paths
    for place, entry in paths.items():
        response = fetch(entry["serverRelativeURL"])
        assert response.status == 200, place
        assert "immutable" in response.headers["Cache-Control"]


def test_every_reference_resolves_v3() -> None:
    for place in fetch("/openapi/v3").json()["paths"]:
        document = fetch(f"/openapi/v3/{place}").json()
        schemas = document["components"]["schemas"]
        for reference in references(document):
            name = reference.removeprefix("#/components/schemas/")
            assert name in schemas, (place, name)


def test_every_reference_resolves_v2() -> None:
    document = fetch("/openapi/v2").json()
    for reference in set(references(document)):
        assert reference.removeprefix("#/definitions/") in document["definitions"]
    assert document["swagger"] == "2.0"


def test_old_hash_is_redirected() -> None:
    response = fetch("/openapi/v3/api/v1?hash=0")
    assert response.status == 301
    assert response.headers["Location"].startswith("/openapi/v3/api/v1?hash=")


def test_the_hash_of_a_document_is_its_tag() -> None:
    address = fetch("/openapi/v3").json()["paths"]["apis/apps/v1"]["serverRelativeURL"]
    response = fetch(address)
    assert response.headers["ETag"] == f'"{address.partition("=")[2]}"'
    assert fetch(address, **{"if-none-match": response.headers["ETag"]}).status == 304


def test_patch_says_what_dry_run_and_validation_need() -> None:
    document = fetch("/openapi/v3/apis/apps/v1").json()
    path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    patch = document["paths"][path]["patch"]
    names = {each["name"] for each in patch["parameters"]}
    assert {"dryRun", "fieldValidation", "fieldManager", "force"} <= names
    assert patch["x-kubernetes-group-version-kind"] == {
        "group": "apps",
        "version": "v1",
        "kind": "Deployment",
    }
    assert patch["x-kubernetes-action"] == "patch"
    schema = document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]
    containers = schema["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"


def test_swagger_as_protobuf_for_kubectl() -> None:
    asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    answer = fetch("/openapi/v2", accept=asked)
    assert answer.headers["Content-Type"] == asked.replace("@", ".")
    # Document.swagger (1), Document.info (2) with title (1) and version (2).
    assert answer.body.startswith(b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.36")
    # Definitions.additional_properties: a NamedSchema of this name.
    assert b"\x0a\x1aio.k8s.api.core.v1.PodSpec\x12" in answer.body
    with pytest.raises(ApiError) as caught:
        fetch("/openapi/v3", accept=asked)
    assert caught.value.code == 406


def test_documents_are_kept_and_revalidated() -> None:
    first = fetch("/openapi/v2")
    again = OPENAPI.respond(
        Request("GET", "/openapi/v2", headers={"if-none-match": first.headers["ETag"]})
    )
    assert again is not None
    assert again.status == 304


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def test_operations_are_named_as_the_python_client_names_them() -> None:
    """The client is generated from kube-apiserver's own document: class per group version, method per operation."""
    missing = []
    for group, versions in TABLE.groups():
        for version in versions:
            title = group_title(group, version)
            api = getattr(kubernetes.client, f"{title}Api", None)
            assert api is not None, title
            known = {
                name.replace("_", "") for name, _ in inspect.getmembers(api, inspect.isfunction)
            }
            for row in TABLE.in_version(group, version):
                for item in path_items(row):
                    for operation in item.operations:
                        method = operation.id.replace(title, "", 1).lower()
                        if method not in known:
                            missing.append(operation.id)
    assert missing == []


def test_operation_ids_are_unique() -> None:
    document = fetch("/openapi/v2").json()
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(ids) == len(set(ids))


def test_custom_schemas_are_included() -> None:
    from sampan.apiserver.resources.model import resource

    table = builtin()
    table.add(resource("example.com", "v1", "boats", "Boat"))
    definition = {"type": "object", "properties": {"spec": {"type": "object"}}}

    class Schemas:
        def __call__(self, group: str, version: str) -> dict[str, dict[str, object]]:
            return {"com.example.v1.Boat": definition} if group == "example.com" else {}

        def fingerprint(self, group: str, version: str) -> str:
            return ""

    openapi = OpenAPI(table, Schemas())
    response = openapi.respond(Request("GET", "/openapi/v2"))
    assert response is not None
    assert orjson.loads(response.body)["definitions"]["com.example.v1.Boat"] == definition
