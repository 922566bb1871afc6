"""What devices there are, and who holds them: plug-ins offer, pods ask by `resources.limits`, containers are given.

A plug-in that goes away leaves its resource at zero allocatable; after a while its devices are forgotten and the capacity
is zero too, also after a restart of the node. Devices of init containers are given on to the containers after
them, as kubelet does. Grants are on disk before the pod counts as admitted. KEP-3573.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.kube.quantity import parse
from sampan.node import podspec
from sampan.node.devices.ledger import Grant, Ledger
from sampan.node.environment import CONFIG_ERROR
from sampan.node.errors import ContainerError
from sampan.node.gate import Shortage
from sampan.node.podspec import INIT, Object

if TYPE_CHECKING:
    from sampan.node.devices.plugin import Device, Plugin

log = logging.getLogger(__name__)

FORGOTTEN_AFTER = 300.0  # seconds that the devices of a plug-in that is away count as capacity


class Broker:
    def __init__(self, path: Path, group: asyncio.TaskGroup, changed: Callable[[], None]) -> None:
        """`path`: the checkpoint. `changed` is called when the node's amounts are others."""
        self._ledger = Ledger(path)
        self._group = group
        self._changed = changed
        self._plugins: dict[str, Plugin] = {}
        self._offers: dict[str, dict[str, Device]] = {r: {} for r in self._ledger.resources}
        self._away: dict[str, asyncio.TimerHandle] = {}

    # Plug-ins

    def amounts(self) -> dict[str, tuple[int, int]]:
        """(capacity, allocatable) by resource."""
        return {
            resource: (len(offer), sum(device.healthy for device in offer.values()))
            for resource, offer in self._offers.items()
        }

    def offered(self) -> Iterable[tuple[str, Device]]:
        for resource, offer in self._offers.items():
            for device in offer.values():
                yield resource, device

    async def register(self, plugin: Plugin) -> None:
        """A plug-in that answers. Of two for one resource the later one counts."""
        resource = plugin.resource
        before = self._plugins.get(resource)
        self._plugins[resource] = plugin
        if before is not None:
            await before.close()
        if timer := self._away.pop(resource, None):
            timer.cancel()
        if resource not in self._ledger.resources:
            self._ledger.resources.add(resource)
            self._offers.setdefault(resource, {})
            await asyncio.to_thread(self._ledger.save)
        self._group.create_task(self._follow(plugin), name=f"devices {resource}")

    async def _follow(self, plugin: Plugin) -> None:
        from sampan.node.devices.plugin import PluginError

        try:
            async for devices in plugin.devices():
                if self._plugins.get(plugin.resource) is plugin:
                    self._offer(plugin.resource, devices)
        except PluginError as error:
            log.warning("device plugin of %s: %s", plugin.resource, error)
        except Exception:
            # Root of this task: one plug-in's trouble is not the node's.
            log.exception("device plugin of %s", plugin.resource)
        finally:
            if self._plugins.get(plugin.resource) is plugin:
                await self._leave(plugin)

    async def _leave(self, plugin: Plugin) -> None:
        resource = plugin.resource
        del self._plugins[resource]
        self._offer(resource, [d._replace(healthy=False) for d in self._offers[resource].values()])
        loop = asyncio.get_running_loop()
        self._away[resource] = loop.call_later(FORGOTTEN_AFTER, self._forget, resource)
        await plugin.close()

    def _forget(self, resource: str) -> None:
        del self._away[resource]
        self._offer(resource, [])

    def _offer(self, resource: str, devices: Iterable[Device]) -> None:
        before = self.amounts().get(resource)
        self._offers[resource] = {device.id: device for device in devices}
        if self.amounts()[resource] != before:
            self._changed()

    async def close(self) -> None:
        for timer in self._away.values():
            timer.cancel()
        for plugin in list(self._plugins.values()):
            await plugin.close()

    # Pods

    def keep_only(self, uids: Collection[str]) -> None:
        """At start: pods that ended while the node was away hold nothing."""
        self._ledger.keep_only(uids)

    def release(self, uid: str) -> None:
        self._ledger.drop(uid)

    def held(self, uid: str, container: str) -> Iterable[Grant]:
        return self._ledger.of(uid, container).values()

    async def allocate(self, pod: Object) -> None:
        """Give every container the devices that it asks for. Raises Shortage; then the pod holds none."""
        if not any(self._asked(named.container) for named in podspec.containers(pod)):
            return
        uid = pod["metadata"]["uid"]
        passed_on: dict[str, set[str]] = {}
        try:
            for named in podspec.containers(pod):
                for resource, count in self._asked(named.container).items():
                    free = passed_on.setdefault(resource, set())
                    ids = await self._give(
                        uid, named.container["name"], resource, count, free.copy()
                    )
                    (free.update if named.kind == INIT else free.difference_update)(ids)
            await asyncio.to_thread(self._ledger.save)
        except BaseException:
            self._ledger.drop(uid)
            raise

    def _asked(self, container: Object) -> dict[str, int]:
        limits = (container.get("resources") or {}).get("limits") or {}
        return {
            name: count
            for name, text in limits.items()
            if name in self._offers and (count := parse(text).value()) > 0
        }

    async def _give(
        self, uid: str, container: str, resource: str, count: int, passed_on: set[str]
    ) -> tuple[str, ...]:
        if (grant := self._ledger.of(uid, container).get(resource)) and len(grant.ids) == count:
            return grant.ids
        plugin = self._plugins.get(resource)
        healthy = {device.id for device in self._offers[resource].values() if device.healthy}
        if plugin is None or not healthy:
            raise Shortage(
                f"no healthy devices present; cannot allocate unhealthy devices {resource}"
            )
        passed_on &= healthy
        available = (healthy - self._ledger.taken(resource)) | passed_on
        if len(available) < count:
            raise Shortage(
                f"requested number of devices unavailable for {resource}. "
                f"Requested: {count}, Available: {len(available)}"
            )
        must = sorted(passed_on)[:count]
        ids = await _ask(self._chosen(plugin, available, must, count))
        answer = await _ask(plugin.allocate(ids))
        self._ledger.put(uid, container, Grant(resource, ids, answer.SerializeToString()))
        return ids

    async def _chosen(
        self, plugin: Plugin, available: set[str], must: list[str], count: int
    ) -> tuple[str, ...]:
        preferred: list[str] = []
        if plugin.prefers and len(available) > count > len(must):
            preferred = await plugin.preferred(sorted(available), must, count)
        in_order = [*must, *(id for id in preferred if id in available), *sorted(available)]
        return tuple(sorted(list(dict.fromkeys(in_order))[:count]))

    async def give(self, pod: Object, container: Object, config: Any) -> None:
        """Put the container's devices into its ContainerConfig; before every start of it. Raises ContainerError."""
        asked = self._asked(container)
        if not asked:
            return
        from sampan.node.devices import plugin_pb2
        from sampan.node.devices.plugin import PluginError

        uid, name = pod["metadata"]["uid"], container["name"]
        try:
            if any(resource not in self._ledger.of(uid, name) for resource in asked):
                await self.allocate(pod)
            for resource in asked:
                grant = self._ledger.of(uid, name)[resource]
                plugin = self._plugins.get(resource)
                if plugin is not None and plugin.pre_starts:
                    await plugin.pre_start(grant.ids)
                add(config, plugin_pb2.ContainerAllocateResponse.FromString(grant.answer))
        except (Shortage, PluginError) as error:
            raise ContainerError(str(error), CONFIG_ERROR) from error


async def _ask(answer: Awaitable[Any]) -> Any:
    from sampan.node.devices.plugin import PluginError

    try:
        return await answer
    except PluginError as error:
        raise Shortage(str(error)) from error


def add(config: Any, answer: Any) -> None:
    """A plug-in's ContainerAllocateResponse on top of a CRI ContainerConfig. What the pod says of itself wins."""
    known = {env.key for env in config.envs}
    for key, value in answer.envs.items():
        if key not in known:
            config.envs.add(key=key, value=value)
    targets = {mount.container_path for mount in config.mounts}
    for mount in answer.mounts:
        if mount.container_path not in targets:
            config.mounts.add(
                container_path=mount.container_path,
                host_path=mount.host_path,
                readonly=mount.read_only,
            )
    present = {device.container_path for device in config.devices}
    for device in answer.devices:
        if device.container_path not in present:
            config.devices.add(
                container_path=device.container_path,
                host_path=device.host_path,
                permissions=device.permissions,
            )
    for key, value in answer.annotations.items():
        if key not in config.annotations:
            config.annotations[key] = value
    names = {device.name for device in config.CDI_devices}
    for device in answer.cdi_devices:
        if device.name not in names:
            config.CDI_devices.add(name=device.name)
