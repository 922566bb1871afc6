"""Controllers: each drives the cluster, one key at a time, from what it is to what its objects say it should be.

`run` starts them all on one client. A controller is one entry in `CONTROLLERS` and one file; any of them runs against any
Kubernetes API.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from sampan.client.client import Client

# module, class
CONTROLLERS: tuple[tuple[str, str], ...] = (
    ("namespace", "NamespaceController"),
    ("namespace", "NamespaceContentController"),
    ("tokens", "TokenController"),
    ("signing_requests", "ApprovingController"),
    ("signing_requests", "SigningController"),
    ("signing_requests", "CleaningController"),
    ("clusterroleaggregation", "ClusterRoleAggregationController"),
    ("policystatus", "PolicyStatusController"),
    ("bootstraptokens", "TokenCleaner"),
    ("bootstraptokens", "BootstrapSigner"),
    ("deployment", "DeploymentController"),
    ("replicaset", "ReplicaSetController"),
    ("replicationcontroller", "ReplicationControllerController"),
    ("endpoints", "EndpointSliceController"),
    ("endpoints", "EndpointsController"),
    ("mirroring", "EndpointSliceMirroringController"),
    ("nodelifecycle", "NodeLifecycleController"),
    ("servicecidrs", "ServiceCIDRController"),
    ("disruption", "DisruptionController"),
    ("daemonset", "DaemonSetController"),
    ("statefulset", "StatefulSetController"),
    ("job.controller", "JobController"),
    ("job.cron", "CronJobController"),
    ("job.expiry", "JobExpiryController"),
    ("resourcequota", "ResourceQuotaController"),
    ("storageprotection", "ClaimProtectionController"),
    ("storageprotection", "VolumeProtectionController"),
    ("storageprotection", "AttributesClassProtectionController"),
    ("persistentvolume.claims", "ClaimController"),
    ("persistentvolume.volumes", "VolumeController"),
    ("persistentvolume.ephemeral", "EphemeralVolumeController"),
    ("virtualmachine", "VirtualMachineController"),
    ("autoscaling.controller", "HorizontalController"),
)

LegacyToken = Callable[[dict[str, Any], str], str]
Sign = Callable[[str, list[str], int | None], str]


async def run(
    client: Client,
    *,
    root_ca: str = "",
    legacy_token: LegacyToken | None = None,
    sign: Sign | None = None,
    arguments: Iterable[str] = (),
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    ready: asyncio.Event | None = None,
) -> None:
    """Run every controller until cancelled.

    `root_ca` is the PEM that namespaces publish; `legacy_token(service account, name of the Secret)` signs tokens for Secrets;
    `sign(request, usages, seconds)` certificates.
    `arguments` are flags of kube-controller-manager, `name=value` (flags.py).
    `ready` is set once all informers have synced and workers run.
    """
    from sampan.client.events import EventRecorder
    from sampan.controllers.base import Context
    from sampan.controllers.flags import read
    from sampan.controllers.garbage import GarbageCollector

    recorders: dict[str, EventRecorder] = {}

    def recorder(component: str) -> EventRecorder:
        if component not in recorders:
            recorders[component] = EventRecorder(client, component)
        return recorders[component]

    context = Context(client, recorder, root_ca=root_ca, clock=clock, monotonic=monotonic)
    context.autoscaling = read(arguments)
    if legacy_token is not None:
        context.legacy_token = legacy_token
    if sign is not None:
        context.sign = sign
    controllers = []
    for module, name in CONTROLLERS:
        kind = getattr(importlib.import_module(f"sampan.controllers.{module}"), name)
        controllers.append(kind(context))
    collector = GarbageCollector(context)
    async with asyncio.TaskGroup() as group:
        for item in recorders.values():
            item.start(group)
        for informer in context.informers.values():
            informer.start(group)
        for informer in context.informers.values():
            await informer.synced()
        for controller in controllers:
            group.create_task(controller.run())
        if ready is not None:
            ready.set()
        group.create_task(collector.run())
