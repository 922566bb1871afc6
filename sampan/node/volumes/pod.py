"""All volumes of one pod, and the mounts that each of its containers gets from them.

    <pods>/<uid>/volumes/<plugin>/<name>      what is kept on disk
    <volatile>/<uid>/<plugin>/<name>          secrets and tokens: on tmpfs as root
    <pods>/<uid>/subpaths/<container>/<n>     fixed sub-paths, bind mounts
    <pods>/<uid>/etc-hosts                    /etc/hosts
    <pods>/<uid>/termination-<name>-<n>       termination messages

`prepare` may be called as often as one likes: it makes what is missing and rewrites what has changed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from sampan.cri import api_pb2 as api
from sampan.kube import persistent
from sampan.linux import mounts, trees
from sampan.node import environment
from sampan.node.containerconfig import PROPAGATION, MountPoint
from sampan.node.environment import Lookup, NodeFacts
from sampan.node.errors import ClaimError, ContainerError, VolumeError
from sampan.node.podspec import Object
from sampan.node.volumes import atomic, payload, places, subpath

Claim = Callable[[Object, Object], Awaitable[Object]]  # (pod, its volume) → PersistentVolume
MESSAGE_LIMIT = 4096
# Only the node writes to these, so a resolved path inside them stays what it is.
_OURS = payload.KINDS


class PodVolumes:
    def __init__(
        self, directory: Path, volatile: Path, *, root: bool, storage: Path | None = None
    ) -> None:
        """`storage`: where the node keeps directories for PersistentVolumes."""
        self.directory = directory
        self.volatile = volatile
        self.root = root
        self.storage = storage or directory / "storage"
        self.claimed: dict[str, tuple[str, Path]] = {}  # by volume: the claim, and where it is
        self._readonly: set[str] = set()  # volumes that nobody may write to
        self.paths: dict[str, Path] = {}
        self._writable: set[str] = set()
        self._hosts = ""  # what was written

    async def prepare(
        self,
        pod: Object,
        lookup: Lookup,
        facts: NodeFacts,
        token: Callable[[Object, Object], Awaitable[str]],
        claim: Claim,
    ) -> None:
        """Every volume of the pod is there and up to date on return. Raises VolumeError naming the volume."""
        for volume in pod["spec"].get("volumes") or ():
            name = volume["name"]
            try:
                await self._prepare_one(pod, volume, lookup, facts, token, claim)
            except ClaimError as error:
                text = (
                    f"Unable to attach or mount volumes: unmounted volumes=[{name}], "
                    f"unattached volumes=[], failed to process volumes=[{name}]: {error}"
                )
                raise VolumeError(text) from error
            except (VolumeError, OSError, ValueError) as error:
                text = f'MountVolume.SetUp failed for volume "{name}" : {error}'
                raise VolumeError(text) from error

    async def _prepare_one(
        self,
        pod: Object,
        volume: Object,
        lookup: Lookup,
        facts: NodeFacts,
        token: Callable[[Object, Object], Awaitable[str]],
        claim: Claim,
    ) -> None:
        name = volume["name"]
        group = self._group(pod)
        plugin = next((key for key in volume if key != "name"), "emptyDir")
        if plugin in payload.KINDS:
            tokens = {
                request["path"]: await token(pod, request)
                for request in payload.token_requests(volume)
            }
            files = payload.make(pod, volume, lookup, facts, tokens)
            path = self._place(plugin, name, secret=plugin in ("secret", "projected"))
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            atomic.write(path, files if self.root else _without_owner(files), group)
            self.paths[name] = path
            return
        fresh = name not in self.paths
        self._writable.add(name)
        if plugin == "emptyDir":
            path = self._place(plugin, name)
            if fresh:
                places.empty_dir(path, volume.get("emptyDir") or {}, self.root, group)
        elif plugin == "hostPath":
            path = places.host_path(volume["hostPath"])
        elif plugin == "image":
            return  # the runtime mounts it with each container
        elif plugin in ("persistentVolumeClaim", "ephemeral"):
            if not fresh:
                return
            path = await self._claimed(pod, volume, claim, group)
        else:
            raise VolumeError(f"no volume plugin matched: {plugin} is not supported by this node")
        self.paths[name] = path

    async def _claimed(self, pod: Object, volume: Object, claim: Claim, group: int | None) -> Path:
        """Where the volume behind a claim is."""
        found, name = await claim(pod, volume), volume["name"]
        path = places.persistent(found, self.storage)
        self.claimed[name] = persistent.claim_of(pod, volume), path
        if (volume.get("persistentVolumeClaim") or {}).get("readOnly"):
            self._readonly.add(name)
        elif group is not None and "local" in found["spec"] and path.is_dir():
            # A hostPath is somebody else's directory, and stays as it is (as kubelet has it).
            shared = pod["spec"].get("securityContext") or {}
            lazy = shared.get("fsGroupChangePolicy") == "OnRootMismatch"
            if not (lazy and places.belongs_to(path, group)):
                await asyncio.to_thread(places.give_to_group, path, group)
        return path

    def _group(self, pod: Object) -> int | None:
        """fsGroup, where this node can give files away."""
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        return group if self.root else None

    def _place(self, plugin: str, name: str, *, secret: bool = False) -> Path:
        if secret:
            return self.volatile / plugin / name
        return self.directory / "volumes" / plugin / name

    def empty_dirs(self, pod: Object) -> dict[str, Path]:
        """Where the pod's emptyDirs are, whether or not they were made."""
        return {
            volume["name"]: self._place("emptyDir", volume["name"])
            for volume in pod["spec"].get("volumes") or ()
            if "emptyDir" in volume
        }

    def mounts(
        self, container: Object, env: Mapping[str, str], images: Mapping[str, str] | None = None
    ) -> list[MountPoint]:
        """`images`: volumes that are images, and their ids. Raises ContainerError (CreateContainerConfigError) when a
        sub-path cannot be had."""
        result = []
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            if images and (image := images.get(mount["name"])):
                within = environment.expand(mount.get("subPathExpr") or "", env)
                within = within or mount.get("subPath") or ""
                result.append(
                    MountPoint(image, mount["mountPath"], True, is_image=True, sub_path=within)
                )
                continue
            source = self.paths.get(mount["name"])
            if source is None:
                text = f"volume {mount['name']!r} of container {container['name']!r} is not mounted"
                raise ContainerError(text, environment.CONFIG_ERROR)
            sub = mount.get("subPath") or ""
            if mount.get("subPathExpr"):
                sub = environment.expand(mount["subPathExpr"], env)
            origin = str(source)
            if sub:
                writable = mount["name"] in self._writable
                place = self.directory / "subpaths" / container["name"] / str(index)
                try:
                    origin = subpath.mount_source(
                        source, sub, place, create=writable, bind=self.root and writable
                    )
                except (VolumeError, OSError) as error:
                    text = (
                        f"failed to prepare subPath for volumeMount "
                        f'"{mount["name"]}" of container "{container["name"]}": {error}'
                    )
                    raise ContainerError(text, environment.CONFIG_ERROR) from error
            result.append(
                MountPoint(
                    origin,
                    mount["mountPath"],
                    bool(mount.get("readOnly")) or mount["name"] in self._readonly,
                    PROPAGATION[mount.get("mountPropagation") or "None"],
                )
            )
        return result

    def devices(self, container: Object) -> list[api.Device]:
        """Block volumes of the container (KEP-351). Raises ContainerError."""
        found = []
        for device in container.get("volumeDevices") or ():
            path = self.paths.get(device["name"])
            if path is None:
                text = f"volume {device['name']!r} of container {container['name']!r} is not mapped"
                raise ContainerError(text, environment.CONFIG_ERROR)
            allowed = "r" if device["name"] in self._readonly else "rwm"
            found.append(
                api.Device(
                    container_path=device["devicePath"], host_path=str(path), permissions=allowed
                )
            )
        return found

    def hosts(self, text: str) -> MountPoint:
        path = str(self.directory / "etc-hosts")
        if self._hosts != text:
            # In place: a bind mount of it in a running container must see the new text.
            self._put(path, text.encode(), 0o644)
            self._hosts = text
        return MountPoint(path, "/etc/hosts")

    def message(self, container: str, restarts: int) -> Path:
        return self.directory / f"termination-{container}-{restarts}"

    def message_mount(self, container: Object, restarts: int) -> MountPoint:
        """The file behind terminationMessagePath, empty and writable for any user of the container."""
        path = str(self.message(container["name"], restarts))
        self._put(path, b"", 0o666)
        target = container.get("terminationMessagePath") or "/dev/termination-log"
        return MountPoint(path, target)

    def _put(self, path: str, content: bytes, mode: int) -> None:
        """A file in the pod's directory, whatever the umask."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, mode)
        except FileNotFoundError:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, mode)
        try:
            os.write(descriptor, content)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def read_message(self, container: str, restarts: int) -> str:
        try:
            descriptor = os.open(
                self.message(container, restarts), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError:
            return ""
        with os.fdopen(descriptor, "rb") as file:
            return file.read(MESSAGE_LIMIT).decode("utf-8", "replace")

    def remove_mounts(self) -> None:
        """The pod has ended: memory and mounts are given back; what is on disk stays until it is removed."""
        if self.root:
            self._unmount(self.directory)
            self._unmount(self.volatile)
        trees.remove_quietly(self.volatile)
        self.paths.clear()
        self.claimed.clear()

    @staticmethod
    def _unmount(directory: Path) -> None:
        mounts.unmount_below(directory)
        if left := mounts.mounts_below(directory):
            raise VolumeError(f"still mounted: {', '.join(left)}")

    def remove(self) -> None:
        """Nothing of the pod's is left on return. Idempotent. Raises VolumeError when a mount does not go away.

        Files are deleted only after no mount is left below: a bind mount that stayed would lead to somebody's data.
        """
        for directory in (self.volatile, self.directory):
            if not directory.exists():
                continue
            if self.root:
                self._unmount(directory)
            trees.remove(directory)
        self.paths.clear()


def _without_owner(files: atomic.Payload) -> atomic.Payload:
    return {name: atomic.File(file.content, file.mode) for name, file in files.items()}


def prepare_volatile(run_dir: Path, *, root: bool) -> Path:
    """Where secrets live: on tmpfs as root (one mount for all pods unless the run directory is tmpfs), else 0700."""
    place = run_dir / "volumes"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    if root and not mounts.is_in_memory(place.resolve()):
        try:
            mounts.mount("tmpfs", place, "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, "mode=0700")
        except PermissionError:
            # Root of a container without CAP_SYS_ADMIN: the directory's mode has to do.
            return place
    return place


def release(pods_dir: Path, run_dir: Path, *, root: bool) -> None:
    """After the last pod was ended without its node agent: no mount and no secret of any pod is left. Idempotent."""
    place = run_dir / "volumes"
    for directory in (pods_dir, place):
        if not directory.is_dir():
            continue
        if root:
            mounts.unmount_below(directory.resolve())
            if left := mounts.mounts_below(directory.resolve()):
                raise VolumeError(f"still mounted: {', '.join(left)}")
        trees.remove(directory)
