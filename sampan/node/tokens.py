"""Service account tokens for projected volumes: asked for once per pod and audience, renewed at 80 % of their life.

A token is bound to its pod (KEP-1205). The last one is kept in the node's cache, so that a pod can be started again
while the API is away. Old age alone renews a token, too: after 24 hours, whatever it would still be good for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from sampan.client.client import Client
from sampan.client.resources import SERVICEACCOUNTS
from sampan.kube.errors import ApiError
from sampan.kube.objects import parse_time
from sampan.node.cache import ObjectCache
from sampan.node.errors import VolumeError
from sampan.node.podspec import Object

DEFAULT_SECONDS = 3600
RENEW_AT = 0.8
LONGEST = 24 * 3600.0
PARALLEL = 4  # requests at once: more would only open more connections


class Token(NamedTuple):
    text: str
    issued: float
    expires: float

    def renew_at(self) -> float:
        life = self.expires - self.issued
        return self.issued + min(life * RENEW_AT, LONGEST)


class Tokens:
    def __init__(
        self, client: Client | None, cache: ObjectCache, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._slots = asyncio.Semaphore(PARALLEL)
        self._tokens: dict[str, dict[str, Token]] = {}  # by pod uid, then by request
        self._asking: dict[tuple[str, str], asyncio.Lock] = {}

    async def token(self, pod: Object, request: Object) -> str:
        """Raises VolumeError when there is none and none can be had."""
        uid = pod["metadata"]["uid"]
        key = (uid, f"{request.get('audience', '')}:{request.get('expirationSeconds', '')}")
        of_pod = self._tokens.setdefault(uid, {})
        async with self._asking.setdefault(key, asyncio.Lock()):
            held = of_pod.get(key[1]) or self._remembered(key)
            if held and self._clock() < held.renew_at():
                of_pod[key[1]] = held
                return held.text
            try:
                async with self._slots:
                    fresh = await self._request(pod, request)
            except (ApiError, OSError, TimeoutError) as error:
                if held:
                    return held.text
                account = pod["spec"].get("serviceAccountName") or "default"
                raise VolumeError(f"failed to fetch token for {account}: {error}") from error
            of_pod[key[1]] = fresh
            self._cache.put("token", *key, fresh._asdict())
            return fresh.text

    def next_renewal(self, uid: str) -> float:
        """When a token of the pod is due; 0: none is held."""
        held = self._tokens.get(uid)
        return min((token.renew_at() for token in held.values()), default=0.0) if held else 0.0

    def forget(self, uid: str) -> None:
        for request in self._tokens.pop(uid, {}):
            self._asking.pop((uid, request), None)
            self._cache.put("token", uid, request, None)

    def _remembered(self, key: tuple[str, str]) -> Token | None:
        found = self._cache.get("token", *key)
        return Token(**found) if found else None

    async def _request(self, pod: Object, request: Object) -> Token:
        if self._client is None:
            raise ConnectionError("this node has no API server")
        meta = pod["metadata"]
        spec: Object = {
            "audiences": [request["audience"]] if request.get("audience") else [],
            "expirationSeconds": request.get("expirationSeconds") or DEFAULT_SECONDS,
            "boundObjectRef": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": meta["name"],
                "uid": meta["uid"],
            },
        }
        answer = await self._client.create(
            SERVICEACCOUNTS,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
            meta["namespace"],
            name=pod["spec"].get("serviceAccountName") or "default",
            subresource="token",
        )
        status = answer["status"]
        expires = parse_time(status["expirationTimestamp"]).timestamp()
        return Token(status["token"], self._clock(), expires)
