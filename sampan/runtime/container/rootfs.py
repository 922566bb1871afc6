"""A container's root: the image's layers as overlayfs, with a writable layer of its own.

mount(2) takes one page of options. Layer paths are long (a digest each), so many of them are named by short links beside the
container, relative to the working directory; the links are followed while mounting and are gone after it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sampan.linux import mounts, trees
from sampan.runtime import kernel
from sampan.runtime.sandbox import CannotStart

PAGE = 4095


def mount(
    directory: Path,
    layers: tuple[Path, ...],
    users: Path | None = None,
    owner: tuple[int, int] = (0, 0),
) -> Path:
    """Mount at `directory`/rootfs; runs in a thread of its own (it may change the working directory).

    Raises CannotStart. Layers are lowest first. `users`: path of the pod's user namespace; the layers, shared by all
    pods, are then lower layers through idmapped mounts, and `owner`, its root on the host, owns the writable one.
    """
    root, upper, work = directory / "rootfs", directory / "upper", directory / "work"
    for path in (root, upper, work):
        path.mkdir(mode=0o755, exist_ok=True)
    if not layers:
        (directory / "empty").mkdir(exist_ok=True)
        layers = (directory / "empty",)
    if users is None:
        return overlay(directory, layers)
    os.chown(upper, *owner)
    mapped: list[Path] = []
    try:
        for layer in layers:
            place = directory / "lower" / str(len(mapped))
            place.mkdir(parents=True, exist_ok=True)
            with kernel.opened(kernel.open_tree(layer)) as tree:
                kernel.map_owners(tree, users)
                kernel.move_mount(tree, place)
            mapped.append(place)
        return overlay(directory, tuple(mapped))
    except OSError as error:
        raise CannotStart(f"cannot map the image's owners: {error.strerror}") from error
    finally:
        # overlayfs holds clones of its own.
        for place in mapped:
            mounts.unmount(place)


def overlay(directory: Path, layers: tuple[Path, ...]) -> Path:
    root, upper, work = directory / "rootfs", directory / "upper", directory / "work"
    tail = f",upperdir={upper},workdir={work}"
    options = "lowerdir=" + ":".join(str(layer) for layer in reversed(layers)) + tail
    links = directory / "links"
    try:
        if len(options) > PAGE:
            names = ":".join(str(number) for number in reversed(range(len(layers))))
            options = f"lowerdir={names}{tail}"
            if len(options) > PAGE:
                raise CannotStart(f"the image has too many layers for overlayfs: {len(layers)}")
            links.mkdir()
            for number, layer in enumerate(layers):
                (links / str(number)).symlink_to(layer)
            kernel.unshare(kernel.CLONE_FS)
            os.chdir(links)
        mounts.mount("overlay", str(root), "overlay", 0, options)
    except OSError as error:
        raise CannotStart(f"cannot mount the image's layers: {error.strerror}") from error
    finally:
        shutil.rmtree(links, ignore_errors=True)
    return root


def unmount(directory: Path) -> None:
    """Unmount what `mount` mounted. Idempotent."""
    while mounts.unmount(directory / "rootfs"):
        pass
    lower = directory / "lower"
    if lower.exists():  # a start that was killed half-way
        mounts.unmount_below(lower)


def written(directory: Path) -> int:
    """Bytes in the writable layer."""
    return trees.size(directory / "upper")


def discard(directory: Path) -> None:
    unmount(directory)
    trees.remove_quietly(directory)
