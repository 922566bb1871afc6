"""The on-disk cache, and objects that are fetched once and watched while used."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

from node_pods import container, make_pod

from sampan.node.cache import ObjectCache
from sampan.node.references import Ref, References, of_pod
from sampan.node.tokens import Token, Tokens


async def test_what_is_put_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node" / "cache.db"
    cache = ObjectCache(path)
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(cache.run())
        cache.put("pod", "ns", "a", {"n": 1})
        cache.put("pod", "ns", "b", {"n": 2})
        assert cache.get("pod", "ns", "a") == {"n": 1}
        await cache.flush()
        cache.put("pod", "ns", "a", None)
        cache.put("pod", "ns", "b", {"n": 3})
        writer.cancel()
    cache.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = ObjectCache(path)
    assert again.load("pod") == [{"n": 3}]
    again.close()


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"not a database at all" * 100)
    cache = ObjectCache(path)
    assert cache.load("pod") == []
    cache.close()


def test_references_of_a_pod() -> None:
    pod = make_pod(
        container(
            env=[
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
            ],
            envFrom=[{"configMapRef": {"name": "c2"}}],
        ),
        volumes=[
            {"name": "1", "secret": {"secretName": "s2"}},
            {"name": "2", "projected": {"sources": [{"configMap": {"name": "c3"}}]}},
        ],
        imagePullSecrets=[{"name": "s3"}],
    )
    assert of_pod(pod) == {
        *(Ref("secret", "harbour", f"s{n}") for n in (1, 2, 3)),
        *(Ref("configmap", "harbour", f"c{n}") for n in (1, 2, 3)),
    }


async def test_without_an_api_server_the_cached_copy_serves(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "cache.db")
    cache.put("secret", "harbour", "chest", {"data": {"k": "v"}})
    references = References(None, cache, lambda uid: None)
    async with asyncio.TaskGroup() as group:
        await references.hold("u", {Ref("secret", "harbour", "chest")}, group)
    assert references.get(Ref("secret", "harbour", "chest")) == {"data": {"k": "v"}}
    references.release("u")
    assert references.get(Ref("secret", "harbour", "chest")) is None
    cache.close()


class Issuer:
    """The part of a client that gives tokens."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.away = False

    async def create(self, gvr: Any, obj: dict[str, Any], namespace: str, **where: str) -> Any:
        if self.away:
            raise ConnectionError("away")
        self.asked.append(obj)
        return {
            "status": {
                "token": f"t{len(self.asked)}",
                "expirationTimestamp": "2027-01-15T09:00:00Z",
            }
        }


async def test_tokens_are_renewed_at_four_fifths_and_outlive_the_api(tmp_path: Path) -> None:
    now = 1_800_000_000.0  # an hour before the token ends
    issuer, cache = Issuer(), ObjectCache(tmp_path / "cache.db")
    tokens = Tokens(issuer, cache, lambda: now)  # type: ignore[arg-type]
    pod, request = make_pod(serviceAccountName="crew"), {"path": "token", "expirationSeconds": 3600}
    assert await tokens.token(pod, request) == "t1"
    assert await tokens.token(pod, request) == "t1"
    assert tokens.next_renewal(pod["metadata"]["uid"]) == now + 2880
    assert issuer.asked[0]["spec"]["boundObjectRef"]["uid"] == pod["metadata"]["uid"]
    now += 2881
    assert await tokens.token(pod, request) == "t2"
    issuer.away = True
    fresh = Tokens(issuer, cache, lambda: now)  # type: ignore[arg-type]
    assert await fresh.token(pod, request) == "t2", "from the cache, after a restart"
    cache.close()


def test_a_token_of_a_year_is_renewed_after_a_day() -> None:
    assert Token("t", 0.0, 365 * 86400.0).renew_at() == 86400.0
