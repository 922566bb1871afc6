"""The `server` part: store, API server, controllers, scheduler, and the objects that every cluster has."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from sampan.cli.config import Config
from sampan.cli.datastore import open_store

MANAGER = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"


async def run_server(config: Config, notify: Callable[..., None]) -> None:
    """Serve until cancelled."""
    from sampan.apiserver import memory
    from sampan.apiserver.config import ServerConfig
    from sampan.apiserver.security import SecurityConfig
    from sampan.apiserver.server import APIServer
    from sampan.apiserver.signing import sign
    from sampan.client.client import Client
    from sampan.client.inprocess import InProcess
    from sampan.client.transport import User

    first, _, last = config.service_node_ports.partition("-")
    store = await open_store(config)
    api = APIServer(
        store,
        ServerConfig(
            pki=config.pki,
            kubeconfig=config.kubeconfig,
            address=config.bind_address,
            port=config.port,
            names=config.tls_san,
            service_cidr=config.service_cidr,
            node_ports=(int(first), int(last)),
            cluster_domain=config.cluster_domain,
            security=SecurityConfig.of(config.apiserver_flags),
        ),
    )

    def client_of(name: str) -> Client:
        user = User(name, ("system:masters", "system:authenticated"))
        return Client(InProcess(api, user), user_agent=name)

    try:
        await api.start()
        notify("api", api.address)
        # Only now: whoever waits for the API need not wait for these to be imported.
        from sampan import controllers
        from sampan.scheduler.scheduler import Scheduler

        manager = client_of(MANAGER)
        manages, schedules = asyncio.Event(), asyncio.Event()

        async def control() -> None:
            await controllers.run(
                manager,
                root_ca=api.pki.ca.crt.read_text(),
                legacy_token=api.access.signer.make_legacy,
                sign=partial(sign, api.pki.ca),
                arguments=config.controller_args,
                ready=manages,
            )

        async def schedule() -> None:
            await Scheduler(client_of(SCHEDULER)).run(schedules)

        async with asyncio.TaskGroup() as group:
            for name, work in (
                ("kube-controller-manager", control),
                ("kube-scheduler", schedule),
            ):
                group.create_task(led(manager, name, work) if store.shared else work())
            await ensure_addons(manager, config)
            if not store.shared:  # else another server may be the one that works
                await manages.wait()
                await schedules.wait()
            notify("controllers")
            await node_ready(manager, config.node_name, notify)
            notify("ready", config.node_name)
            memory.keep()
    finally:
        await api.close()
        await store.close()


async def led(client: Any, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do the work whenever this server leads. A server whose store is a file of its own leads by the file's lock."""
    import os
    import socket

    from sampan.client.leader import LeaderElection

    identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4()}"
    await LeaderElection(client, name, identity).run(work)


# What a pod of a kind takes beside its containers, for the scheduler to count and the runtime to size by (KEP-688): a
# microVM's guest kernel, and the machine monitor around it.
OVERHEADS = {"microvm": {"overhead": {"podFixed": {"memory": "112Mi"}}}}


def addons(config: Config) -> list[tuple[Any, dict[str, Any]]]:
    """(resource, object) of what a cluster has from the start: a RuntimeClass a kind, a StorageClass, and the DNS Service."""
    from sampan.client.resources import (
        CLUSTERROLES,
        CONFIGMAPS,
        RUNTIMECLASSES,
        SERVICES,
        STORAGECLASSES,
    )

    ours = {"app.kubernetes.io/managed-by": "sampan"}
    found: list[tuple[Any, dict[str, Any]]] = [
        (
            RUNTIMECLASSES,
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": kind, "labels": ours},
                "handler": kind,
                **OVERHEADS.get(kind, {}),
            },
        )
        for kind in ("wasm", "container", "microvm")
    ]
    dns = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                **ours,
                "k8s-app": "kube-dns",
                "kubernetes.io/name": "CoreDNS",
                "kubernetes.io/cluster-service": "true",
                # Every node answers at this address itself: there is nothing to balance.
                "service.kubernetes.io/service-proxy-name": "sampan-dns",
            },
        },
        "spec": {
            "clusterIP": config.cluster_dns,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }
    return [
        *policy_readers(),  # first: the node asks as soon as it is up
        *found,
        (SERVICES, dns),
        (STORAGECLASSES, local_path(ours)),
        (CONFIGMAPS, cluster_info(config)),
        (CLUSTERROLES, metrics_reader()),
    ]


def policy_readers() -> list[tuple[Any, dict[str, Any]]]:
    """Nodes enforce NetworkPolicies, which speak of the pods of all nodes: what a policy agent's account may read elsewhere."""
    from sampan.client.resources import CLUSTERROLEBINDINGS, CLUSTERROLES

    group = "rbac.authorization.k8s.io"
    head = {"apiVersion": f"{group}/v1", "metadata": {"name": "sampan:network-policy"}}
    reads = (("networking.k8s.io", "networkpolicies"), ("", "pods"), ("", "namespaces"))
    role = {
        **head,
        "kind": "ClusterRole",
        "rules": [
            {"apiGroups": [api], "resources": [name], "verbs": ["list", "watch"]}
            for api, name in reads
        ],
    }
    binding = {
        **head,
        "kind": "ClusterRoleBinding",
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "sampan:network-policy"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}],
    }
    return [(CLUSTERROLES, role), (CLUSTERROLEBINDINGS, binding)]


def local_path(labels: dict[str, str]) -> dict[str, Any]:
    """The default class: directories of the node that the pod runs on, under the name that K3s gave it."""
    from sampan.kube.persistent import DEFAULT_CLASS, LOCAL_PATH

    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "labels": labels,
            "annotations": {DEFAULT_CLASS[0]: "true"},
        },
        "provisioner": LOCAL_PATH,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def metrics_reader() -> dict[str, Any]:
    """Who may see pods may see what they use, as metrics-server grants it (by aggregation of ClusterRoles)."""
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": "system:aggregated-metrics-reader",
            "labels": {
                f"{group}/aggregate-to-{role}": "true" for role in ("admin", "edit", "view")
            },
        },
        "rules": [
            {
                "apiGroups": ["metrics.k8s.io"],
                "resources": ["pods", "nodes"],
                "verbs": ["get", "list", "watch"],
            }
        ],
    }


def cluster_info(config: Config) -> dict[str, Any]:
    """What a joining machine reads first: where the cluster is and by which authority to know it. No credentials."""
    import base64

    authority = base64.b64encode((config.pki / "ca.crt").read_bytes()).decode()
    kubeconfig = (
        "apiVersion: v1\nkind: Config\ncurrent-context: ''\npreferences: {}\ncontexts: null\nusers: null\n"
        f"clusters:\n- name: ''\n  cluster:\n    server: https://{config.local_address}:{config.port}\n"
        f"    certificate-authority-data: {authority}\n"
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig},
    }


async def ensure_addons(client: Any, config: Config) -> None:
    from sampan.kube.errors import ApiError

    for gvr, obj in addons(config):
        name, namespace = obj["metadata"]["name"], obj["metadata"].get("namespace", "")
        try:
            await client.create(gvr, obj, namespace)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                continue
            try:  # a Service that is there has its address, and is refused for that before its name is looked at
                await client.get(gvr, name, namespace)
            except ApiError:
                raise error from None


async def node_ready(client: Any, name: str, notify: Callable[..., None]) -> None:
    """Return when the node is alive (its Lease was renewed since now) and Ready; tell what keeps it from it.

    The Lease is what counts first: a Node object says Ready long after the machine that wrote it was switched off.
    """
    from sampan.client.resources import LEASES, NODES
    from sampan.kube.objects import condition, parse_time

    began = time.time()

    def renewed(lease: dict[str, Any]) -> bool:
        renewal = lease["spec"].get("renewTime")
        return bool(renewal) and parse_time(renewal).timestamp() >= began

    told = ""

    def ready(node: dict[str, Any]) -> bool:
        nonlocal told
        found = condition(node, "Ready") or {}
        why = found.get("message") or found.get("reason") or ""
        # Unknown is what an earlier run left behind; only the node's own word counts.
        if found.get("status") == "False" and why != told:
            told = why
            notify("not-ready", why)
        return found.get("status") == "True"

    await seen(client, LEASES, "kube-node-lease", name, renewed)
    await seen(client, NODES, "", name, ready)


async def seen(
    client: Any, gvr: Any, namespace: str, name: str, wanted: Callable[[dict[str, Any]], bool]
) -> None:
    """Return at the first version of the object that is as `wanted`."""
    while True:
        watch = client.watch(gvr, namespace, field_selector=f"metadata.name={name}")
        async with aclosing(watch) as events:
            async for event in events:
                if event.type != "BOOKMARK" and wanted(event.object):
                    return
