"""Image volumes (KEP-4639): the files of an image, read-only, mounted where a container's spec looks for them.

They are mounted when the container is created, so that an image or a sub-path that is not there fails the creation, and
unmounted when it is removed. With root an image of one layer is a bind mount and one of several an overlayfs without a
writable layer. Without root nothing can be mounted: an image of one layer is its directory, one of several a
tree of hard links.
"""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cri.errors import InvalidArgument, NotFound
from sampan.image.errors import ImageNotFound
from sampan.image.store import ImageStore
from sampan.linux import mounts
from sampan.runtime import kernel
from sampan.runtime.beneath import resolve
from sampan.runtime.spec import image_volume

if TYPE_CHECKING:
    from sampan.runtime.microvm.erofs import Node

LOCKED = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV


async def mount_all(images: ImageStore, wanted: Any, directory: Path) -> None:
    """Mount those of a container's mounts that are images, and note in each which image it was (`image_ref`).

    Raises NotFound without the image, InvalidArgument for a sub-path that it does not have.
    """
    for number, item in enumerate(wanted):
        if not item.HasField("image"):
            continue
        try:
            image = await images.unpack(item.image.image)
        except ImageNotFound as error:
            raise NotFound(str(error)) from error
        place = image_volume(directory, number)
        await kernel.in_thread(partial(mount, image.layers, place, item.image_sub_path))
        item.image.image_ref = image.id


def mount(layers: tuple[Path, ...], place: Path, sub_path: str) -> None:
    """Runs in a thread of its own: it may change its working directory."""
    place.mkdir(parents=True, mode=0o755)
    if os.geteuid() != 0:
        source = within(whole(layers, place), sub_path)
        place.rmdir()
        place.symlink_to(source)
        return
    if len(layers) > 1:
        # Relative names: a page of options holds few paths with a digest in each.
        base = os.path.commonpath(layers)
        names = ":".join(os.path.relpath(layer, base) for layer in reversed(layers))
        kernel.unshare(kernel.CLONE_FS)
        os.chdir(base)
        mounts.mount("overlay", str(place), "overlay", LOCKED, f"lowerdir={names}")
    elif layers:
        mounts.mount(str(layers[0]), str(place), flags=mounts.MS_BIND)
        mounts.mount("", str(place), flags=mounts.MS_REMOUNT | mounts.MS_BIND | LOCKED)
    if not sub_path:
        return
    try:
        with kernel.opened(kernel.open_tree(within(place, sub_path))) as tree:
            is_folder = os.path.isdir(f"/proc/self/fd/{tree}")
            mounts.unmount(place)
            if not is_folder:
                place.rmdir()
                place.touch()
            kernel.move_mount(tree, place)
    except BaseException:
        mounts.unmount(place)
        raise


def whole(layers: tuple[Path, ...], place: Path) -> Path:
    """One directory with the image's files, beside `place` if no layer is that."""
    if len(layers) == 1:
        return layers[0]
    tree = place.with_suffix(".tree")
    if layers:
        from sampan.runtime.microvm.erofs import merge

        link(merge(layers), tree)
    else:
        tree.mkdir()
    return tree


def link(node: Node, place: Path) -> None:
    """A directory of the merged view, whose files are the layers' by another name."""
    place.mkdir(mode=0o755)
    for name, child in node.children.items():
        if child.kind == stat.S_IFDIR:
            link(child, place / name)
        elif child.kind in (stat.S_IFREG, stat.S_IFLNK):
            os.link(child.path, place / name, follow_symlinks=False)


def within(root: Path, sub_path: str) -> Path:
    if ".." in Path(sub_path).parts or sub_path.startswith("/"):
        raise InvalidArgument(f"image_sub_path {sub_path!r}: must be relative, without ..")
    found = resolve(root, sub_path)
    if found is None:
        raise InvalidArgument(f"image_sub_path {sub_path!r}: the image does not have it")
    return found


def unmount_all(directory: Path) -> None:
    """Idempotent."""
    volumes = directory / "volumes"
    for place in volumes.iterdir() if volumes.is_dir() else ():
        mounts.unmount(place)
