"""A request leaves no cycles behind: the server's process seldom collects garbage (`memory.seldom_collect`)."""

from __future__ import annotations

import gc
from collections import Counter

import orjson
import pytest
from apiserver_harness import ADMIN, MAPS, PODS, Harness, api, config_map, pod, service_account
from memory_door import exchange

__all__ = ["api"]

REQUESTS = 40


def wire(method: str, path: str, obj: object = None, content: str = "application/json") -> bytes:
    body = b"" if obj is None else orjson.dumps(obj)
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("what", "status"),
    [
        (lambda n: wire("POST", MAPS, config_map(f"m{n}")), b"201"),
        (lambda n: wire("POST", PODS, pod(f"p{n}")), b"201"),
        (lambda n: wire("POST", PODS, pod(f"P{n}")), b"422"),
        (lambda n: wire("POST", MAPS, config_map("there")), b"409"),
        (lambda n: wire("GET", f"{MAPS}/there"), b"200"),
        (lambda n: wire("GET", f"{MAPS}/none-{n}"), b"404"),
        (lambda n: wire("GET", f"{MAPS}?labelSelector=a%3D{n}"), b"200"),
        (lambda n: wire("PUT", f"{MAPS}/there", config_map("there", n=str(n))), b"200"),
        (
            lambda n: wire(
                "PATCH", f"{MAPS}/there", {"data": {"n": str(n)}}, "application/merge-patch+json"
            ),
            b"200",
        ),
    ],
)
async def test_a_request_leaves_no_cycles_behind(api: Harness, what: object, status: bytes) -> None:
    assert callable(what)
    await service_account(api)
    await api.call("POST", MAPS, config_map("there"))
    door = api.server.http.door
    await exchange(door, [what(0)], ADMIN)  # what is imported and remembered once
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        seen = await exchange(door, [what(number) for number in range(1, REQUESTS + 1)], ADMIN)
        gc.collect()
        found = Counter(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert seen.seen.count(b"HTTP/1.1 " + status) == REQUESTS, seen.seen[:400]
    assert found.total() < REQUESTS, found.most_common(10)
