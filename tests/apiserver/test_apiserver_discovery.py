"""Discovery: both forms tell the same, answers are revalidated, and the table's changes are seen."""

from __future__ import annotations

import gzip

import orjson
import pytest
import yaml

from sampan.apiserver.discovery import AGGREGATED_TYPE, Discovery
from sampan.apiserver.resources import Table, builtin
from sampan.apiserver.resources.model import resource
from sampan.client.transport import Request, Response
from sampan.kube.errors import ApiError

KUBECTL = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)


def get(discovery: Discovery, path: str, **headers: str) -> Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    response = discovery.respond(Request("GET", path, headers=named))
    assert response is not None
    return response


@pytest.fixture
def table() -> Table:
    return builtin()


@pytest.fixture
def discovery(table: Table) -> Discovery:
    return Discovery(table, "127.0.0.1:6443")


@pytest.mark.parametrize(
    ("accept", "root", "below"),
    [
        (KUBECTL, AGGREGATED_TYPE, "application/json"),
        ("application/json", "application/json", "application/json"),
        ("", "application/json", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json", "application/json"),
        ("application/json, " + KUBECTL, "application/json", "application/json"),
        ("application/json;q=0.5," + AGGREGATED_TYPE, AGGREGATED_TYPE, "application/json"),
        ("application/yaml", "application/yaml", "application/yaml"),
        (AGGREGATED_TYPE, AGGREGATED_TYPE, 406),
        ("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", 406, 406),
        ("application/json;g=meta.k8s.io;v=v1;as=Table", 406, 406),
        ("application/vnd.kubernetes.protobuf", 406, 406),
        ("text/html", 406, 406),
    ],
)
def test_which_form(discovery: Discovery, accept: str, root: str | int, below: str | int) -> None:
    for path, wanted in (
        ("/apis", root),
        ("/api", root),
        ("/apis/apps", below),
        ("/api/v1", below),
    ):
        if isinstance(wanted, str):
            response = get(discovery, path, accept=accept)
            assert response.headers["Content-Type"] == wanted
            assert yaml.safe_load(response.body)["kind"].startswith("API")
        else:
            with pytest.raises(ApiError, match="only the following media types") as refused:
                get(discovery, path, accept=accept)
            assert refused.value.code == wanted


def test_both_forms_tell_the_same(discovery: Discovery) -> None:
    legacy, aggregated = set(), set()
    for group in get(discovery, "/apis").json()["groups"]:
        for version in group["versions"]:
            listed = get(discovery, f"/apis/{version['groupVersion']}").json()
            for each in listed["resources"]:
                legacy.add((version["groupVersion"], each["name"], each["kind"], *each["verbs"]))
    response = get(discovery, "/apis", accept=KUBECTL)
    assert response.headers["Content-Type"] == AGGREGATED_TYPE
    for item in response.json()["items"]:
        for version in item["versions"]:
            place = f"{item['metadata']['name']}/{version['version']}"
            for each in version["resources"]:
                kind = each["responseKind"]["kind"]
                aggregated.add((place, each["resource"], kind, *each["verbs"]))
                for sub in each.get("subresources", ()):
                    name = f"{each['resource']}/{sub['subresource']}"
                    aggregated.add((place, name, sub["responseKind"]["kind"], *sub["verbs"]))
    assert legacy == aggregated
    assert len(legacy) > 60


def test_core(discovery: Discovery) -> None:
    versions = get(discovery, "/api").json()
    assert (versions["kind"], versions["versions"]) == ("APIVersions", ["v1"])
    listed = {each["name"]: each for each in get(discovery, "/api/v1").json()["resources"]}
    assert listed["pods"]["storageVersionHash"] == "xPOwRZ+Yhw8="  # as kube-apiserver says
    assert listed["pods"]["shortNames"] == ["po"]
    assert listed["serviceaccounts/token"]["group"] == "authentication.k8s.io"
    assert "namespaces" in listed and not listed["namespaces"]["namespaced"]
    items = get(discovery, "/api", accept=KUBECTL).json()["items"]
    assert [item["metadata"] for item in items] == [{}]


def test_revalidation_and_compression(discovery: Discovery) -> None:
    first = get(discovery, "/apis", accept=KUBECTL)
    again = get(discovery, "/apis", accept=KUBECTL, if_none_match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    packed = get(discovery, "/apis", accept=KUBECTL, accept_encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert isinstance(packed.body, bytes)
    assert gzip.decompress(packed.body) == first.body


def test_a_new_kind_is_seen(table: Table, discovery: Discovery) -> None:
    before = get(discovery, "/apis", accept=KUBECTL)
    row = resource("example.com", "v1", "boats", "Boat")
    table.add(row)
    after = get(discovery, "/apis", accept=KUBECTL)
    assert before.headers["ETag"] != after.headers["ETag"]
    listed = get(discovery, "/apis/example.com/v1").json()["resources"]
    assert [each["name"] for each in listed] == ["boats"]
    table.remove(row)
    with pytest.raises(ApiError) as caught:
        get(discovery, "/apis/example.com/v1")
    assert caught.value.code == 404


@pytest.mark.parametrize("path", ["/apis/nowhere", "/api/v2", "/apis/apps/v7", "/apis/core/v1"])
def test_what_is_not_there(discovery: Discovery, path: str) -> None:
    with pytest.raises(ApiError) as caught:
        get(discovery, path)
    assert caught.value.code == 404


def test_other_paths_are_not_ours(discovery: Discovery) -> None:
    assert discovery.respond(Request("GET", "/apis/apps/v1/deployments")) is None
    assert discovery.respond(Request("GET", "/healthz")) is None


def test_bytes_are_made_once(discovery: Discovery) -> None:
    assert get(discovery, "/api/v1").body is get(discovery, "/api/v1").body
    assert orjson.loads(get(discovery, "/api/v1").body)
