"""Volumes of a pod: a unique name, exactly one source, and what each source needs. One table, one row per source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.kube import names
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, required
from sampan.kube.validation import rules
from sampan.kube.validation.containers import (
    field_ref,
    local_path,
    no_parent,
    resource_field_ref,
)
from sampan.kube.validation.rules import Causes, Object

_HOST_TYPES: Final = frozenset(
    (
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    )
)
_PULL_POLICIES: Final = frozenset(("Always", "IfNotPresent", "Never"))
_FILE_FIELDS: Final = frozenset(("metadata.name", "metadata.namespace", "metadata.uid"))
_FILE_MAPS: Final = _FILE_FIELDS | {"metadata.annotations", "metadata.labels"}
_MODE_TEXT: Final = "must be a number between 0 and 0777 (octal), both inclusive"


def validate_volumes(volumes: list[Object], causes: Causes, path: str) -> dict[str, Object]:
    """Check them, and return them by name for whatever refers to them."""
    by_name: dict[str, Object] = {}
    for index, volume in enumerate(volumes):
        where = f"{path}[{index}]"
        _sources(volume, causes, where)
        name = volume.get("name") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        elif reasons := names.dns1123_label(name):
            causes.extend(invalid_value(f"{where}.name", name, reason) for reason in reasons)
        elif name in by_name:
            causes.append(duplicate(f"{where}.name", name))
        by_name[name] = volume
    return by_name


def _sources(volume: Object, causes: Causes, path: str) -> None:
    found = 0
    for field, source in volume.items():
        if field == "name" or source is None:
            continue
        found += 1
        if found > 1:
            text = "may not specify more than 1 volume type"
            causes.append(forbidden_field(f"{path}.{field}", text))
        elif (check := _SOURCES.get(field)) is not None:
            check(source, causes, f"{path}.{field}")
    if not found:
        causes.append(required(path, "must specify a volume type"))


def _need(*fields: str) -> Callable[[Object, Causes, str], None]:
    def check(source: Object, causes: Causes, path: str) -> None:
        causes.extend(required(f"{path}.{field}") for field in fields if not source.get(field))

    return check


def host_path(source: Object, causes: Causes, path: str) -> None:
    if not source.get("path"):
        causes.append(required(f"{path}.path"))
        return
    no_parent(causes, f"{path}.path", source["path"])
    rules.optional_choice(causes, f"{path}.type", source.get("type"), _HOST_TYPES)


def _empty_dir(source: Object, causes: Causes, path: str) -> None:
    limit = source.get("sizeLimit")
    if limit is not None and rules.parsed(limit).nanos() < 0:
        text = "SizeLimit field must be a valid resource quantity"
        causes.append(forbidden_field(f"{path}.sizeLimit", text))


def _mode(causes: Causes, path: str, mode: int | None) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        causes.append(invalid_value(path, mode, _MODE_TEXT))


def _file_path(causes: Causes, path: str, value: str) -> None:
    """Where a projected file goes. `..data` and the like belong to the atomic writer."""
    if not value:
        causes.append(required(path))
        return
    local_path(causes, path, value)
    if value.startswith("..") and not value.startswith("../"):
        causes.append(invalid_value(path, value, "must not start with '..'"))


def _items(source: Object, causes: Causes, path: str) -> None:
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        if not item.get("key"):
            causes.append(required(f"{where}.key"))
        _file_path(causes, f"{where}.path", item.get("path") or "")
        _mode(causes, f"{where}.mode", item.get("mode"))


def _secret(source: Object, causes: Causes, path: str) -> None:
    if not source.get("secretName"):
        causes.append(required(f"{path}.secretName"))
    _mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    _items(source, causes, path)


def _config_map(source: Object, causes: Causes, path: str) -> None:
    if not source.get("name"):
        causes.append(required(f"{path}.name"))
    _mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    _items(source, causes, path)


def _downward(source: Object, causes: Causes, path: str) -> None:
    _mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        _file_path(causes, f"{where}.path", item.get("path") or "")
        _mode(causes, f"{where}.mode", item.get("mode"))
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            field_ref(field, causes, f"{where}.fieldRef", _FILE_MAPS)
            if resource is not None:
                text = "fieldRef and resourceFieldRef can not be specified simultaneously"
                causes.append(invalid_value(where, "resource", text))
        elif resource is not None:
            resource_field_ref(resource, causes, f"{where}.resourceFieldRef", container_needed=True)
        else:
            causes.append(
                required(f"{where}.fieldRef", "one of fieldRef and resourceFieldRef is required")
            )


def _projected(source: Object, causes: Causes, path: str) -> None:
    _mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    for index, projection in enumerate(source.get("sources") or ()):
        where = f"{path}.sources[{index}]"
        given = [field for field, value in projection.items() if value is not None]
        if len(given) != 1:
            if given:
                text = "may not specify more than 1 volume type"
                causes.append(forbidden_field(f"{where}.{given[1]}", text))
            else:
                causes.append(required(where, "must specify a volume type"))
            continue
        (field,) = given
        if (check := _PROJECTIONS.get(field)) is not None:
            check(projection[field], causes, f"{where}.{field}")


def _named_projection(source: Object, causes: Causes, path: str) -> None:
    if not source.get("name"):
        causes.append(required(f"{path}.name"))
    _items(source, causes, path)


def _token(source: Object, causes: Causes, path: str) -> None:
    seconds = source.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        text = "may not specify a duration less than 10 minutes"
        causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
    if seconds is not None and seconds > 2**32:
        text = "may not specify a duration larger than 2^32 seconds"
        causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
    _file_path(causes, f"{path}.path", source.get("path") or "")


def _nfs(source: Object, causes: Causes, path: str) -> None:
    _need("server", "path")(source, causes, path)
    if source.get("path") and not source["path"].startswith("/"):
        text = "must be an absolute path"
        causes.append(invalid_value(f"{path}.path", source["path"], text))


def _ephemeral(source: Object, causes: Causes, path: str) -> None:
    template = source.get("volumeClaimTemplate")
    if not template:
        causes.append(required(f"{path}.volumeClaimTemplate"))
        return
    from sampan.kube.validation.storage import claim_spec  # a cycle: claims name volume modes

    claim_spec(template.get("spec") or {}, causes, f"{path}.volumeClaimTemplate.spec")


def _image(source: Object, causes: Causes, path: str) -> None:
    if not source.get("reference"):
        causes.append(required(f"{path}.reference"))
    rules.optional_choice(causes, f"{path}.pullPolicy", source.get("pullPolicy"), _PULL_POLICIES)


def _csi(source: Object, causes: Causes, path: str) -> None:
    rules.required_name(causes, f"{path}.driver", source.get("driver"), names.dns1123_subdomain)


_SOURCES: dict[str, Callable[[Object, Causes, str], None]] = {
    "hostPath": host_path,
    "emptyDir": _empty_dir,
    "secret": _secret,
    "configMap": _config_map,
    "downwardAPI": _downward,
    "projected": _projected,
    "persistentVolumeClaim": _need("claimName"),
    "nfs": _nfs,
    "ephemeral": _ephemeral,
    "image": _image,
    "csi": _csi,
    "iscsi": _need("targetPortal", "iqn"),
    "glusterfs": _need("endpoints", "path"),
    "rbd": _need("monitors", "image"),
    "cephfs": _need("monitors"),
    "gcePersistentDisk": _need("pdName"),
    "awsElasticBlockStore": _need("volumeID"),
    "azureFile": _need("secretName", "shareName"),
    "azureDisk": _need("diskName", "diskURI"),
    "vsphereVolume": _need("volumePath"),
    "cinder": _need("volumeID"),
    "flexVolume": _need("driver"),
    "flocker": _need(),
    "quobyte": _need("registry", "volume"),
    "portworxVolume": _need("volumeID"),
    "scaleIO": _need("gateway", "system", "volumeName"),
    "storageos": _need("volumeName"),
    "gitRepo": _need("repository"),
}

_PROJECTIONS: dict[str, Callable[[Object, Causes, str], None]] = {
    "secret": _named_projection,
    "configMap": _named_projection,
    "downwardAPI": _downward,
    "serviceAccountToken": _token,
    "clusterTrustBundle": lambda source, causes, path: _file_path(
        causes, f"{path}.path", source.get("path") or ""
    ),
}
