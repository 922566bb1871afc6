"""The verbs of the client on the wire: paths, queries, content types, errors, retries, watches."""

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing

import pytest
from client_api import config_map, status

from sampan.client.client import Client, path_of
from sampan.client.http import HTTPTransport
from sampan.client.inprocess import InProcess
from sampan.client.kubeconfig import Kubeconfig
from sampan.client.lines import LineSplitter
from sampan.client.resources import CONFIGMAPS, DEPLOYMENTS, NODES, PODS
from sampan.client.transport import Request, Response, User
from sampan.kube.errors import ApiError


def test_paths_of_core_groups_and_subresources():
    assert path_of(NODES) == "/api/v1/nodes"
    assert path_of(PODS, "ns", "a", "status") == "/api/v1/namespaces/ns/pods/a/status"
    assert path_of(DEPLOYMENTS, "ns") == "/apis/apps/v1/namespaces/ns/deployments"


async def test_create_get_update_delete(client):
    made = await client.create(CONFIGMAPS, config_map("a", k="1"))
    assert made["metadata"]["uid"]
    made["data"] = {"k": "2"}
    await client.update(CONFIGMAPS, made)
    assert (await client.get(CONFIGMAPS, "a", "default"))["data"] == {"k": "2"}
    with pytest.raises(ApiError) as conflict:
        await client.update(CONFIGMAPS, made)
    assert (conflict.value.code, conflict.value.reason) == (409, "Conflict")
    await client.delete(CONFIGMAPS, "a", "default")
    with pytest.raises(ApiError) as missing:
        await client.get(CONFIGMAPS, "a", "default")
    assert missing.value.reason == "NotFound"
    assert missing.value.message == 'configmaps "a" not found'
    assert missing.value.details["name"] == "a"


async def test_list_in_pages_names_the_kind_of_its_items(client, served):
    for number in range(5):
        served.api.write(config_map(f"c{number}"))
    first = await client.list(CONFIGMAPS, "default", limit=2)
    assert (len(first.items), first.remaining) == (2, 3)
    assert first.items[0]["kind"] == "ConfigMap"
    assert first.items[0]["apiVersion"] == "v1"
    names = [obj["metadata"]["name"] for obj in first.items]
    token = first.continue_
    while token:
        page = await client.list(CONFIGMAPS, "default", limit=2, continue_=token)
        names += [obj["metadata"]["name"] for obj in page.items]
        token = page.continue_
    assert names == [f"c{number}" for number in range(5)]
    assert page.resource_version == str(served.api.revision)


async def test_selectors_reach_the_server_unharmed(client, served):
    await client.list(
        CONFIGMAPS, label_selector="a in (b,c),d=e+f", field_selector="metadata.name=x"
    )
    query = served.api.requests[-1][2]
    assert query["labelSelector"] == "a in (b,c),d=e+f"
    assert query["fieldSelector"] == "metadata.name=x"


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("merge", "application/merge-patch+json"),
        ("json", "application/json-patch+json"),
        ("strategic", "application/strategic-merge-patch+json"),
        ("apply", "application/apply-patch+yaml"),
    ],
)
async def test_patch_content_types(client, served, kind, content_type):
    served.api.write(config_map("a"))
    await client.patch(
        CONFIGMAPS, "a", {"data": {"k": "v"}}, "default", kind=kind, field_manager="m", force=True
    )
    method, _, query, headers, body = served.api.requests[-1]
    assert (method, headers["Content-Type"]) == ("PATCH", content_type)
    assert (query["fieldManager"], query["force"]) == ("m", "true")
    assert json.loads(body) == {"data": {"k": "v"}}


async def test_delete_options(client, served):
    served.api.write(config_map("a"))
    await client.delete(
        CONFIGMAPS, "a", "default", uid="u", resource_version="7", propagation="Foreground", grace=0
    )
    assert json.loads(served.api.requests[-1][4]) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
        "propagationPolicy": "Foreground",
        "gracePeriodSeconds": 0,
    }


def retrying(served):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    return Client(HTTPTransport(Kubeconfig(served.url)), sleep=sleep), waits


async def test_a_busy_server_is_asked_again_when_that_does_no_harm(served):
    client, waits = retrying(served)
    served.api.write(config_map("a"))
    busy = (429, {"Retry-After": "2"}, status(429, "TooManyRequests", "slow down"))
    served.api.answers.extend([busy, busy])
    assert (await client.get(CONFIGMAPS, "a", "default"))["metadata"]["name"] == "a"
    assert waits == [2.0, 2.0]
    served.api.answers.append(busy)
    with pytest.raises(ApiError) as refused:
        await client.create(CONFIGMAPS, config_map("b"))
    assert refused.value.reason == "TooManyRequests"
    served.api.answers.append((503, {}, status(503, "ServiceUnavailable", "gone away")))
    with pytest.raises(ApiError):
        await client.get(CONFIGMAPS, "a", "default")
    assert waits == [2.0, 2.0]
    await client.close()


async def test_retries_end(served):
    client, waits = retrying(served)
    busy = (503, {"Retry-After": "600"}, status(503, "ServiceUnavailable", "starting"))
    served.api.answers.extend([busy] * 20)
    with pytest.raises(ApiError) as refused:
        await client.get(CONFIGMAPS, "a", "default")
    assert refused.value.details["retryAfterSeconds"] == 600
    assert waits == [10.0] * 5  # never longer than 10 s each
    await client.close()


async def test_an_error_that_is_no_status_object(client, served):
    served.api.answers.append((502, {}, "<html>bad gateway</html>"))
    with pytest.raises(ApiError) as error:
        await client.get(CONFIGMAPS, "a", "default")
    assert error.value.code == 502
    assert "bad gateway" in error.value.message


async def test_nobody_listens(served):
    await served.stop()
    client = Client(HTTPTransport(Kubeconfig(served.url)))
    with pytest.raises(ConnectionError, match=rf"{served.url}: .*refused"):
        await client.get(CONFIGMAPS, "a", "default")
    await client.close()


async def test_connections_are_used_again(client, served):
    served.api.write(config_map("a"))
    peers = set()
    original = served.api.handle

    async def spy(request):
        peers.add(request.transport.get_extra_info("peername"))
        return await original(request)

    served.api.handle = spy
    await served.stop()
    await served.start()
    for _ in range(5):
        await client.get(CONFIGMAPS, "a", "default")
    assert len(peers) == 1


async def test_watch_yields_events_and_ends_with_410(client, served):
    served.api.write(config_map("a"))
    seen = []
    async with asyncio.timeout(10):
        async with aclosing(
            client.watch(CONFIGMAPS, "default", resource_version=str(served.api.revision))
        ) as events:
            served.api.write(config_map("a", k="ü"))
            served.api.remove("a")
            async for event in events:
                seen.append((event.type, event.object["data"].get("k")))
                if len(seen) == 2:
                    break
    assert seen == [("MODIFIED", "ü"), ("DELETED", "ü")]
    served.api.compact()
    with pytest.raises(ApiError) as gone:
        async for _ in client.watch(CONFIGMAPS, "default", resource_version="1"):
            pass
    assert (gone.value.code, gone.value.reason) == (410, "Expired")


async def test_closing_a_watch_frees_the_server(client, served):
    events = client.watch(CONFIGMAPS, resource_version=str(served.api.revision))
    served.api.write(config_map("a"))
    async with asyncio.timeout(10):
        await anext(events)
        assert len(served.api.watches) == 1
        await events.aclose()
        await served.api.left.wait()
    assert not served.api.watches


async def test_a_cut_watch_is_a_connection_error(client, served):
    events = client.watch(CONFIGMAPS, resource_version=str(served.api.revision))
    served.api.write(config_map("a"))
    async with asyncio.timeout(10):
        await anext(events)
        served.api.cut()
        with pytest.raises(ConnectionError, match=served.url):
            await anext(events)


def test_lines_in_any_pieces():
    text = b'{"a":1}\n\n{"b":2}\n{"c"'
    for size in range(1, len(text) + 1):
        splitter = LineSplitter()
        lines = []
        for start in range(0, len(text), size):
            lines += splitter.feed(text[start : start + size])
        assert lines == [b'{"a":1}', b'{"b":2}']
        assert splitter.feed(b":3}\n") == [b'{"c":3}']


def test_a_line_without_end_is_refused():
    splitter = LineSplitter(longest=100)
    splitter.feed(b"x" * 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        splitter.feed(b"x")


async def test_in_process_as_a_user():
    class Handler:
        async def handle(self, request: Request) -> Response:
            assert request.user is not None
            body = json.dumps({"metadata": {"name": request.user.name, "path": request.path}})
            return Response(200, {}, body.encode())

    client = Client(InProcess(Handler(), User("system:kube-scheduler", ("system:masters",))))
    found = await client.get(PODS, "a", "ns")
    assert found["metadata"] == {
        "name": "system:kube-scheduler",
        "path": "/api/v1/namespaces/ns/pods/a",
    }


async def test_in_process_too_a_read_is_asked_again_when_the_server_says_later():
    asked: list[str] = []
    waited: list[float] = []

    class Busy:
        async def handle(self, request: Request) -> Response:
            asked.append(request.path)
            if len(asked) == 1:
                return Response(429, {"Retry-After": "2"}, b"{}")
            return Response(200, {}, b'{"metadata":{}}')

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    client = Client(InProcess(Busy(), User("u")), sleep=sleep)
    await client.get(PODS, "a", "ns")
    assert len(asked) == 2
    assert waited == [2]


def test_users_are_hashable_and_compare_by_value():
    one = User("u", ["b", "a"], extra={"scopes": ["x"]})
    two = User("u", ("b", "a"), extra=(("scopes", ("x",)),))
    assert one == two
    assert hash(one) == hash(two)
    assert one.extra_map() == {"scopes": ["x"]}


def test_the_client_does_not_import_aiohttp():
    code = (
        "import sys, sampan.client.client, sampan.client.informer, sampan.client.events, "
        "sampan.client.http, sampan.client.kubeconfig, sampan.client.inprocess; "
        "sys.exit(' '.join(m for m in ('aiohttp', 'yaml', 'yarl') if m in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
