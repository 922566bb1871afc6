"""Containers of every sort: their names, ports, environment, mounts, probes, resources and security.

The three lists of a pod differ in what they allow; `Sort` says how, and one function checks them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_found_value,
    not_supported,
    required,
)
from sampan.kube.validation import resources, rules
from sampan.kube.validation.rules import Causes, Object

PROTOCOLS: Final = frozenset(("TCP", "UDP", "SCTP"))
_PULL_POLICIES: Final = frozenset(("Always", "IfNotPresent", "Never"))
_MESSAGE_POLICIES: Final = frozenset(("File", "FallbackToLogsOnError"))
_RESTART_POLICIES: Final = frozenset(("Always", "Never", "OnFailure"))
_SCHEMES: Final = frozenset(("HTTP", "HTTPS"))
_PROPAGATIONS: Final = frozenset(("None", "HostToContainer", "Bidirectional"))
_RECURSIVE: Final = frozenset(("Disabled", "IfPossible", "Enabled"))
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "sleep")
_ENV_FIELDS: Final = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    )
)
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_ENV_SOURCES: Final = (
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
)
_ENV_RESOURCES: Final = (
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
)
_ENV_RESOURCE_PREFIXES: Final = ("limits.hugepages-", "requests.hugepages-")


@dataclass(frozen=True, slots=True)
class Sort:
    """A list of containers in a pod spec, and what its members may not have."""

    field: str
    init: bool = False
    ephemeral: bool = False


SORTS: Final = (
    Sort("containers"),
    Sort("initContainers", init=True),
    Sort("ephemeralContainers", ephemeral=True),
)


@dataclass(slots=True)
class Context:
    """What a container is checked against: the pod around it."""

    volumes: dict[str, Object]
    claims: frozenset[str]  # names in spec.resourceClaims
    host_network: bool
    seen: set[str]  # names of containers so far
    host_ports: set[str]


def validate_containers(
    containers: list[Object], causes: Causes, path: str, sort: Sort, context: Context
) -> None:
    for index, container in enumerate(containers):
        where = f"{path}[{index}]"
        name = container.get("name") or ""
        if name and name in context.seen:
            causes.append(duplicate(f"{where}.name", name))
        context.seen.add(name)
        _container(container, causes, where, sort, context)


def _container(container: Object, causes: Causes, path: str, sort: Sort, context: Context) -> None:
    name = container.get("name") or ""
    rules.required_name(causes, f"{path}.name", name, names.dns1123_label)
    image = container.get("image") or ""
    if not image:
        causes.append(required(f"{path}.image"))
    elif image != image.strip():
        text = "must not have leading or trailing whitespace"
        causes.append(invalid_value(f"{path}.image", image, text))
    rules.choice(
        causes,
        f"{path}.terminationMessagePolicy",
        container.get("terminationMessagePolicy"),
        _MESSAGE_POLICIES,
    )
    rules.choice(
        causes, f"{path}.imagePullPolicy", container.get("imagePullPolicy"), _PULL_POLICIES
    )
    if found := container.get("ports"):
        if sort.ephemeral:
            causes.append(
                forbidden_field(f"{path}.ports", "cannot be set for an Ephemeral Container")
            )
        else:
            _ports(found, causes, f"{path}.ports", context)
    if found := container.get("env"):
        _env(found, causes, f"{path}.env")
    if found := container.get("envFrom"):
        _env_from(found, causes, f"{path}.envFrom")
    if found := container.get("volumeMounts"):
        _mounts(found, container, causes, f"{path}.volumeMounts", context)
    if found := container.get("volumeDevices"):
        _devices(found, causes, f"{path}.volumeDevices", context)
    _life(container, causes, path, sort)
    if found := container.get("resources"):
        if sort.ephemeral:
            text = "cannot be set for an Ephemeral Container"
            causes.append(forbidden_field(f"{path}.resources", text))
        else:
            resources.requirements(found, causes, f"{path}.resources", context.claims)
    if found := container.get("securityContext"):
        _security(found, causes, f"{path}.securityContext")


def is_sidecar(container: Object) -> bool:
    """An init container that keeps running beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def _life(container: Object, causes: Causes, path: str, sort: Sort) -> None:
    """Restart policy, hooks and probes, as far as this sort of container may have them."""
    policy = container.get("restartPolicy")
    if policy is not None:
        if sort.ephemeral:
            text = "cannot be set for an Ephemeral Container"
            causes.append(forbidden_field(f"{path}.restartPolicy", text))
        elif policy not in _RESTART_POLICIES:
            causes.append(not_supported(f"{path}.restartPolicy", policy, sorted(_RESTART_POLICIES)))
    refused = ""
    if sort.ephemeral:
        refused = "cannot be set for an Ephemeral Container"
    elif sort.init and not is_sidecar(container):
        refused = "may not be set for init containers without restartPolicy=Always"
    for field in ("lifecycle", *_PROBES):
        found = container.get(field)
        if found is None:
            continue
        if refused:
            causes.append(forbidden_field(f"{path}.{field}", refused))
        elif field == "lifecycle":
            _lifecycle(found, causes, f"{path}.lifecycle")
        else:
            _probe(found, causes, f"{path}.{field}", field)


# --- ports and environment --------------------------------------------------------------------------


def _ports(ports: list[Object], causes: Causes, path: str, context: Context) -> None:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        if name := port.get("name"):
            if reasons := names.port_name(name):
                causes.extend(invalid_value(f"{where}.name", name, reason) for reason in reasons)
            elif name in seen:
                causes.append(duplicate(f"{where}.name", name))
            seen.add(name)
        number, host = port.get("containerPort") or 0, port.get("hostPort") or 0
        if not number:
            causes.append(required(f"{where}.containerPort"))
        else:
            rules.name(causes, f"{where}.containerPort", number, names.port_number)
        protocol = port.get("protocol") or ""
        rules.choice(causes, f"{where}.protocol", protocol, PROTOCOLS)
        if host_ip := port.get("hostIP"):
            rules.name(causes, f"{where}.hostIP", host_ip, names.ip)
        if host:
            rules.name(causes, f"{where}.hostPort", host, names.port_number)
            if context.host_network and host != number:
                text = "must match `hostPort` when `hostNetwork` is true"
                causes.append(invalid_value(f"{where}.containerPort", number, text))
            taken = f"{protocol}/{port.get('hostIP') or ''}/{host}"
            if taken in context.host_ports:
                causes.append(duplicate(f"{where}.hostPort", taken))
            context.host_ports.add(taken)


def _env(env: list[Object], causes: Causes, path: str) -> None:
    for index, variable in enumerate(env):
        name = variable.get("name") or ""
        if not name:
            causes.append(required(f"{path}[{index}].name"))
        elif reasons := names.env_var(name):
            where = f"{path}[{index}].name"
            causes.extend(invalid_value(where, name, reason) for reason in reasons)
        if (source := variable.get("valueFrom")) is not None:
            where = f"{path}[{index}].valueFrom"
            if variable.get("value"):
                text = "may not be specified when `value` is not empty"
                causes.append(invalid_value(where, "", text))
            _env_source(source, causes, where)


def _env_source(source: Object, causes: Causes, path: str) -> None:
    given = [field for field in _ENV_SOURCES if source.get(field) is not None]
    if not given:
        text = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
            "`secretKeyRef` or `fileKeyRef`"
        )
        causes.append(invalid_value(path, "", text))
    if len(given) > 1:
        text = "may not have more than one field specified at a time"
        causes.append(invalid_value(path, "", text))
    for field in given:
        ref, where = source[field], f"{path}.{field}"
        match field:
            case "fieldRef":
                field_ref(ref, causes, where, _ENV_FIELDS)
            case "resourceFieldRef":
                resource_field_ref(ref, causes, where, container_needed=False)
            case "configMapKeyRef" | "secretKeyRef":
                rules.required_name(
                    causes, f"{where}.name", ref.get("name"), names.dns1123_subdomain
                )
                rules.required_name(causes, f"{where}.key", ref.get("key"), names.config_key)
            case _:
                for needed in ("key", "volumeName", "path"):
                    if not ref.get(needed):
                        causes.append(required(f"{where}.{needed}"))


def field_ref(ref: Object, causes: Causes, path: str, allowed: frozenset[str]) -> None:
    """A downward API field: one of `allowed`, or one label or annotation."""
    if not ref.get("apiVersion"):
        causes.append(required(f"{path}.apiVersion"))
        return
    field = ref.get("fieldPath") or ""
    if not field:
        causes.append(required(f"{path}.fieldPath"))
    elif match := _SUBSCRIPT.fullmatch(field):
        rule = names.label_key if match[1] == "labels" else names.annotation_key
        rules.name(causes, path, match[2], rule)
    elif field not in allowed:
        causes.append(not_supported(f"{path}.fieldPath", field, sorted(allowed)))


def resource_field_ref(ref: Object, causes: Causes, path: str, *, container_needed: bool) -> None:
    if container_needed and not ref.get("containerName"):
        causes.append(required(f"{path}.containerName"))
    resource = ref.get("resource") or ""
    if not resource:
        causes.append(required(f"{path}.resource"))
    elif resource not in _ENV_RESOURCES and not resource.startswith(_ENV_RESOURCE_PREFIXES):
        causes.append(not_supported(f"{path}.resource", resource, _ENV_RESOURCES))


def _env_from(sources: list[Object], causes: Causes, path: str) -> None:
    for index, source in enumerate(sources):
        where = f"{path}[{index}]"
        if prefix := source.get("prefix"):
            rules.name(causes, f"{where}.prefix", prefix, names.env_var)
        given = [field for field in ("configMapRef", "secretRef") if source.get(field) is not None]
        if not given:
            text = "must specify one of: `configMapRef` or `secretRef`"
            causes.append(invalid_value(where, "", text))
        if len(given) > 1:
            text = "may not have more than one field specified at a time"
            causes.append(invalid_value(where, "", text))
        for field in given:
            rules.required_name(
                causes, f"{where}.{field}.name", source[field].get("name"), names.dns1123_subdomain
            )


# --- mounts -----------------------------------------------------------------------------------------


def local_path(causes: Causes, path: str, value: str) -> None:
    """A path below a volume: relative, and never upwards."""
    if value.startswith("/"):
        causes.append(invalid_value(path, value, "must be a relative path"))
    no_parent(causes, path, value)


def no_parent(causes: Causes, path: str, value: str) -> None:
    if ".." in value.split("/"):
        causes.append(invalid_value(path, value, "must not contain '..'"))


def _mounts(
    mounts: list[Object], container: Object, causes: Causes, path: str, context: Context
) -> None:
    places: set[str] = set()
    for index, mount in enumerate(mounts):
        where = f"{path}[{index}]"
        name, place = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        if name not in context.volumes:
            causes.append(not_found_value(f"{where}.name", name))
        if not place:
            causes.append(required(f"{where}.mountPath"))
        elif place in places:
            causes.append(invalid_value(f"{where}.mountPath", place, "must be unique"))
        places.add(place)
        if sub_path := mount.get("subPath"):
            local_path(causes, f"{where}.subPath", sub_path)
        if expression := mount.get("subPathExpr"):
            if sub_path:
                text = "subPathExpr and subPath are mutually exclusive"
                causes.append(invalid_value(f"{where}.subPathExpr", expression, text))
            local_path(causes, f"{where}.subPathExpr", expression)
        _propagation(mount, container, causes, where)


def _propagation(mount: Object, container: Object, causes: Causes, path: str) -> None:
    mode = mount.get("mountPropagation")
    rules.optional_choice(causes, f"{path}.mountPropagation", mode, _PROPAGATIONS)
    privileged = (container.get("securityContext") or {}).get("privileged")
    if mode == "Bidirectional" and not privileged:
        text = "Bidirectional mount propagation is available only to privileged containers"
        causes.append(forbidden_field(f"{path}.mountPropagation", text))
    recursive = mount.get("recursiveReadOnly")
    rules.optional_choice(causes, f"{path}.recursiveReadOnly", recursive, _RECURSIVE)
    if recursive in ("IfPossible", "Enabled") and not mount.get("readOnly"):
        text = "may only be specified when readOnly is true"
        causes.append(forbidden_field(f"{path}.recursiveReadOnly", text))


def _devices(devices: list[Object], causes: Causes, path: str, context: Context) -> None:
    for index, device in enumerate(devices):
        where = f"{path}[{index}]"
        name = device.get("name") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        source = context.volumes.get(name)
        if source is None:
            causes.append(not_found_value(f"{where}.name", name))
        elif not ("persistentVolumeClaim" in source or "ephemeral" in source):
            text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            causes.append(invalid_value(f"{where}.name", name, text))
        if not device.get("devicePath"):
            causes.append(required(f"{where}.devicePath"))
        else:
            no_parent(causes, f"{where}.devicePath", device["devicePath"])


# --- probes and hooks -------------------------------------------------------------------------------


def _handler(holder: Object, causes: Causes, path: str, kinds: tuple[str, ...]) -> None:
    given = [field for field in kinds if holder.get(field) is not None]
    if not given:
        causes.append(required(path, "must specify a handler type"))
    for extra in given[1:]:
        text = "may not specify more than 1 handler type"
        causes.append(forbidden_field(f"{path}.{extra}", text))
    for field in given[:1]:
        handler, where = holder[field], f"{path}.{field}"
        match field:
            case "exec":
                if not handler.get("command"):
                    causes.append(required(f"{where}.command"))
            case "httpGet":
                _http_get(handler, causes, where)
            case "tcpSocket":
                rules.port_or_name(causes, f"{where}.port", handler.get("port"))
            case "grpc":
                port = handler.get("port") or 0
                rules.name(causes, f"{where}.port", port, names.port_number)
            case "sleep":
                rules.not_negative(causes, f"{where}.seconds", handler.get("seconds"))


def _http_get(handler: Object, causes: Causes, path: str) -> None:
    if not handler.get("path"):
        causes.append(required(f"{path}.path"))
    rules.port_or_name(causes, f"{path}.port", handler.get("port"))
    if handler.get("scheme") not in _SCHEMES:
        causes.append(
            not_supported(f"{path}.scheme", handler.get("scheme") or "", sorted(_SCHEMES))
        )
    for header in handler.get("httpHeaders") or ():
        rules.name(causes, f"{path}.httpHeaders", header.get("name") or "", names.http_header)


def _probe(probe: Object, causes: Causes, path: str, field: str) -> None:
    _handler(probe, causes, path, _HANDLERS)
    for number in (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ):
        rules.not_negative(causes, f"{path}.{number}", probe.get(number))
    grace = probe.get("terminationGracePeriodSeconds")
    if field == "readinessProbe":
        if grace is not None:
            text = "must not be set for readinessProbes"
            causes.append(invalid_value(f"{path}.terminationGracePeriodSeconds", grace, text))
        return
    if grace is not None and grace <= 0:
        text = "must be greater than 0"
        causes.append(invalid_value(f"{path}.terminationGracePeriodSeconds", grace, text))
    if (threshold := probe.get("successThreshold")) not in (None, 1):
        causes.append(invalid_value(f"{path}.successThreshold", threshold, "must be 1"))


def _lifecycle(lifecycle: Object, causes: Causes, path: str) -> None:
    for hook in ("postStart", "preStop"):
        if (handler := lifecycle.get(hook)) is not None:
            _handler(handler, causes, f"{path}.{hook}", _HOOK_HANDLERS)


# --- security ---------------------------------------------------------------------------------------

_ID_MAX: Final = 2**31 - 1
_SECCOMP: Final = frozenset(("Localhost", "RuntimeDefault", "Unconfined"))
_PROC_MOUNTS: Final = frozenset(("Default", "Unmasked"))


def _security(context: Object, causes: Causes, path: str) -> None:
    identity(context, causes, path)
    if (found := context.get("seccompProfile")) is not None:
        confinement(found, causes, f"{path}.seccompProfile", "seccomp")
    if (found := context.get("appArmorProfile")) is not None:
        confinement(found, causes, f"{path}.appArmorProfile", "AppArmor")
    rules.optional_choice(causes, f"{path}.procMount", context.get("procMount"), _PROC_MOUNTS)
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            causes.append(invalid_value(path, context, text))
        if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            causes.append(invalid_value(path, context, text))


def identity(context: Object, causes: Causes, path: str) -> None:
    """User and group ids of a pod's or container's security context."""
    for field in ("runAsUser", "runAsGroup"):
        rules.between(causes, f"{path}.{field}", context.get(field), 0, _ID_MAX)


def confinement(profile: Object, causes: Causes, path: str, what: str) -> None:
    """A seccomp or AppArmor profile: a file on the node is named exactly for type Localhost."""
    kind: Any = profile.get("type")
    rules.choice(causes, f"{path}.type", kind, _SECCOMP)
    local = profile.get("localhostProfile")
    if kind == "Localhost":
        if not local:
            text = f"must be set when {what} type is Localhost"
            causes.append(required(f"{path}.localhostProfile", text))
        elif what == "seccomp":
            local_path(causes, f"{path}.localhostProfile", local)
    elif local is not None:
        text = f"can only be set when {what} type is Localhost"
        causes.append(invalid_value(f"{path}.localhostProfile", local, text))
