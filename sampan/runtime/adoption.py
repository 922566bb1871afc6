"""After a restart: records are read, kinds asked what still runs, ends recorded, and leftovers removed.

A sandbox of which nothing is left, or not its network (the machine was rebooted), becomes NOTREADY and its containers
exited: kubelet then makes a new one. What has no record was left by a crash in the middle of a creation, before it was answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.linux import mounts, trees
from sampan.network.pods import PodRef
from sampan.runtime import endings, groups, spec
from sampan.runtime.records import ContainerEntry, SandboxEntry, load_all
from sampan.runtime.sandbox import Exit, SandboxRecord

if TYPE_CHECKING:
    from sampan.runtime.service import RuntimeService

LOG = logging.getLogger(__name__)


async def adopt(service: RuntimeService) -> None:
    directory = service.config.directory
    inventory = service.inventory
    sandboxes, broken = load_all(directory / "sandboxes", SandboxEntry.load)
    inventory.sandboxes.update((entry.id, entry) for entry in sandboxes)
    containers, also_broken = load_all(directory / "containers", ContainerEntry.load)
    for entry in containers:
        if sandbox := inventory.sandboxes.get(entry.sandbox_id):
            inventory.containers[entry.id] = entry
            sandbox.started = sandbox.started or entry.started_at > 0 or entry.exit is not None
        else:
            also_broken.append(entry.directory)
    for sandbox in sandboxes:
        if sandbox.ready:
            await adopt_sandbox(service, sandbox)
    await service.host_ports.restore(
        (entry.id, entry.network.addresses[0], spec.ports(entry.config))
        for entry in sandboxes
        if entry.ready and entry.network.namespace is not None
    )
    await collect(service, also_broken)
    for path in (*broken, *also_broken):
        mounts.unmount_below(path)
        await asyncio.to_thread(trees.remove_quietly, path)


async def adopt_sandbox(service: RuntimeService, entry: SandboxEntry) -> None:
    inventory = service.inventory
    containers = inventory.containers_of(entry)
    started = {item.id: service.container_spec(item) for item in containers if item.started_at}
    # One that was killed in the middle of a start may run all the same: the kind knows.
    created = {item.id: service.container_spec(item) for item in containers if not item.started_at}
    record = SandboxRecord(service._sandbox_spec(entry), entry.kind, {**started, **created})
    try:
        entry.sandbox = await inventory.kind(entry.kind).adopt(record)
    except Exception:
        LOG.exception("adopting sandbox %s", entry.id)
    namespace = entry.network.namespace
    if entry.sandbox is not None and namespace is not None and not os.path.ismount(namespace):
        LOG.info("sandbox %s has lost its network: it ends", entry.id)
        await entry.sandbox.stop(0)
        entry.sandbox = None
    for container in containers:
        process = await entry.sandbox.process(container.id) if entry.sandbox else None
        if process is not None and container.exit is None:
            service.watch(container, process)
        elif process is not None:
            container.process = process
        elif container.started_at and container.exit is None:
            container.exit = Exit(
                255, time.time_ns(), "Unknown", "the container is no longer there"
            )
            container.save()
    if entry.sandbox is None:
        entry.ready = False
        entry.save()
    else:
        endings.attend(inventory, entry)


async def collect(service: RuntimeService, strays: list[Path]) -> None:
    """Networks and whatever else belongs to no sandbox that is known and ready."""
    inventory = service.inventory
    living = {entry.id for entry in inventory.sandboxes.values() if entry.ready}
    for identifier in set(await service.config.network.owners()) - living:
        known = inventory.sandboxes.get(identifier)
        metadata = known.config.metadata if known else None
        reference = PodRef(
            identifier,
            metadata.namespace if metadata else "",
            metadata.name if metadata else "",
            metadata.uid if metadata else "",
        )
        LOG.info("removing the network of sandbox %s, which does not run", identifier)
        await service.config.network.detach(reference)
        if known is not None:
            known.network.let_go()
    for name in service.config.known:
        # A kind that was never used here has no directory, and is not imported to look for leftovers.
        if (service.config.directory / name).is_dir():
            try:
                if sweep := getattr(inventory.kind(name), "collect", None):
                    await sweep(living, strays)
            except ImportError as error:
                LOG.warning("leftovers of the kind %r cannot be looked for: %s", name, error)
    await groups.collect(service.config.instance, living)
