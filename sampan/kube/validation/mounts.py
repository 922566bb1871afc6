"""Mounts of volumes and devices in a container, and the paths inside volumes."""

from __future__ import annotations

from typing import Final

from sampan.kube.errors import (
    forbidden_field,
    invalid_value,
    not_found_value,
    not_supported,
    required,
)
from sampan.kube.validation.rules import Causes, Object

_PROPAGATIONS: Final = frozenset(("None", "HostToContainer", "Bidirectional"))
_RECURSIVE: Final = frozenset(("Disabled", "IfPossible", "Enabled"))
_BLOCK: Final = (
    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
)


def local_path(causes: Causes, path: str, value: str) -> None:
    """A path below a volume: relative, and never upwards."""
    if value.startswith("/"):
        causes.append(invalid_value(path, value, "must be a relative path"))
    no_parent(causes, path, value)


def no_parent(causes: Causes, path: str, value: str) -> None:
    if ".." in value and ".." in value.split("/"):
        causes.append(invalid_value(path, value, "must not contain '..'"))


def own_path(causes: Causes, path: str, value: str) -> None:
    """A local path that does not begin like those that the atomic writer of volumes keeps for itself (`..data`)."""
    local_path(causes, path, value)
    if value.startswith("..") and not value.startswith("../"):
        causes.append(invalid_value(path, value, "must not start with '..'"))


def mounts(
    found: list[Object], container: Object, causes: Causes, path: str, volumes: dict[str, Object]
) -> None:
    devices = container.get("volumeDevices")
    names_taken = {item.get("name") for item in devices} if devices else ()
    paths_taken = {item.get("devicePath") for item in devices} if devices else ()
    places: set[str] = set()
    for index, mount in enumerate(found):
        where = f"{path}[{index}]"
        name, place = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        if name not in volumes:
            causes.append(not_found_value(f"{where}.name", name))
        if not place:
            causes.append(required(f"{where}.mountPath"))
        if place in places:
            causes.append(invalid_value(f"{where}.mountPath", place, "must be unique"))
        places.add(place)
        if devices:
            if name in names_taken:
                text = "must not already exist in volumeDevices"
                causes.append(invalid_value(f"{where}.name", name, text))
            if place in paths_taken:
                text = "must not already exist as a path in volumeDevices"
                causes.append(invalid_value(f"{where}.mountPath", place, text))
        if sub_path := mount.get("subPath"):
            local_path(causes, f"{path}.subPath", sub_path)  # Kubernetes names no index
        if expression := mount.get("subPathExpr"):
            if sub_path:
                text = "subPathExpr and subPath are mutually exclusive"
                causes.append(invalid_value(f"{where}.subPathExpr", expression, text))
            local_path(causes, f"{path}.subPathExpr", expression)
        if mount.get("mountPropagation") is not None or mount.get("recursiveReadOnly") is not None:
            _propagation(mount, container, causes, path)  # Kubernetes names no index


def _propagation(mount: Object, container: Object, causes: Causes, path: str) -> None:
    mode = mount.get("mountPropagation")
    if mode is not None and mode not in _PROPAGATIONS:
        causes.append(not_supported(f"{path}.mountPropagation", mode, sorted(_PROPAGATIONS)))
    if mode == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
        text = "Bidirectional mount propagation is available only to privileged containers"
        causes.append(forbidden_field(f"{path}.mountPropagation", text))
    recursive = mount.get("recursiveReadOnly")
    where = f"{path}.recursiveReadOnly"
    if recursive is not None and recursive not in _RECURSIVE:
        causes.append(not_supported(where, recursive, sorted(_RECURSIVE)))
    if recursive in ("IfPossible", "Enabled"):
        if not mount.get("readOnly"):
            causes.append(forbidden_field(where, "may only be specified when readOnly is true"))
        if mode not in (None, "None"):
            text = "may only be specified when mountPropagation is None or not specified"
            causes.append(forbidden_field(where, text))


def devices(
    found: list[Object], container: Object, causes: Causes, path: str, volumes: dict[str, Object]
) -> None:
    mounted = container.get("volumeMounts") or ()
    names_taken = {item.get("name") for item in mounted}
    paths_taken = {item.get("mountPath") for item in mounted}
    seen_names: set[str] = set()
    seen_paths: set[str] = set()
    for index, device in enumerate(found):
        where = f"{path}[{index}]"
        name, place = device.get("name") or "", device.get("devicePath") or ""
        source = volumes.get(name)
        if not name:
            causes.append(required(f"{where}.name"))
        if name in seen_names:
            causes.append(invalid_value(f"{where}.name", name, "must be unique"))
        if source is None:
            causes.append(not_found_value(f"{where}.name", name))
        elif not ("persistentVolumeClaim" in source or "ephemeral" in source):
            causes.append(invalid_value(f"{where}.name", name, _BLOCK))
        if not place:
            causes.append(required(f"{where}.devicePath"))
        if place in seen_paths:
            causes.append(invalid_value(f"{where}.devicePath", place, "must be unique"))
        if ".." in place.split("/"):
            text = "can not contain backsteps ('..')"
            causes.append(invalid_value(f"{where}.devicePath", place, text))
        else:
            seen_paths.add(place)
        if name in names_taken:
            text = "must not already exist in volumeMounts"
            causes.append(invalid_value(f"{where}.name", name, text))
        if place in paths_taken:
            text = "must not already exist as a path in volumeMounts"
            causes.append(invalid_value(f"{where}.devicePath", place, text))
        if name:
            seen_names.add(name)


def mode(causes: Causes, path: str, value: int | None) -> None:
    """Permission bits of a projected file."""
    if value is not None and not 0 <= value <= 0o777:
        text = "must be a number between 0 and 0777 (octal), both inclusive"
        causes.append(invalid_value(path, value, text))


def file_path(causes: Causes, path: str, value: str) -> None:
    """Where a projected file goes."""
    if not value:
        causes.append(required(path))
    else:
        own_path(causes, path, value)


def absolute(causes: Causes, path: str, value: str) -> None:
    if not value.startswith("/"):
        causes.append(invalid_value(path, value, "must be an absolute path"))
