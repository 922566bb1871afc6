"""The Node object: made when the runtime is ready, kept true afterwards; and the Lease that says the node is alive.

The first write comes as soon as CRI reports RuntimeReady and NetworkReady, with the Ready condition in it. Afterwards
the status is written when it changes and every five minutes; the Lease every ten seconds, which is what the node
lifecycle controller looks at (KEP-589). What others put on the Node (labels, taints, annotations) stays.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sampan import __version__
from sampan.client.client import Client
from sampan.client.informer import Informer
from sampan.client.resources import LEASES, NODES
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.kube.persistent import LOCAL_PATH
from sampan.node.config import NodeConfig
from sampan.node.machine import Machine
from sampan.node.podspec import Object
from sampan.node.pressure import PressureWatch
from sampan.node.quietevents import QuietRecorder

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
KUBELET_VERSION = "v1.36.0+sampan"
IMAGES_SHOWN = 50
OURS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")  # conditions
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
RUNTIME_GRACE = 30.0  # seconds that a runtime may be away, restarting, before the node is NotReady


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What CRI says of itself."""

    name: str
    version: str
    ready: bool
    problem: str = ""
    handlers: tuple[str, ...] = ()
    recursive_read_only: bool = False


def allocatable(config: NodeConfig, machine: Machine) -> dict[str, str]:
    return {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": str(machine.disk),
        "pods": str(config.max_pods),
    }


def build(
    config: NodeConfig,
    machine: Machine,
    runtime: RuntimeFacts,
    pressure: frozenset[str],
    images: Iterable[Any],
    port: int,
    now: str,
    old: Object | None = None,
    devices: Mapping[str, tuple[int, int]] | None = None,
) -> Object:
    """The Node as it shall be; `old` gives transition times. `devices`: (capacity, allocatable) by resource."""
    hostname = config.hostname or config.name
    labels = {
        "kubernetes.io/hostname": hostname,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
        **config.labels,
    }
    spec: Object = {}
    if config.pod_cidr:
        spec = {"podCIDR": config.pod_cidr, "podCIDRs": [config.pod_cidr]}
    if config.taints:
        spec["taints"] = [dict(taint) for taint in config.taints]
    amounts = allocatable(config, machine)
    devices = devices or {}
    status: Object = {
        "capacity": {
            **by_hand(old),
            **amounts,
            **{name: str(all_) for name, (all_, _) in devices.items()},
        },
        "allocatable": {
            **by_hand(old),
            **amounts,
            **{name: str(healthy) for name, (_, healthy) in devices.items()},
        },
        "addresses": [
            {"type": "InternalIP", "address": config.address},
            {"type": "Hostname", "address": hostname},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.system,
            "containerRuntimeVersion": f"{runtime.name}://{runtime.version}",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
        "images": [
            {"names": [*image.repo_digests, *image.repo_tags], "sizeBytes": image.size}
            for image in sorted(images, key=lambda i: -i.size)[:IMAGES_SHOWN]
        ],
        "runtimeHandlers": [
            {
                "name": name,
                "features": {"recursiveReadOnlyMounts": runtime.recursive_read_only},
            }
            for name in runtime.handlers
        ],
        "conditions": _conditions(runtime, pressure, now, old),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.name,
            "labels": labels,
            "annotations": {
                "sampan.dev/version": __version__,
                LOCAL_PATH: str(config.storage_dir),
            },
        },
        "spec": spec,
        "status": status,
    }


def by_hand(old: Object | None, field: str = "capacity") -> dict[str, str]:
    """Extended resources that somebody wrote into the Node's capacity: they stay, and may be asked for.

    https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/
    """
    before = ((old or {}).get("status") or {}).get(field) or {}
    return {name: text for name, text in before.items() if "/" in name}


def _conditions(
    runtime: RuntimeFacts, pressure: frozenset[str], now: str, old: Object | None
) -> list[Object]:
    wanted = [
        (
            "MemoryPressure",
            "MemoryPressure" in pressure,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        (
            "DiskPressure",
            "DiskPressure" in pressure,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        (
            "PIDPressure",
            "PIDPressure" in pressure,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        (
            "Ready",
            runtime.ready,
            ("KubeletReady", "kubelet is posting ready status"),
            ("KubeletNotReady", runtime.problem or "the runtime is not ready"),
        ),
    ]
    conditions = []
    for kind, holds, yes, no in wanted:
        reason, message = yes if holds else no
        value = "True" if holds else "False"
        before = objects.condition(old, kind) if old else None
        same = before is not None and before.get("status") == value
        conditions.append(
            {
                "type": kind,
                "status": value,
                "lastHeartbeatTime": now,
                "lastTransitionTime": before.get("lastTransitionTime", now)
                if before and same
                else now,
                "reason": reason,
                "message": message,
            }
        )
    return conditions


def given_up(node: Object) -> bool:
    """The control plane had not heard of the node for so long (a machine that slept) that it wrote Unknown over what it said."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c.get("type") in OURS and c.get("status") == "Unknown" for c in conditions)


def differs(old: Object, new: Object) -> bool:
    """Whether the status says something new, heartbeats apart."""

    def plain(status: Object) -> Mapping[str, Any]:
        told = {
            key: status.get(key)
            for key in ("capacity", "allocatable", "addresses", "nodeInfo", "images")
        }
        told["port"] = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint")
        told["handlers"] = [h.get("name") for h in status.get("runtimeHandlers") or ()]
        told["conditions"] = [
            (c.get("type"), c.get("status"), c.get("reason"), c.get("message"))
            for c in status.get("conditions") or ()
            if c.get("type") in OURS
        ]
        return told

    return plain(old.get("status") or {}) != plain(new["status"])


async def ask_runtime(cri: CRIClient) -> RuntimeFacts:
    """Raises CRIError while the runtime is away."""
    version = await cri.version(version="v1")
    answer = await cri.status()
    bad = [c for c in answer.status.conditions if not c.status]
    return RuntimeFacts(
        name=version.runtime_name,
        version=version.runtime_version,
        ready=not any(c.type in ("RuntimeReady", "NetworkReady") for c in bad),
        problem="; ".join(
            f"container runtime condition {c.type} is false: {c.reason} {c.message}".rstrip()
            for c in bad
        ),
        handlers=tuple(h.name for h in answer.runtime_handlers),
        recursive_read_only=any(
            h.features.recursive_read_only_mounts for h in answer.runtime_handlers
        ),
    )


class Registrar:
    def __init__(
        self,
        config: NodeConfig,
        machine: Machine,
        client: Client,
        cri: CRIClient,
        recorder: QuietRecorder | None,
        pressure: PressureWatch,
        devices: Callable[[], Mapping[str, tuple[int, int]]],
    ) -> None:
        self._config = config
        self._pressure = pressure
        self._machine = machine
        self._client = client
        self._cri = cri
        self._recorder = recorder
        self._devices = devices
        self.problem = ""  # of the node's own, for which it is NotReady
        self._wake = asyncio.Event()
        self._port = config.port
        self._node: Object | None = None
        self._lease: Object | None = None
        self._answered_at = 0.0  # when the runtime last did, by the monotonic clock
        self.registered = asyncio.Event()

    def look_again(self) -> None:
        """Something that the status tells may have changed."""
        self._wake.set()

    def node(self) -> Object | None:
        """The Node as the API last told it; None before it is registered."""
        return self._node

    def listening(self, port: int) -> None:
        self._port = port
        self.look_again()

    async def run(self) -> None:
        own = Informer(self._client, NODES, field_selector=f"metadata.name={self._config.name}")
        own.add_handler(self._on_node)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_status())
            group.create_task(self._keep_lease())
            own.start(group)

    def _on_node(self, _type: str, _old: Object | None, new: Object | None) -> None:
        """Others write on the Node too: labels, taints, extended resources."""
        if new is None or self._node is None:
            return
        if int(objects.resource_version(new)) <= int(objects.resource_version(self._node)):
            return
        self._node = new
        if given_up(new) or by_hand(new) != by_hand(new, "allocatable"):
            self.look_again()

    async def _keep_status(self) -> None:
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                written = await self._write()
                wait = float(self._config.status_seconds) if written else LONGEST_PAUSE
                pause = FIRST_PAUSE
            except (ApiError, OSError, TimeoutError) as error:
                log.info("node %s: %s", self._config.name, error)
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                self._node = None
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _write(self) -> bool:
        """False when the runtime could not be asked, so that it has to be tried again soon."""
        try:
            runtime = await ask_runtime(self._cri)
            images = (await self._cri.list_images()).images
            answered, self._answered_at = True, time.monotonic()
        except CRIError as error:
            if time.monotonic() - self._answered_at < RUNTIME_GRACE:
                return False
            runtime = RuntimeFacts("sampan", __version__, False, f"the runtime is away: {error}")
            images, answered = [], False
        if self._node is None and answered:
            await self._register(runtime, images)
            return True
        if self._node is None:
            return False
        wanted = self._wanted(runtime, images, self._node)
        if not answered:
            wanted["status"] |= {
                key: self._node["status"][key]
                for key in ("images", "nodeInfo", "runtimeHandlers")
                if key in self._node["status"]
            }
        if not differs(self._node, wanted) and not self._due():
            return answered
        self._announce(self._node, wanted)
        await self._patch_status(wanted)
        return answered

    def _due(self) -> bool:
        beat = (objects.condition(self._node or {}, "Ready") or {}).get("lastHeartbeatTime")
        if not beat:
            return True
        age = time.time() - objects.parse_time(beat).timestamp()
        return age >= self._config.status_seconds - 1

    def _wanted(self, runtime: RuntimeFacts, images: Any, old: Object | None) -> Object:
        self._pressure.look()
        if self.problem:
            runtime = replace(runtime, ready=False, problem=self.problem)
        return build(
            self._config,
            self._machine,
            runtime,
            self._pressure.holding(),
            images,
            self._port,
            objects.now(),
            old,
            self._devices(),
        )

    async def _register(self, runtime: RuntimeFacts, images: Any) -> None:
        wanted = self._wanted(runtime, images, None)
        try:
            self._node = await self._client.create(NODES, wanted)
        except ApiError as error:
            if error.code != 409:
                raise
            self._node = await self._client.get(NODES, self._config.name)
            wanted = self._wanted(runtime, images, self._node)
            ours = ("labels", "annotations")
            patch: Object = {"metadata": {key: wanted["metadata"][key] for key in ours}}
            if self._config.pod_cidr and not self._node["spec"].get("podCIDR"):
                patch["spec"] = wanted["spec"]
            self._node = await self._client.patch(NODES, self._config.name, patch)
        # A server may keep the status of a create to itself, as Kubernetes does for most kinds.
        if differs(self._node, wanted):
            await self._patch_status(wanted)
        self.registered.set()
        self._announce(None, wanted)

    def _announce(self, old: Object | None, new: Object) -> None:
        was = objects.condition_true(old, "Ready") if old else False
        ready = objects.condition_true(new, "Ready")
        if self._recorder and was != ready:
            name = self._config.name
            what = "NodeReady" if ready else "NodeNotReady"
            reference = {**new, "metadata": {"name": name, "uid": name}}
            self._recorder.event(reference, "Normal", what, f"Node {name} status is now: {what}")

    async def _patch_status(self, wanted: Object) -> None:
        status = dict(wanted["status"])
        for field in ("capacity", "allocatable"):  # what is no longer there goes
            before = ((self._node or {}).get("status") or {}).get(field) or {}
            status[field] = {**dict.fromkeys(before), **status[field]}
        # The address list merges by type; ours is the whole of it.
        status["addresses"] = [{"$patch": "replace"}, *status["addresses"]]
        self._node = await self._client.patch(
            NODES, self._config.name, {"status": status}, kind="strategic", subresource="status"
        )

    async def _keep_lease(self) -> None:
        await self.registered.wait()
        while True:
            pause = float(self._config.lease_seconds)
            try:
                await self._renew()
            except (ApiError, OSError, TimeoutError) as error:
                log.info("lease of node %s: %s", self._config.name, error)
                self._lease = None
                pause = 1.0
            await asyncio.sleep(pause)

    async def _renew(self) -> None:
        name = self._config.name
        spec = {
            "holderIdentity": name,
            "leaseDurationSeconds": self._config.lease_seconds * 4,
            "renewTime": objects.micro_now(),
        }
        if self._lease is not None:
            self._lease = await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
            return
        owner = objects.owner_reference(self._node or {}, controller=False)
        owner.pop("controller")
        owner.pop("blockOwnerDeletion")
        lease: Object = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": LEASE_NAMESPACE,
                "ownerReferences": [{**owner, "apiVersion": "v1", "kind": "Node"}],
            },
            "spec": spec,
        }
        try:
            self._lease = await self._client.create(LEASES, lease, LEASE_NAMESPACE)
        except ApiError as error:
            if error.code != 409:
                raise
            self._lease = await self._client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
