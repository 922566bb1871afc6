"""Leader election by a Lease: of several candidates one works, the others wait. The rules are client-go's.

The holder renews every `RETRY` seconds and gives up when it could not for `RENEW_DEADLINE`; others take a Lease that they
have not seen change for `LEASE_DURATION`. Since the wait of the others is longer than the holder's, two never work at once,
and since it is measured by each one's own clock from what it saw, clocks need not agree. A holder that stops in order hands
the Lease back, and who waits sees that on its watch at once.
(https://pkg.go.dev/k8s.io/client-go/tools/leaderelection)
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from sampan.client.client import Client
from sampan.client.errors import ClientConnectionError
from sampan.client.resources import LEASES
from sampan.kube import objects
from sampan.kube.errors import ApiError

log = logging.getLogger(__name__)

LEASE_DURATION = 15.0  # seconds
RENEW_DEADLINE = 10.0
RETRY = 2.0
JITTER = 1.2  # the wait of a candidate is up to so many times longer
NAMESPACE = "kube-system"

Object = dict[str, Any]


class LeaderElection:
    """One candidate for the Lease `name`. `identity` must differ between candidates, and between a candidate's lives."""

    def __init__(
        self,
        client: Client,
        name: str,
        identity: str,
        *,
        namespace: str = NAMESPACE,
        lease_duration: float = LEASE_DURATION,
        renew_deadline: float = RENEW_DEADLINE,
        retry: float = RETRY,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not lease_duration > renew_deadline > retry * JITTER:
            raise ValueError("lease_duration > renew_deadline > 1.2 * retry must hold")
        self.client = client
        self.name = name
        self.identity = identity
        self.namespace = namespace
        self.lease_duration = lease_duration
        self.renew_deadline = renew_deadline
        self.retry = retry
        self.monotonic = monotonic
        self._lease: Object | None = None  # as last seen
        self._seen = 0.0  # when it was first seen so
        self._renewed = (
            0.0  # when the last attempt that went well began: others may count from then
        )

    @property
    def holder(self) -> str:
        spec = (self._lease or {}).get("spec") or {}
        return spec.get("holderIdentity") or ""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` whenever this candidate leads, cancelled when it no longer does; until cancelled. What `work` raises
        ends the candidacy too."""
        while True:
            await self._acquire()
            log.info("%s: leading as %s", self.name, self.identity)
            try:
                async with asyncio.TaskGroup() as group:
                    working = group.create_task(_run(work))
                    await self._hold()
                    working.cancel()
            finally:
                await self._release()
            log.warning("%s: no longer leading", self.name)

    # Phases

    async def _acquire(self) -> None:
        while not await self._try():
            await self._change()

    async def _hold(self) -> None:
        """Renew; return when that has failed for too long, or somebody else has the Lease."""
        while True:
            await asyncio.sleep(self.retry)
            left = self._renewed + self.renew_deadline - self.monotonic()
            try:
                async with asyncio.timeout(max(left, 0.0)):
                    mine = await self._try()
            except TimeoutError:
                mine = False
            if not mine and (self.holder != self.identity or left <= self.retry):
                return

    async def _change(self) -> None:
        """Wait for a change of the Lease, or for its end, or a while when it cannot be read."""
        spec = (self._lease or {}).get("spec") or {}
        duration = spec.get("leaseDurationSeconds") or self.lease_duration
        left = self._seen + duration - self.monotonic() if self.holder else 0.0
        pause = self.retry * random.uniform(1.0, JITTER)
        try:
            async with asyncio.timeout(max(left, pause)):
                watch: Any = self.client.watch(
                    LEASES,
                    self.namespace,
                    resource_version=(self._lease or {})
                    .get("metadata", {})
                    .get("resourceVersion", ""),
                    field_selector=f"metadata.name={self.name}",
                    bookmarks=False,
                )
                async with aclosing(watch) as events:
                    async for event in events:
                        self._see(event.object)
                        if event.type == "DELETED" or not self.holder:
                            return
                await asyncio.sleep(pause)  # the watch ended by itself
        except TimeoutError:
            pass
        except (ApiError, ClientConnectionError) as error:
            log.debug("%s: cannot be watched: %s", self.name, error)
            await asyncio.sleep(pause)

    # One attempt

    async def _try(self) -> bool:
        """Take or renew the Lease if it may be taken. False also when the API cannot be reached."""
        began = self.monotonic()
        try:
            if await self._take():
                self._renewed = began
                return True
            return False
        except (ApiError, ClientConnectionError) as error:
            if not (isinstance(error, ApiError) and error.code == 409):  # else another was quicker
                log.warning("%s: the lease cannot be taken: %s", self.name, error)
            return False

    async def _take(self) -> bool:
        now = objects.micro_now()
        spec: Object = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self.lease_duration) or 1,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        }
        try:
            lease = await self.client.get(LEASES, self.name, self.namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            metadata = {"name": self.name, "namespace": self.namespace}
            lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata}
            self._see(await self.client.create(LEASES, {**lease, "spec": spec}, self.namespace))
            return True
        self._see(lease)
        before = lease.get("spec") or {}
        if self.holder and self.holder != self.identity:
            duration = before.get("leaseDurationSeconds") or self.lease_duration
            if self._seen + duration > self.monotonic():
                return False
        if self.holder == self.identity:
            spec["acquireTime"] = before.get("acquireTime") or now
            spec["leaseTransitions"] = before.get("leaseTransitions") or 0
        else:
            spec["leaseTransitions"] = (before.get("leaseTransitions") or 0) + 1
        self._see(await self.client.update(LEASES, {**lease, "spec": spec}))
        return True

    def _see(self, lease: Object) -> None:
        if self._lease is None or lease.get("spec") != self._lease.get("spec"):
            self._seen = self.monotonic()
        self._lease = lease

    async def _release(self) -> None:
        """Hand the Lease back, so that others need not wait for its end. Also when cancelled; never for long."""
        if self._lease is None or self.holder != self.identity:
            return
        now = objects.micro_now()
        spec = {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": self._lease["spec"].get("leaseTransitions") or 0,
        }
        try:
            async with asyncio.timeout(self.retry):
                self._see(await self.client.update(LEASES, {**self._lease, "spec": spec}))
        except (ApiError, ClientConnectionError, TimeoutError) as error:
            log.info("%s: the lease was not handed back: %s", self.name, error)


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
