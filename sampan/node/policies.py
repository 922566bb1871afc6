"""Feeds the node's policy table with NetworkPolicies, pods and namespaces, and holds a pod's containers back until it holds.

Without a policy this is one watch and nothing else; pods of all nodes and namespaces are watched while there is a policy. No
container of a pod starts before the kernel has what the policies known here say of that pod's address: `admit` waits for
it, and a table that nft refuses keeps the pod waiting. Changes that come together are applied together.

Policies and namespaces are kept in the node's cache: a reboot without the API server isolates its pods as before, with the
pods of other nodes as strangers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from sampan.client.client import Client
from sampan.client.informer import Informer
from sampan.client.resources import NAMESPACES, NETWORKPOLICIES, PODS
from sampan.network.errors import NetworkError
from sampan.network.policies import Pod, pod_of
from sampan.network.services import is_ipv4
from sampan.node.cache import ObjectCache
from sampan.node.errors import ContainerError
from sampan.node.podspec import Object
from sampan.node.quietevents import QuietRecorder

log = logging.getLogger(__name__)

SPACING = 0.15  # seconds from one change to the next, unless a pod waits
PATIENCE = 3.0  # seconds for the API server's answer, before what is cached counts
PAUSE = 2.0  # after a table that was refused
NOT_ENFORCED = (
    "node {node} does not enforce NetworkPolicies: without root its pods share the host's network and are told "
    "apart by address only"
)


class Enforcer(Protocol):
    async def apply(
        self, policies: list[Object], pods: list[Pod], namespaces: list[Object]
    ) -> None: ...

    async def close(self) -> None: ...


class Policies:
    def __init__(
        self,
        client: Client | None,
        node: str,
        cache: ObjectCache,
        enforcer: Enforcer | None,
        recorder: QuietRecorder | None = None,
        dns: str = "",
    ) -> None:
        """`enforcer` None: this node cannot, and says so at each policy. `dns`: where the node answers as the cluster's DNS."""
        self._client, self._node, self._cache = client, node, cache
        self._enforcer, self._recorder = enforcer, recorder
        self._dns = dns
        self._policies = Informer(client, NETWORKPOLICIES) if client is not None else None
        self._pods: Informer | None = None  # while there is a policy
        self._namespaces: Informer | None = None
        self._reading: list[asyncio.Task[None]] = []
        self._swept = False  # policies that were deleted while nobody looked have left the cache
        self._here: dict[str, tuple[Object, str]] = {}  # uid → pod, address: the API knows it later
        self._admitted: dict[str, str] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._changed, self._urgent = asyncio.Event(), asyncio.Event()

    # What workers ask

    async def admit(self, pod: Object, addresses: Iterable[str]) -> None:
        """Return when the pod at these addresses is isolated as the policies say. Raises ContainerError."""
        address = next((each for each in addresses if is_ipv4(each)), "")
        uid = pod["metadata"]["uid"]
        if self._enforcer is None or not address or self._admitted.get(uid) == address:
            return
        if pod["spec"].get("hostNetwork"):
            return
        self._here[uid] = pod, address
        if self._policies is None or not self._policies.has_synced or len(self._policies):
            done = asyncio.get_running_loop().create_future()
            self._waiting.append(done)
            self._changed.set()
            self._urgent.set()
            try:
                await done
            except (NetworkError, OSError) as error:
                raise ContainerError(f"network policies cannot be enforced: {error}") from error
        self._admitted[uid] = address

    def forget(self, uid: str) -> None:
        """The pod is gone from this node."""
        self._here.pop(uid, None)
        self._admitted.pop(uid, None)
        self._changed.set()

    # Following the API

    async def run(self) -> None:
        """Until cancelled. The table stays when it ends."""
        if self._enforcer is None:
            await self._only_tell()
            return
        try:
            async with asyncio.TaskGroup() as group:
                if self._policies is not None:
                    self._policies.add_handler(self._on_policy)
                    self._policies.start(group)
                    await self._patiently(self._policies)
                await self._follow(group, self._enforcer)
        finally:
            for waiting in self._waiting:
                waiting.cancel()
            await self._enforcer.close()

    async def _only_tell(self) -> None:
        if self._policies is None:
            return
        async with asyncio.TaskGroup() as group:
            self._policies.add_handler(self._tell)
            self._policies.start(group)

    def _tell(self, kind: str, _old: Object | None, new: Object | None) -> None:
        if kind == "ADDED" and new is not None and self._recorder is not None:
            text = NOT_ENFORCED.format(node=self._node)
            self._recorder.event(new, "Warning", "NotEnforced", text)

    def _on_policy(self, _type: str, old: Object | None, new: Object | None) -> None:
        meta = (new or old or {})["metadata"]
        self._cache.put("networkpolicy", meta["namespace"], meta["name"], new)
        if old is None or new is None or old["spec"] != new["spec"]:
            self._changed.set()

    def _on_pod(self, _type: str, old: Object | None, new: Object | None) -> None:
        if (old and pod_of(old)) != (new and pod_of(new)):
            self._changed.set()

    def _on_namespace(self, _type: str, old: Object | None, new: Object | None) -> None:
        self._cache.put("namespace", "", (new or old or {})["metadata"]["name"], new)
        labels = [(each or {}).get("metadata", {}).get("labels") for each in (old, new)]
        if labels[0] != labels[1]:
            self._changed.set()

    async def _patiently(self, *informers: Informer) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for informer in informers:
                    await informer.synced()

    async def _follow(self, group: asyncio.TaskGroup, enforcer: Enforcer) -> None:
        while True:
            self._changed.clear()
            self._urgent.clear()
            waiting, self._waiting = self._waiting, []
            try:
                await self._apply(group, enforcer)
            except (NetworkError, OSError) as error:
                log.warning("network policies: %s", error)
                _answer(waiting, error)
                await asyncio.sleep(PAUSE)
                continue
            except BaseException:
                self._waiting += waiting
                raise
            _answer(waiting, None)
            await self._changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(SPACING):
                    await self._urgent.wait()

    async def _apply(self, group: asyncio.TaskGroup, enforcer: Enforcer) -> None:
        policies = self._known(self._policies, "networkpolicy")
        self._sweep()
        if not policies:
            self._stop_reading()
            await enforcer.apply([], [], [])
            return
        await self._read(group)
        pods = {pod["metadata"]["uid"]: pod for pod in self._known(self._pods, "pod")}
        here = [
            pod_of(pods.pop(uid, pod), self._node, address)
            for uid, (pod, address) in self._here.items()
        ]
        others = [pod_of(pod, self._node) for pod in pods.values()]
        known = [pod for pod in (*here, *others) if pod is not None]
        if self._dns:
            known.append(dns_pod(self._dns))
        await enforcer.apply(policies, known, self._known(self._namespaces, "namespace"))

    def _sweep(self) -> None:
        if self._swept or self._policies is None or not self._policies.has_synced:
            return
        self._swept = True
        for kept in self._cache.load("networkpolicy"):
            meta = kept["metadata"]
            if self._policies.get(meta["namespace"], meta["name"]) is None:
                self._cache.put("networkpolicy", meta["namespace"], meta["name"], None)

    def _known(self, informer: Informer | None, kind: str) -> list[Object]:
        if informer is not None and informer.has_synced:
            return informer.list()
        return self._cache.load(kind)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Pods and namespaces of the whole cluster are watched, and known if the API server answers."""
        if self._pods is not None or self._client is None:
            return
        self._pods = Informer(self._client, PODS, transform=_trimmed)
        self._namespaces = Informer(self._client, NAMESPACES)
        self._pods.add_handler(self._on_pod)
        self._namespaces.add_handler(self._on_namespace)
        self._reading = [each.start(group) for each in (self._pods, self._namespaces)]
        await self._patiently(self._pods, self._namespaces)

    def _stop_reading(self) -> None:
        for task in self._reading:
            task.cancel()
        self._reading, self._pods, self._namespaces = [], None, None


def _answer(waiting: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for each in waiting:
        if each.done():  # the pod's worker was ended
            continue
        if error is None:
            each.set_result(None)
        else:
            each.set_exception(error)


def dns_pod(address: str) -> Pod:
    """The node answers for the cluster's DNS itself; policies mean its pods, as every other cluster has them."""
    ports = {("dns", "udp"): 53, ("dns-tcp", "tcp"): 53}
    return Pod("kube-system", {"k8s-app": "kube-dns"}, address, ports, local=False)


def _trimmed(pod: Object) -> Object:
    """As much of a pod as policies ask for."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    containers = [
        {"ports": [port for port in container["ports"] if port.get("name")]}
        for container in (*(spec.get("initContainers") or ()), *spec["containers"])
        if container.get("ports")
    ]
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {
            "containers": containers,
            "nodeName": spec.get("nodeName", ""),
            "hostNetwork": spec.get("hostNetwork", False),
        },
        "status": {name: status[name] for name in ("podIP", "phase") if name in status},
    }
