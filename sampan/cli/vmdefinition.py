"""The kind `VirtualMachine` as the cluster is told of it: its definition, and what the default roles may do with it.

The first `sampan vm` brings it into a cluster; a cluster without microVMs never has it.
"""

from __future__ import annotations

from typing import Any

from sampan.client.client import Client
from sampan.client.resources import CLUSTERROLES, CUSTOMRESOURCEDEFINITIONS
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition_true

Object = dict[str, Any]

GROUP = "sampan.dev"
NAME = f"virtualmachines.{GROUP}"
OURS = {"app.kubernetes.io/managed-by": "sampan"}
PHASES = ("Pending", "Starting", "Running", "Stopping", "Stopped", "Failed")
MEMORY = r"^[1-9][0-9]*(Mi|Gi)$"


def text(description: str, **more: Any) -> Object:
    return {"type": "string", "description": description, **more}


def listed(description: str, item: Object, **more: Any) -> Object:
    return {"type": "array", "description": description, "items": item, "maxItems": 256, **more}


def thing(description: str, properties: Object, *required: str, **more: Any) -> Object:
    needed = {"required": list(required)} if required else {}
    return {
        "type": "object", "description": description, "properties": properties, **needed, **more
    }  # fmt: skip


PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
MAP_KEY_PORTS = {
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["port", "protocol"],
}
BY_NAME = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}

VOLUME = thing(
    "One volume: its source as a pod's, and where it is mounted.",
    {
        "name": text("Name of the volume.", pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", maxLength=63),
        "mountPath": text("Where it is in the machine.", pattern="^/"),
        "readOnly": {"type": "boolean", "description": "Whether it cannot be written."},
        "hostPath": thing("A path of the node, copied in at the start.", {"path": text("The path.")}, "path"),
        "emptyDir": thing("Space that goes with the machine's pod.", {}),
        "configMap": thing("A ConfigMap.", {"name": text("Its name.")}, "name"),
        "secret": thing("A Secret.", {"secretName": text("Its name.")}, "secretName"),
        "persistentVolumeClaim": thing("A claim.", {"claimName": text("Its name.")}, "claimName"),
    },
    "name",
    "mountPath",
)  # fmt: skip

SPEC = thing(
    "What the machine is to be.",
    {
        "image": text("OCI image that the machine runs.", minLength=1),
        "imagePullPolicy": text("When it is pulled.", enum=["Always", "IfNotPresent", "Never"]),
        "running": {"type": "boolean", "default": True, "description": "false stops the machine."},
        "cpus": {
            "type": "integer", "minimum": 1, "maximum": 256, "default": 1,
            "description": "Virtual processors.",
        },
        "memory": text("Memory of the machine, its kernel's included.", pattern=MEMORY, default="256Mi"),
        "kernel": text("Release of the guest kernel, one of those that the node has; the node's own without."),
        "snapshot": text(
            "Snapshot of this node that the machine goes on from when it is first started, memory and disk included.",
            pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$",
        ),
        "size": text("Size of a disk that its files stay on while it is stopped; without one they are in memory, and go with it.", pattern=MEMORY),
        "command": listed("Instead of the image's entry point.", {"type": "string"}),
        "args": listed("Instead of the image's arguments.", {"type": "string"}),
        "env": listed(
            "Environment variables.",
            thing("One variable.", {"name": text("Name.", minLength=1), "value": text("Value.")}, "name"),
            **BY_NAME,
        ),
        "stdin": {"type": "boolean", "description": "Keep the standard input open, for attach."},
        "tty": {"type": "boolean", "description": "Give it a terminal."},
        "restartPolicy": text(
            "What follows the end of its program.", enum=["Always", "OnFailure", "Never"], default="Always"
        ),
        "gracePeriodSeconds": {
            "type": "integer", "minimum": 0, "default": 10,
            "description": "Seconds between SIGTERM and the machine's end when it is stopped.",
        },
        "ports": listed(
            "Ports behind the machine's Service, which has its name.",
            thing(
                "One port.",
                {
                    "port": {**PORT, "description": "Port in the machine."},
                    "nodePort": {
                        "type": "integer", "minimum": 0, "maximum": 65535,
                        "description": "Port of every node that leads there; 0: one that is free.",
                    },
                    "protocol": text("Protocol.", enum=["TCP", "UDP"], default="TCP"),
                },
                "port",
            ),
            **MAP_KEY_PORTS,
        ),
        "volumes": listed("Volumes of the machine.", VOLUME, **BY_NAME),
        "ssh": thing(
            "Start the image's sshd for these keys.",
            {"authorizedKeys": listed("Public keys that may log in as root.", {"type": "string"}, minItems=1)},
            "authorizedKeys",
        ),
    },
    "image",
)  # fmt: skip

CONDITION = thing(
    "A condition (metav1.Condition).",
    {
        "type": text("What it is about."),
        "status": text("Whether it is so.", enum=["True", "False", "Unknown"]),
        "reason": text("Why, in a word."),
        "message": text("Why, in a sentence."),
        "lastTransitionTime": text("Since when.", format="date-time"),
    },
    "type",
    "status",
)

STATUS = thing(
    "What the machine is.",
    {
        "phase": text("Where it is in its life.", enum=list(PHASES)),
        "observedGeneration": {"type": "integer", "format": "int64"},
        "podName": text("The pod that is the machine."),
        "ip": text("Its address."),
        "restoredFrom": text("The snapshot that it has gone on from."),
        "node": text("The node that it runs on."),
        "startedAt": text("When it was started.", format="date-time"),
        "restarts": {"type": "integer", "description": "How often its program was started again."},
        "exitCode": {"type": "integer", "description": "Of its program, once that has ended."},
        "conditions": listed(
            "Ready and RestartRequired.",
            CONDITION,
            **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    },
)

COLUMNS = (
    ("Image", "string", ".spec.image"),
    ("CPUs", "integer", ".spec.cpus"),
    ("Memory", "string", ".spec.memory"),
    ("Phase", "string", ".status.phase"),
    ("IP", "string", ".status.ip"),
    ("Age", "date", ".metadata.creationTimestamp"),
)


def definition() -> Object:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME, "labels": OURS},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "VirtualMachine",
                "listKind": "VirtualMachineList",
                "plural": "virtualmachines",
                "singular": "virtualmachine",
                "shortNames": ["vm"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": "v1alpha1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {"name": name, "type": kind, "jsonPath": path}
                        for name, kind, path in COLUMNS
                    ],
                    "schema": {
                        "openAPIV3Schema": thing(
                            "A virtual machine that runs an OCI image.",
                            {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                # Its name becomes a pod's, a Service's and a host's.
                                "metadata": {
                                    "type": "object",
                                    "properties": {
                                        "name": {
                                            "type": "string",
                                            "maxLength": 63,
                                            "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$",
                                        }
                                    },
                                },
                                "spec": SPEC,
                                "status": STATUS,
                            },
                            "spec",
                        )
                    },
                }
            ],
        },
    }


def role(name: str, aggregated: tuple[str, ...], verbs: tuple[str, ...]) -> Object:
    """Added to the default roles of users by aggregation, as a built-in kind is."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": f"sampan:virtualmachines-{name}",
            "labels": OURS | {f"{group}/aggregate-to-{each}": "true" for each in aggregated},
        },
        "rules": [{"apiGroups": [GROUP], "resources": ["virtualmachines"], "verbs": list(verbs)}],
    }


READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


async def install(client: Client) -> bool:
    """VirtualMachines are served on return; whether it was this call that brought them."""
    try:
        found = await client.get(CUSTOMRESOURCEDEFINITIONS, NAME)
    except ApiError as error:
        if error.code != 404:
            raise
    else:
        if condition_true(found, "Established"):
            return False
    for gvr, obj in (
        (CLUSTERROLES, role("view", ("view", "edit", "admin"), READ)),
        (CLUSTERROLES, role("edit", ("edit", "admin"), WRITE)),
        (CUSTOMRESOURCEDEFINITIONS, definition()),
    ):
        try:
            await client.create(gvr, obj)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
    await established(client)
    return True


async def established(client: Client) -> None:
    from contextlib import aclosing

    watch = client.watch(CUSTOMRESOURCEDEFINITIONS, field_selector=f"metadata.name={NAME}")
    async with aclosing(watch) as events:  # type: ignore[type-var]
        async for event in events:
            if event.type != "DELETED" and condition_true(event.object, "Established"):
                return
    raise ApiError(503, "ServiceUnavailable", f"{NAME} was not established")
