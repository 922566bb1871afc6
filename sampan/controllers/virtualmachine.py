"""VirtualMachine controller: a `VirtualMachine` (sampan.dev/v1alpha1) that is to run is one microVM pod of the same name.

The kind is a custom resource, which most clusters never have: until its definition is there, one watch for a single name is
all that this controller costs. The pod is the machine's life: it is made when `spec.running` says so, deleted when it no longer
does, and goes with the VirtualMachine by its owner reference. A machine that is running is not changed under its
guest: what was edited applies from the next start, and the condition `RestartRequired` says so until then.

A machine with a `size` has a disk: a PersistentVolumeClaim of its own, `<name>-disk`, which holds what the machine writes
into its files. It is made before the first pod, stays while the machine is stopped, and goes with the machine.

    running: true   no pod → make it; a pod that has ended → again, if restartPolicy says so
    running: false  pod → delete it
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from typing import Any

import orjson

from sampan.client.informer import Informer
from sampan.client.resources import (
    CUSTOMRESOURCEDEFINITIONS,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    SERVICES,
    VIRTUALMACHINES,
)
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, controller_of, is_deleting

DEFINITION = "virtualmachines.sampan.dev"
KIND = "VirtualMachine"
LABEL = "sampan.dev/virtual-machine"
EDITION = "sampan.dev/virtual-machine-edition"  # of a pod: the digest of what it was made from
# Annotations by which the microVM kind knows the volume that holds a pod's disk (runtime/microvm/disks.py).
DISK, DISK_SIZE = "sampan.dev/vm-disk", "sampan.dev/vm-disk-size"
# … and the snapshot that a pod's machine goes on from (runtime/microvm/snapshots.py).
SNAPSHOT = "sampan.dev/vm-snapshot"
DISK_PLACE = "/run/sampan/disk"
GUEST_OWN = 64 << 20  # bytes that the guest's kernel takes beside its container
TAKEN = "a {} {} is there already that is not this machine's"
# sshd wants to be called by its whole path.
START_SSHD = (
    "umask 077 && mkdir -p /run/sshd /root/.ssh && printf '%s\\n' {keys} >>/root/.ssh/authorized_keys"
    ' && PATH="$PATH:/usr/local/sbin:/usr/sbin:/usr/bin"'
    ' && {{ ssh-keygen -A >/dev/null; }} && exec "$(command -v sshd)"'
)


# The pod that a machine is


def pod_of(machine: Object) -> Object:
    """What is created for `machine`, a stored VirtualMachine (so its defaults are there)."""
    from sampan.kube.quantity import parse

    spec, metadata = machine["spec"], machine["metadata"]
    memory = parse(spec["memory"]).value()
    # The machine's size is its memory; its one container may use what the guest's kernel leaves.
    limits = {"cpu": str(spec["cpus"]), "memory": str(max(memory - GUEST_OWN, memory // 2))}
    container: dict[str, Any] = {
        "name": "vm",
        "image": spec["image"],
        "imagePullPolicy": spec.get("imagePullPolicy", "IfNotPresent"),
        # Processors are shared as containers share them; memory is the machine's alone.
        "resources": {"limits": limits, "requests": {**limits, "cpu": "100m"}},
        "stdin": spec.get("stdin", False),
        "tty": spec.get("tty", False),
    }
    for name in ("command", "args", "env"):
        if spec.get(name):
            container[name] = spec[name]
    if spec.get("ports"):
        container["ports"] = [
            {"containerPort": port["port"], "protocol": port.get("protocol", "TCP")}
            for port in spec["ports"]
        ]
    volumes = spec.get("volumes") or []
    mounts = [
        {"name": v["name"], "mountPath": v["mountPath"], "readOnly": v.get("readOnly", False)}
        for v in volumes
    ]
    sources = [
        {k: v for k, v in volume.items() if k not in ("mountPath", "readOnly")}
        for volume in volumes
    ]
    annotations = {"sampan.dev/vm-memory": spec["memory"]}
    if spec.get("kernel"):
        annotations["sampan.dev/vm-kernel"] = spec["kernel"]
    if (snapshot := spec.get("snapshot")) and restored_from(machine) != snapshot:
        annotations[SNAPSHOT] = snapshot
    if spec.get("size"):
        mounts.append({"name": "sampan-disk", "mountPath": DISK_PLACE})
        claim = {"claimName": disk_name(metadata["name"])}
        sources.append({"name": "sampan-disk", "persistentVolumeClaim": claim})
        annotations |= {DISK: DISK_PLACE, DISK_SIZE: spec["size"]}
    if mounts:
        container["volumeMounts"] = mounts
    if keys := (spec.get("ssh") or {}).get("authorizedKeys"):
        script = START_SSHD.format(keys=" ".join(map(shlex.quote, keys)))
        container["lifecycle"] = {"postStart": {"exec": {"command": ["/bin/sh", "-c", script]}}}
    pod_spec: dict[str, Any] = {
        "runtimeClassName": "microvm",
        "restartPolicy": spec["restartPolicy"],
        "hostname": metadata["name"][:63].rstrip("-."),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": spec["gracePeriodSeconds"],
        "containers": [container],
    }
    if sources:
        pod_spec["volumes"] = sources
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), LABEL: metadata["name"]},
            "annotations": {**annotations, EDITION: edition(pod_spec)},
            "ownerReferences": [owner_reference(machine)],
        },
        "spec": pod_spec,
    }


def restored_from(machine: Object) -> str:
    """A machine goes on from a snapshot once: what it does after that is on its disk, or gone with its memory."""
    return str((machine.get("status") or {}).get("restoredFrom", ""))


def disk_name(machine: str) -> str:
    return f"{machine}-disk"


def claim_of(machine: Object) -> Object | None:
    """Where the disk of a machine with a size is kept: of the cluster's default storage class."""
    metadata, size = machine["metadata"], machine["spec"].get("size")
    if not size:
        return None
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": disk_name(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {LABEL: metadata["name"]},
            "ownerReferences": [owner_reference(machine)],
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }


def service_of(machine: Object) -> Object | None:
    """A machine with ports has a Service of its name: a stable address, and ports of the node where it was asked for."""
    ports = machine["spec"].get("ports")
    if not ports:
        return None
    metadata = machine["metadata"]
    published = any(port.get("nodePort") is not None for port in ports)
    listed = []
    for port in ports:
        protocol = port.get("protocol", "TCP")
        entry = {
            "name": f"{protocol.lower()}-{port['port']}",
            "port": port["port"],
            "protocol": protocol,
        }
        if port.get("nodePort"):
            entry["nodePort"] = port["nodePort"]
        listed.append(entry)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {LABEL: metadata["name"]},
            "ownerReferences": [owner_reference(machine)],
        },
        "spec": {
            "type": "NodePort" if published else "ClusterIP",
            "selector": {LABEL: metadata["name"]},
            "ports": listed,
        },
    }


def owner_reference(machine: Object) -> Object:
    return {
        "apiVersion": VIRTUALMACHINES.api_version,
        "kind": KIND,
        "name": machine["metadata"]["name"],
        "uid": machine["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def edition(pod_spec: Object) -> str:
    return hashlib.sha256(orjson.dumps(pod_spec, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


# What is said of it


def phase_of(machine: Object, pod: Object | None) -> str:
    wanted = machine["spec"]["running"]
    if pod is None:
        return "Pending" if wanted else "Stopped"
    if not wanted or is_deleting(pod):
        return "Stopping"
    status = pod.get("status") or {}
    ended = {"Succeeded": "Stopped", "Failed": "Failed"}.get(status.get("phase", ""))
    if ended:
        return ended
    state = ((status.get("containerStatuses") or [{}])[0]).get("state") or {}
    if "running" in state:
        return "Running"
    return "Starting" if pod["spec"].get("nodeName") else "Pending"


def status_of(machine: Object, pod: Object | None, trouble: str, now: str) -> Object:
    """The whole status. `trouble` is why no pod can be made, "" when one can."""
    phase = phase_of(machine, pod)
    before = machine.get("status") or {}
    status: Object = {
        "phase": phase,
        "observedGeneration": machine["metadata"].get("generation", 0),
    }
    restart = False
    restored = restored_from(machine)
    if pod is not None and phase == "Running":
        restored = (pod["metadata"].get("annotations") or {}).get(SNAPSHOT, restored)
    if restored:
        status["restoredFrom"] = restored
    if pod is not None:
        found = pod.get("status") or {}
        status["podName"] = pod["metadata"]["name"]
        for key, value in (
            ("ip", found.get("podIP")),
            ("node", pod["spec"].get("nodeName")),
            ("startedAt", found.get("startTime")),
        ):
            if value:
                status[key] = value
        container = (found.get("containerStatuses") or [{}])[0]
        status["restarts"] = container.get("restartCount", 0)
        ended = (container.get("state") or {}).get("terminated")
        if ended:
            status["exitCode"] = ended["exitCode"]
        made_from = (pod["metadata"].get("annotations") or {}).get(EDITION)
        restart = made_from != edition(pod_of(machine)["spec"])
    ready, reason, message = readiness(pod, phase, trouble)
    wanted = [
        ("Ready", ready, reason, message),
        (
            "RestartRequired",
            restart,
            "SpecChanged" if restart else "UpToDate",
            "The spec has changed since this machine was started; stop and start it."
            if restart
            else "",
        ),
    ]
    status["conditions"] = [
        conditioned(before, kind, "True" if true else "False", why, text, now)
        for kind, true, why, text in wanted
    ]
    return status


def readiness(pod: Object | None, phase: str, trouble: str) -> tuple[bool, str, str]:
    if trouble:
        return False, "CannotStart", trouble
    if pod is None:
        return False, phase, ""
    found = condition(pod, "Ready") or {}
    if found.get("status") == "True" and phase == "Running":
        return True, "Running", ""
    container = ((pod.get("status") or {}).get("containerStatuses") or [{}])[0]
    waiting = (container.get("state") or {}).get("waiting") or {}
    placed = condition(pod, "PodScheduled") or {}
    if placed.get("status") == "False":
        return False, placed.get("reason", phase), placed.get("message", "")
    return False, waiting.get("reason") or phase, waiting.get("message", "")


def conditioned(
    before: Object, kind: str, status: str, reason: str, message: str, now: str
) -> Object:
    """A condition, with the time of its last change of status kept (metav1.Condition)."""
    old = condition({"status": before}, kind) or {}
    since = old["lastTransitionTime"] if old.get("status") == status else now
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": since,
    }


def defined(definition: Object) -> bool:
    found = condition(definition, "Established") or {}
    return found.get("status") == "True" and not is_deleting(definition)


class VirtualMachineController(Controller):
    name = "virtual-machine-controller"
    watches = (
        Watch(CUSTOMRESOURCEDEFINITIONS, fields=f"metadata.name={DEFINITION}"),
        Watch(PODS, owner=KIND),
        Watch(SERVICES, owner=KIND),
    )
    workers = 2

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.definitions = self.informer(CUSTOMRESOURCEDEFINITIONS, f"metadata.name={DEFINITION}")
        self.pods = self.informer(PODS)
        self.services = self.informer(SERVICES)
        self.machines: Informer | None = None
        self._group: asyncio.TaskGroup | None = None
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            for _ in range(self.workers):
                self._group.create_task(self.work())

    async def reconcile(self, key: Key) -> Requeue | None:
        if not key.namespace:
            self.follow()
            return None
        if self.machines is None or not self.machines.has_synced:
            return None  # all are looked at once they are known
        machine = self.machines.get(*key)
        if machine is None or is_deleting(machine):
            return None  # what it owns goes with it
        pod = self.pods.get(*key)
        trouble = ""
        if pod is not None and (controller_of(pod) or {}).get("uid") != machine["metadata"]["uid"]:
            pod, trouble = None, TAKEN.format("pod", key.name)
        try:
            if not trouble:
                pod = await self.drive(machine, pod)
                await self.serve(machine)
        except ApiError as error:
            if error.code not in (403, 422):
                raise
            trouble = (
                error.message
            )  # refused for good: said in the status, tried again when something changes
        await self.report(machine, pod, trouble)
        return Requeue(30) if trouble else None

    def follow(self) -> None:
        """Watch VirtualMachines exactly while there is such a kind."""
        definition = self.definitions.get("", DEFINITION)
        wanted = definition is not None and defined(definition)
        if wanted and self._watching is None and self._group is not None:
            self.machines = Informer(self.client, VIRTUALMACHINES)
            self.machines.add_handler(self.handler(Watch(VIRTUALMACHINES)))
            self._watching = self._group.create_task(self.machines.run())
        elif not wanted and self._watching is not None:
            self._watching.cancel()
            self._watching = self.machines = None

    async def drive(self, machine: Object, pod: Object | None) -> Object | None:
        """Bring the pod nearer to what is wanted; what there is of it now."""
        metadata, spec = machine["metadata"], machine["spec"]
        if pod is None:
            if not spec["running"]:
                return None
            await self.provide(machine)
            try:
                return await self.client.create(PODS, pod_of(machine), metadata["namespace"])
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
                pod = await self.client.get(PODS, metadata["name"], metadata["namespace"])
                if (controller_of(pod) or {}).get("uid") != metadata["uid"]:
                    raise ApiError(422, "Invalid", TAKEN.format("pod", metadata["name"])) from None
                return pod  # ours, and not seen yet
        failed = (pod.get("status") or {}).get("phase") == "Failed"
        # A pod of restartPolicy Always ends only when it was evicted or lost its node.
        lost = failed and spec["restartPolicy"] == "Always"
        if (not spec["running"] or lost) and not is_deleting(pod):
            await self.client.delete(
                PODS, metadata["name"], metadata["namespace"], uid=pod["metadata"]["uid"]
            )
        return pod

    async def provide(self, machine: Object) -> None:
        """The machine's disk is asked for."""
        claim = claim_of(machine)
        if claim is None:
            return
        metadata = claim["metadata"]
        try:
            await self.client.create(PERSISTENTVOLUMECLAIMS, claim, metadata["namespace"])
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await self.client.get(
                PERSISTENTVOLUMECLAIMS, metadata["name"], metadata["namespace"]
            )
            if (controller_of(found) or {}).get("uid") != machine["metadata"]["uid"]:
                raise ApiError(
                    422, "Invalid", TAKEN.format("persistentvolumeclaim", metadata["name"])
                ) from None

    async def serve(self, machine: Object) -> None:
        service = service_of(machine)
        if service is None:
            return
        metadata = machine["metadata"]
        found = self.services.get(metadata["namespace"], metadata["name"])
        if found is None:
            try:
                await self.client.create(SERVICES, service, metadata["namespace"])
                return
            except ApiError as error:
                # Made a moment ago and not seen yet; its own node port is refused before its name is.
                try:
                    found = await self.client.get(SERVICES, metadata["name"], metadata["namespace"])
                except ApiError:
                    raise error from None
        if (controller_of(found) or {}).get("uid") != metadata["uid"]:
            raise ApiError(422, "Invalid", TAKEN.format("service", metadata["name"]))

    async def report(self, machine: Object, pod: Object | None, trouble: str) -> None:
        status = status_of(machine, pod, trouble, stamp(self.clock()))
        if status != machine.get("status"):
            await self.client.update(VIRTUALMACHINES, {**machine, "status": status}, "status")
