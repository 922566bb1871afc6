"""Hostile input: path tricks, requests in requests, bodies and patches made to cost much. Nothing gets in, memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import time

import pytest
from apiserver_harness import ADMIN, CONTENT, Harness
from security_harness import (
    CORE,
    ENCODED,
    api,
    bind,
    token,
)

__all__ = ["api"]


# --- paths -----------------------------------------------------------------------------------------------

TRICKS = (
    "/api/v1/namespaces/default/../kube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/../../kube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/../secrets/treasure",
    "/api/v1/namespaces/default%2f..%2fkube-system/secrets/treasure",
    "/api/v1/namespaces/default/configmaps/..%2fsecrets%2ftreasure",
    "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/treasure",
    "/api/v1/namespaces/default%00/secrets/treasure",
    "/api/v1/namespaces/default/secrets/treasure%00",
    "/api/v1/namespaces/default/secrets%2ftreasure",
    "/api/v1/namespaces/default/secrets/treasure/",
    "/api/v1/namespaces/default/secrets/treasure/status",
    "/api/v1/namespaces/default//secrets/treasure",
    "/api/v1//namespaces/default/secrets/treasure",
    "//api/v1/namespaces/default/secrets/treasure",
    "/./api/v1/namespaces/default/secrets/treasure",
    "/API/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/SECRETS/treasure",
    "/api/v1/namespaces/default/secrets;x=y/treasure",
    "/api/v1/watch/namespaces/default/secrets/treasure",
    "/api/v1/watch/secrets",
    "/api/v1/proxy/namespaces/default/secrets/treasure",
    "/api/v1/secrets/",
    "/api/v1/secrets?fieldSelector=metadata.name%3Dtreasure",
    "/api/v1/namespaces//secrets/treasure",
    "/api/v1/namespaces/%2a/secrets",
    "/version/../api/v1/namespaces/default/secrets/treasure",
    "/healthz/..;/api/v1/namespaces/default/secrets/treasure",
    "/openapi/v3/../../api/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/secrets/treasure?watch=false",
    "/api/v1/namespaces/default/configmaps/public/../../secrets/treasure?as=x",
    "/%61pi/v1/namespaces/default/secrets/treasure",
    "/api/v1/namespaces/default/%73ecrets/treasure",
    "/api/v1/namespaces/%64efault/secrets/treasure",
)


async def raw(api: Harness, wire: bytes) -> bytes:
    """What the server says to these bytes over TLS, without a client certificate."""
    context = ssl.create_default_context(cafile=str(api.server.pki.ca.crt))
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port, ssl=context)
    writer.write(wire)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_paths_are_read_once_and_judged_as_they_are_served(api: Harness) -> None:
    """Whoever may read ConfigMaps only tries every spelling of a Secret; the administrator is the control."""
    await bind(api, "view", "system:serviceaccount:default:default")
    bearer = (await token(api)).encode()
    tail = (
        b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        + bearer
        + b"\r\n\r\n"
    )
    assert (
        b" 200 "
        in (await raw(api, b"GET /api/v1/namespaces/default/configmaps/public" + tail))[:20]
    )
    for trick in TRICKS:
        for target in (trick, f"https://127.0.0.1{trick}"):
            answer = await raw(api, b"GET " + target.encode() + tail)
            status = int(answer[9:12]) if answer else 400
            assert status in (400, 403, 404, 405), (target, answer[:200])
            assert ENCODED.encode() not in answer, target
    found = await api.send("GET", f"{CORE}/%73ecrets/treasure", user=ADMIN)
    assert ENCODED.encode() in await found.read()


async def test_two_requests_do_not_hide_in_one(api: Harness) -> None:
    """Request smuggling: whatever is ambiguous about a body's length ends the connection."""
    second = b"GET /api/v1/namespaces/default/secrets/treasure HTTP/1.1\r\nHost: x\r\n\r\n"
    start = b"POST /version HTTP/1.1\r\nHost: x\r\n"
    last = second.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    control = await raw(api, start + b"Content-Length: 0\r\n\r\n" + last)
    assert control.count(b"HTTP/1.1 ") == 2  # two plain ones are two
    for head in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length : 5\r\n",
        b"X: y\r\n Content-Length: 5\r\n",
        b"Impersonate-User: a\rImpersonate-Group: system:masters\r\n",
    ):
        answer = await raw(api, start + head + b"\r\n" + last)
        assert ENCODED.encode() not in answer
        assert answer.count(b"HTTP/1.1 ") <= 1, (head, answer)
        assert b" 200 " not in answer[:20]


# --- bodies ----------------------------------------------------------------------------------------------

MEMORY = 96 * 1024  # KiB that a hostile body may cost at most: a body's limit is 3 MiB


def laughs(depth: int = 40, width: int = 10) -> bytes:
    lines = ['a0: &a0 ["lol"]']
    for level in range(1, depth):
        inner = ", ".join(f"*a{level - 1}" for _ in range(width))
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines).encode()


def merged_laughs(depth: int = 40) -> bytes:
    lines = ["a0: &a0 {k0: v}"]
    for level in range(1, depth):
        inner = ", ".join(f"{{k{level}_{n}: *a{level - 1}}}" for n in range(9))
        lines.append(f"a{level}: &a{level}\n  <<: [*a{level - 1}, {inner}]")
    return "\n".join(lines).encode()


NESTED = 1_000_000
HOSTILE: dict[str, tuple[str, bytes]] = {
    "billion laughs": ("application/yaml", laughs()),
    "billion laughs by merge keys": ("application/yaml", merged_laughs()),
    "an anchor of itself": ("application/yaml", b"a: &a [*a, *a]"),
    "deep YAML": ("application/yaml", b"[" * NESTED),
    "deep YAML blocks": ("application/yaml", b"- " * 100_000 + b"x"),
    "deep JSON arrays": ("application/json", b"[" * NESTED + b"]" * NESTED),
    "deep JSON objects": (
        "application/json",
        b'{"a":' * (NESTED // 2) + b"1" + b"}" * (NESTED // 2),
    ),
    "deep JSON in its place": (
        "application/json",
        b'{"metadata":{"name":"x","annotations":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_002,
    ),
    "a number without end": (
        "application/json",
        b'{"metadata":{"name":"x"},"a":' + b"9" * 2_000_000 + b"}",
    ),
    "deep protobuf": (
        "application/vnd.kubernetes.protobuf",
        b"k8s\x00" + b"\x12\xff\xff\x03" * 100_000,
    ),
    "YAML with a Python object": (
        "application/yaml",
        b"a: !!python/object/apply:os.system ['true']",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bodies_are_refused_at_once_and_cost_little(api: Harness, name: str) -> None:
    content, body = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    answer = await api.send("POST", f"{CORE}/configmaps", body, content=content)
    assert answer.status in (400, 413, 415, 422), (answer.status, await answer.read())
    assert time.monotonic() - began < 20  # it ends: on a busy machine too
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert len(await answer.read()) < 64 * 1024  # and is not thrown back at everyone who reads logs
    assert (await api.send("GET", f"{CORE}/configmaps/public")).status == 200


@pytest.mark.parametrize("kind", CONTENT.values())
async def test_hostile_patches(api: Harness, kind: str) -> None:
    deep = b'{"data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    copies = json.dumps(
        [{"op": "add", "path": "/metadata/annotations", "value": {"a": "x" * 100}}]
        + [
            {"op": "copy", "from": "/metadata", "path": f"/metadata/annotations/a{n}"}
            for n in range(60)
        ]
    ).encode()
    for body in (deep, b"[" * 500_000, copies):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = await api.send("PATCH", f"{CORE}/configmaps/public", body, content=kind)
        assert answer.status in (400, 413, 415, 422), (answer.status, (await answer.read())[:300])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert (await api.send("GET", f"{CORE}/configmaps/public")).status == 200


async def test_what_is_too_large_is_not_taken_in(api: Harness) -> None:
    bearer = (await token(api)).encode()
    head = (
        b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer " + bearer + b"\r\n"
    )
    answer = await raw(api, head + b"Content-Length: 99999999999\r\n\r\n")
    assert int(answer[9:12]) in (400, 413)
    answer = await raw(
        api, b"GET /version HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 400_000 + b"\r\n\r\n"
    )
    assert not answer or int(answer[9:12]) in (400, 413, 431)
