"""Volumes of a pod: a unique name, exactly one source, and what each source needs. One table, one row per source."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
)
from sampan.kube.validation import rules
from sampan.kube.validation.downward import FILE_FIELDS, field_ref, resource_field_ref
from sampan.kube.validation.mounts import file_path, local_path, mode, no_parent
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
_ISCSI_NAMES: Final = {
    "iqn": re.compile(r"iqn\.\d{4}-\d{2}\.([A-Za-z0-9-.]+)(:[^,;*&$|\s]+)"),
    "eui": re.compile(r"eui.[A-Za-z0-9]{16}"),
    "naa": re.compile(r"naa.[A-Za-z0-9]{32}"),
}
_MANY: Final = "may not specify more than 1 volume type"


def validate_volumes(
    volumes: list[Object], causes: Causes, path: str, pod: str = ""
) -> dict[str, Object]:
    """Check them, and return the good ones by name for whatever refers to them. `pod` is the pod's name, if it has one."""
    by_name: dict[str, Object] = {}
    own = {f"{pod}-{each.get('name')}" for each in volumes if "ephemeral" in each} if pod else ()
    for index, volume in enumerate(volumes):
        where, before = f"{path}[{index}]", len(causes)
        name = volume.get("name") or ""
        _sources(volume, causes, where)
        if not name:
            causes.append(required(f"{where}.name"))
        elif reasons := names.dns1123_label(name):
            causes.extend(invalid_value(f"{where}.name", name, reason) for reason in reasons)
        if name in by_name:
            causes.append(duplicate(f"{where}.name", name))
        if pod and name and volume.get("ephemeral") is not None:
            claim = f"{pod}-{name}"
            for reason in names.dns1123_subdomain(claim):
                text = f'PVC name "{claim}": {reason}'
                causes.append(invalid_value(f"{where}.name", name, text))
        if len(causes) == before:
            by_name[name] = volume
        claimed = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if own and claimed in own:
            text = "must not reference a PVC that gets created for an ephemeral volume"
            causes.append(invalid_value(f"{where}.persistentVolumeClaim.claimName", claimed, text))
    return by_name


def _sources(volume: Object, causes: Causes, path: str) -> None:
    given = [field for field in volume if field != "name" and volume[field] is not None]
    if len(given) > 1:
        # The first in the order of the API's type is the one that counts.
        order = {field: number for number, field in enumerate(SOURCES)}
        given.sort(key=lambda field: order.get(field, len(order)))
    for number, field in enumerate(given):
        if number:
            causes.append(forbidden_field(f"{path}.{_MISNAMED.get(field, field)}", _MANY))
        elif (check := SOURCES.get(field)) is not None:
            where = "persistentDisk" if field == "gcePersistentDisk" else field
            check(volume[field], causes, f"{path}.{where}")
    if not given:
        causes.append(required(path, "must specify a volume type"))
    iscsi = volume.get("iscsi") or {}
    if iscsi.get("initiatorName") is not None:
        name = volume.get("name") or ""
        if len(f"{name}:{iscsi.get('targetPortal') or ''}") > 64:
            causes.append(invalid_value(f"{path}.name", name, _LONG_TARGET))


# As Kubernetes misnames them where a volume has several sources.
_MISNAMED: Final = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
_LONG_TARGET: Final = (
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if "
    "iscsi.initiatorName is specified."
)


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


def _items(source: Object, causes: Causes, path: str) -> None:
    for index, item in enumerate(source.get("items") or ()):
        where = f"{path}.items[{index}]"
        if not item.get("key"):
            causes.append(required(f"{where}.key"))
        file_path(causes, f"{where}.path", item.get("path") or "")
        mode(causes, f"{where}.mode", item.get("mode"))


def _secret(source: Object, causes: Causes, path: str) -> None:
    if not source.get("secretName"):
        causes.append(required(f"{path}.secretName"))
    mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    _items(source, causes, path)


def _config_map(source: Object, causes: Causes, path: str) -> None:
    if not source.get("name"):
        causes.append(required(f"{path}.name"))
    mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    _items(source, causes, path)


def _downward(source: Object, causes: Causes, path: str) -> None:
    mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    for item in source.get("items") or ():  # Kubernetes names neither the list nor an index
        where = path
        file_path(causes, f"{where}.path", item.get("path") or "")
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            field_ref(field, causes, f"{where}.fieldRef", FILE_FIELDS)
            if resource is not None:
                text = "fieldRef and resourceFieldRef can not be specified simultaneously"
                causes.append(invalid_value(where, "resource", text))
        elif resource is not None:
            resource_field_ref(resource, causes, f"{where}.resourceFieldRef", container_needed=True)
        else:
            causes.append(required(where, "one of fieldRef and resourceFieldRef is required"))
        mode(causes, f"{where}.mode", item.get("mode"))


def _projected(source: Object, causes: Causes, path: str) -> None:
    mode(causes, f"{path}.defaultMode", source.get("defaultMode"))
    taken: set[str] = set()
    for index, projection in enumerate(source.get("sources") or ()):
        where = f"{path}.sources[{index}]"
        given = [field for field, value in projection.items() if value is not None]
        for field in given:
            if (check := _PROJECTIONS.get(field)) is not None:
                check(projection[field], causes, f"{where}.{field}")
            for place in _paths(projection[field]):
                if place in taken:
                    shown = projection[field].get("name") or place
                    causes.append(invalid_value(path, shown, "conflicting duplicate paths"))
                taken.add(place)
        if len(given) > 1:
            text = "may not specify more than 1 volume type per source"
            causes.append(forbidden_field(where, text))


def _paths(source: Object) -> list[str]:
    return [item["path"] for item in source.get("items") or () if item.get("path")]


def _named_projection(source: Object, causes: Causes, path: str) -> None:
    if not source.get("name"):
        causes.append(required(f"{path}.name"))
    _items(source, causes, path)


def _token(source: Object, causes: Causes, path: str) -> None:
    seconds = source.get("expirationSeconds") or 0
    if seconds < 600:
        text = "may not specify a duration less than 10 minutes"
        causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
    if seconds > 2**32:
        text = "may not specify a duration larger than 2^32 seconds"
        causes.append(invalid_value(f"{path}.expirationSeconds", seconds, text))
    file_path(causes, f"{path}.path", source.get("path") or "")


def _nfs(source: Object, causes: Causes, path: str) -> None:
    _need("server", "path")(source, causes, path)
    if not (source.get("path") or "").startswith("/"):
        text = "must be an absolute path"
        causes.append(invalid_value(f"{path}.path", source.get("path") or "", text))


def _ephemeral(source: Object, causes: Causes, path: str) -> None:
    template = source.get("volumeClaimTemplate")
    where = f"{path}.volumeClaimTemplate"
    if template is None:
        causes.append(required(where))
        return
    from sampan.kube.validation.persistent import claim_spec  # a cycle: claims name volume modes

    metadata = template.get("metadata") or {}
    rules.annotations(causes, f"{where}.metadata.annotations", metadata.get("annotations"))
    rules.labels(causes, f"{where}.metadata.labels", metadata.get("labels"))
    for field, value in metadata.items():
        if value and field not in ("annotations", "labels"):
            shown = "uID" if field == "uid" else field  # a Go name with a small first letter
            causes.append(forbidden_field(f"{where}.metadata.{shown}", "cannot be set"))
    claim_spec(template.get("spec") or {}, causes, f"{where}.spec")


def _image(source: Object, causes: Causes, path: str) -> None:
    rules.choice(causes, f"{path}.pullPolicy", source.get("pullPolicy"), _PULL_POLICIES)


def driver_name(causes: Causes, path: str, name: str) -> None:
    """How a CSI driver may be called."""
    if not name:
        causes.append(required(path))
        return
    if len(name) > 63:
        causes.append(too_long(path, "", 63))
    rules.name(causes, path, name, lambda value: names.dns1123_subdomain(value.lower()))


def _csi(source: Object, causes: Causes, path: str) -> None:
    driver_name(causes, f"{path}.driver", source.get("driver") or "")
    if (secret := source.get("nodePublishSecretRef")) is not None:
        where = f"{path}.nodePublishSecretRef.name"
        rules.required_name(causes, where, secret.get("name"), names.dns1123_subdomain)


def _iscsi(source: Object, causes: Causes, path: str) -> None:
    if not source.get("targetPortal"):
        causes.append(required(f"{path}.targetPortal"))
    if not source.get("iqn"):
        causes.append(required(f"{path}.iqn"))
    else:
        _iscsi_name(causes, f"{path}.iqn", source["iqn"])
    lun(causes, f"{path}.lun", source.get("lun") or 0)
    if (source.get("chapAuthDiscovery") or source.get("chapAuthSession")) and (
        source.get("secretRef") is None
    ):
        causes.append(required(f"{path}.secretRef"))
    if (initiator := source.get("initiatorName")) is not None:
        _iscsi_name(causes, f"{path}.initiatorname", initiator)


def _iscsi_name(causes: Causes, path: str, name: str) -> None:
    pattern = _ISCSI_NAMES.get(name[:3])
    if pattern is None:
        text = "must be valid format starting with iqn, eui, or naa"
        causes.append(invalid_value(path, name, text))
    elif not pattern.fullmatch(name):
        causes.append(invalid_value(path, name, "must be valid format"))


def lun(causes: Causes, path: str, value: int) -> None:
    if not 0 <= value <= 255:
        causes.append(invalid_value(path, value, names.in_range(0, 255)))


def fibre_channel(source: Object, causes: Causes, path: str) -> None:
    ports, ids = source.get("targetWWNs") or [], source.get("wwids") or []
    if not ports and not ids:
        text = "must specify either targetWWNs or wwids, but not both"
        causes.append(required(f"{path}.targetWWNs", text))
    if ports and ids:
        text = "targetWWNs and wwids can not be specified simultaneously"
        causes.append(invalid_value(f"{path}.targetWWNs", ports, text))
    if ports and source.get("lun") is None:
        causes.append(required(f"{path}.lun", "lun is required if targetWWNs is specified"))
    elif ports:
        lun(causes, f"{path}.lun", source["lun"])


def _disk(field: str) -> Callable[[Object, Causes, str], None]:
    def check(source: Object, causes: Causes, path: str) -> None:
        if not source.get(field):
            causes.append(required(f"{path}.{field}"))
        if not 0 <= (source.get("partition") or 0) <= 255:
            text = names.in_range(1, 255)
            causes.append(invalid_value(f"{path}.partition", source["partition"], text))

    return check


def _flex(source: Object, causes: Causes, path: str) -> None:
    if not source.get("driver"):
        causes.append(required(f"{path}.driver"))
    for key in source.get("options") or ():
        domain = f".{key.partition('/')[0].lower()}"
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            text = "kubernetes.io and k8s.io namespaces are reserved"
            causes.append(invalid_value(f"{path}.options[{key}]", key, text))


def _quobyte(source: Object, causes: Causes, path: str) -> None:
    text = "must be a host:port pair or multiple pairs separated by commas"
    registry = source.get("registry") or ""
    if not registry:
        causes.append(required(f"{path}.registry", text))
    elif len(source.get("tenant") or "") > 64:
        why = "must be a UUID and may not exceed a length of 64 characters"
        causes.append(required(f"{path}.tenant", why))
    else:
        for pair in registry.split(","):
            host, colon, port = pair.rpartition(":")
            bare = ":" in host and not host.startswith("[")
            if not colon or bare or "]" in port:
                causes.append(invalid_value(f"{path}.registry", registry, text))
    _need("volume")(source, causes, path)


def _flocker(source: Object, causes: Causes, path: str) -> None:
    name, uuid = source.get("datasetName") or "", source.get("datasetUUID")
    if not name and not uuid:
        causes.append(required(path, "one of datasetName and datasetUUID is required"))
    if name and uuid:
        text = "datasetName and datasetUUID can not be specified simultaneously"
        causes.append(invalid_value(path, "resource", text))
    if "/" in name:
        causes.append(invalid_value(f"{path}.datasetName", name, "must not contain '/'"))


_CACHING: Final = ("None", "ReadOnly", "ReadWrite")
_DISK_KINDS: Final = ("Dedicated", "Managed", "Shared")
_MANAGED: Final = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
_BLOB: Final = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"


def _azure_disk(source: Object, causes: Causes, path: str) -> None:
    _need("diskName", "diskURI")(source, causes, path)
    uri, kind = source.get("diskURI") or "", source.get("kind")
    rules.optional_choice(causes, f"{path}.cachingMode", source.get("cachingMode"), _CACHING)
    rules.optional_choice(causes, f"{path}.kind", kind, _DISK_KINDS)
    if kind == "Managed" and not uri.startswith("/subscriptions/"):
        causes.append(not_supported(f"{path}.diskURI", uri, [_MANAGED]))
    elif kind not in (None, "Managed") and not uri.startswith("https://"):
        causes.append(not_supported(f"{path}.diskURI", uri, [_BLOB]))


def _git_repo(source: Object, causes: Causes, path: str) -> None:
    if not source.get("repository"):
        causes.append(required(f"{path}.repository"))
    local_path(causes, f"{path}.directory", source.get("directory") or "")


# In the order in which Kubernetes looks at them.
SOURCES: dict[str, Callable[[Object, Causes, str], None]] = {
    "emptyDir": _empty_dir,
    "hostPath": host_path,
    "gitRepo": _git_repo,
    "gcePersistentDisk": _disk("pdName"),
    "awsElasticBlockStore": _disk("volumeID"),
    "secret": _secret,
    "nfs": _nfs,
    "iscsi": _iscsi,
    "glusterfs": _need("endpoints", "path"),
    "flocker": _flocker,
    "persistentVolumeClaim": _need("claimName"),
    "rbd": _need("monitors", "image"),
    "cinder": _need("volumeID"),
    "cephfs": _need("monitors"),
    "quobyte": _quobyte,
    "downwardAPI": _downward,
    "fc": fibre_channel,
    "flexVolume": _flex,
    "configMap": _config_map,
    "azureFile": _need("secretName", "shareName"),
    "vsphereVolume": _need("volumePath"),
    "photonPersistentDisk": _need("pdID"),
    "portworxVolume": _need("volumeID"),
    "azureDisk": _azure_disk,
    "storageos": _need("volumeName"),
    "projected": _projected,
    "scaleIO": _need("gateway", "system", "volumeName"),
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": _image,
}

_PROJECTIONS: dict[str, Callable[[Object, Causes, str], None]] = {
    "secret": _named_projection,
    "configMap": _named_projection,
    "downwardAPI": _downward,
    "serviceAccountToken": _token,
}
