"""Containers of every sort: their names, ports, environment, resources, hooks, restarts.

The three lists of a pod differ in what they allow; `Sort` says how, and one function checks them all. Mounts, probes and
security contexts have files of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_found_value,
    not_supported,
    required,
    too_many,
)
from sampan.kube.validation import downward, handlers, mounts, resources, rules, security
from sampan.kube.validation.mounts import local_path
from sampan.kube.validation.rules import Causes, Object

PROTOCOLS: Final = frozenset(("TCP", "UDP", "SCTP"))
_PULL_POLICIES: Final = frozenset(("Always", "IfNotPresent", "Never"))
_MESSAGE_POLICIES: Final = ("File", "FallbackToLogsOnError")
_RESTART_POLICIES: Final = ("Always", "Never", "OnFailure")
_RESTART_ACTIONS: Final = ("Restart", "RestartAllContainers")  # the second: KEP-5532
_RESIZED: Final = ("cpu", "memory")
_RESIZE_POLICIES: Final = ("NotRequired", "RestartContainer")
_ENV_SOURCES: Final = (
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
)
_NOT_EPHEMERAL: Final = (
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "lifecycle",
    *handlers.PROBES,
)
_EPHEMERAL: Final = "cannot be set for an Ephemeral Container"
_ONLY_SIDECARS: Final = "may not be set for init containers without restartPolicy=Always"


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
    host_users: bool
    is_pod: bool  # not a template
    restart_policy: str
    grace: int | None  # terminationGracePeriodSeconds
    system: str | None  # spec.os.name
    seen: set[str]  # names of containers so far
    host_ports: set[str]  # of containers that run at the same time


def validate_containers(
    containers: list[Object], causes: Causes, path: str, sort: Sort, context: Context
) -> None:
    targets = set(context.seen) if sort.ephemeral else ()
    for index, container in enumerate(containers):
        where = f"{path}[{index}]"
        name = container.get("name") or ""
        _container(container, causes, where, sort, context)
        if name in context.seen and (name or not sort.init):
            causes.append(duplicate(f"{where}.name", name))
        context.seen.add(name)
        target = container.get("targetContainerName")
        if target and target not in targets:
            causes.append(not_found_value(f"{where}.targetContainerName", target))


def _container(container: Object, causes: Causes, path: str, sort: Sort, context: Context) -> None:
    get = container.get
    rules.required_name(causes, f"{path}.name", get("name") or "", names.dns1123_label)
    image = get("image") or ""
    if not image:
        causes.append(required(f"{path}.image"))
    elif image != image.strip() and (context.is_pod or sort.ephemeral):
        # Templates may: some tools mark "to be filled in" by a blank image.
        text = "must not have leading or trailing whitespace"
        causes.append(invalid_value(f"{path}.image", image, text))
    if (policy := get("terminationMessagePolicy")) not in _MESSAGE_POLICIES:
        rules.listed(causes, f"{path}.terminationMessagePolicy", policy, _MESSAGE_POLICIES)
    if found := get("ports"):
        _ports(found, causes, f"{path}.ports", sort, context)
    if found := get("env"):
        _env(found, causes, f"{path}.env")
    if found := get("envFrom"):
        _env_from(found, causes, f"{path}.envFrom")
    if found := get("volumeMounts"):
        mounts.mounts(found, container, causes, f"{path}.volumeMounts", context.volumes)
    if found := get("volumeDevices"):
        mounts.devices(found, container, causes, f"{path}.volumeDevices", context.volumes)
    if (policy := get("imagePullPolicy")) not in _PULL_POLICIES:
        rules.choice(causes, f"{path}.imagePullPolicy", policy, _PULL_POLICIES)
    if found := get("resources"):
        resources.requirements(found, causes, f"{path}.resources", context.claims)
    if found := get("resizePolicy"):
        _resize_policy(found, causes, f"{path}.resizePolicy", context.restart_policy)
        if sort.init and not is_sidecar(container):
            _no_restart_on_resize(found, causes, f"{path}.resizePolicy")
    if found := get("securityContext"):
        where = f"{path}.securityContext"
        security.of_container(found, causes, where, host_users=context.host_users)
    if sort.ephemeral:
        _ephemeral(container, causes, path)
        return
    if get("restartPolicy") is not None or get("restartPolicyRules"):
        _restart(container, causes, path, init=sort.init)
    _life(container, causes, path, sort, context)


def is_sidecar(container: Object) -> bool:
    """An init container that keeps running beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def _ephemeral(container: Object, causes: Causes, path: str) -> None:
    """It comes and goes while the pod runs, so the pod cannot depend on it."""
    for field in _NOT_EPHEMERAL:
        if container.get(field):
            causes.append(forbidden_field(f"{path}.{field}", _EPHEMERAL))
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                where = f"{path}.volumeMounts[{index}].{field}"
                causes.append(forbidden_field(where, _EPHEMERAL))


def _life(container: Object, causes: Causes, path: str, sort: Sort, context: Context) -> None:
    """Hooks and probes, as far as this sort of container may have them."""
    refused = sort.init and not is_sidecar(container)
    if (found := container.get("lifecycle")) is not None:
        if refused:
            causes.append(forbidden_field(f"{path}.lifecycle", _ONLY_SIDECARS))
        else:
            where = f"{path}.lifecycle"
            handlers.lifecycle(found, causes, where, context.grace, context.system)
    for field in handlers.PROBES:
        if (found := container.get(field)) is not None:
            if refused:
                causes.append(forbidden_field(f"{path}.{field}", _ONLY_SIDECARS))
            else:
                handlers.probe(found, causes, f"{path}.{field}", field)


def _restart(container: Object, causes: Causes, path: str, *, init: bool) -> None:
    """A container's own restart policy, and rules by exit code (KEP-5307)."""
    policy, found = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    if policy is not None and policy not in _RESTART_POLICIES:
        causes.append(not_supported(f"{path}.restartPolicy", policy, _RESTART_POLICIES))
    if found and policy is None:
        text = "must specify restartPolicy when restart rules are used"
        causes.append(required(f"{path}.restartPolicy", text))
        if init:
            return
    if len(found) > 20:
        causes.append(too_many(f"{path}.restartPolicyRules", len(found), 20))
    for index, rule in enumerate(found):
        where = f"{path}.restartPolicyRules[{index}]"
        action = rule.get("action") or ""
        if action not in _RESTART_ACTIONS:
            causes.append(not_supported(f"{where}.action", action, _RESTART_ACTIONS))
        if (codes := rule.get("exitCodes")) is None:
            causes.append(required(f"{where}.exitCodes", "must be specified"))
            continue
        operator = codes.get("operator") or ""
        if operator not in ("In", "NotIn"):
            allowed = ("In", "NotIn")
            causes.append(not_supported(f"{where}.exitCodes.operator", operator, allowed))
        values = codes.get("values") or []
        if len(values) > 255:
            causes.append(too_many(f"{where}.exitCodes.values", len(values), 255))


def _resize_policy(found: list[Object], causes: Causes, path: str, restart: str) -> None:
    """KEP-1287: whether a change of cpu or memory restarts the container."""
    seen: set[str] = set()
    for index, item in enumerate(found):
        resource, policy = item.get("resourceName") or "", item.get("restartPolicy") or ""
        if resource in seen:
            causes.append(duplicate(f"{path}[{index}]", resource))
        seen.add(resource)
        rules.choice(causes, path, resource, _RESIZED)
        rules.choice(causes, path, policy, _RESIZE_POLICIES)
        if restart == "Never" and policy != "NotRequired":
            text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            causes.append(invalid_value(path, policy, text))


def _no_restart_on_resize(found: list[Object], causes: Causes, path: str) -> None:
    text = "must not be set to 'RestartContainer' for non-sidecar initContainers"
    for index, item in enumerate(found):
        if item.get("restartPolicy") == "RestartContainer":
            where = f"{path}[{index}].restartPolicy"
            causes.append(invalid_value(where, "RestartContainer", text))


# --- ports and environment --------------------------------------------------------------------------


def _ports(ports: list[Object], causes: Causes, path: str, sort: Sort, context: Context) -> None:
    seen: set[str] = set()
    # Init containers run one by one, and so cannot be in each other's way.
    taken = set() if sort.init else context.host_ports
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
        elif not 0 < number <= 65535:
            rules.name(causes, f"{where}.containerPort", number, names.port_number)
        protocol = port.get("protocol") or ""
        if protocol not in PROTOCOLS:
            rules.choice(causes, f"{where}.protocol", protocol, PROTOCOLS)
        if host:
            rules.name(causes, f"{where}.hostPort", host, names.port_number)
            key = f"{protocol}/{port.get('hostIP') or ''}/{host}"
            if key in taken:
                causes.append(duplicate(f"{where}.hostPort", key))
            taken.add(key)
        if context.host_network and host != number and (host or context.is_pod) and not sort.init:
            text = "must match `containerPort` when `hostNetwork` is true"
            causes.append(invalid_value(f"{where}.hostPort", host, text))


def _env(env: list[Object], causes: Causes, path: str) -> None:
    for index, variable in enumerate(env):
        name = variable.get("name") or ""
        if not name:
            causes.append(required(f"{path}[{index}].name"))
        elif reasons := names.env_var(name):
            where = f"{path}[{index}].name"
            causes.extend(invalid_value(where, name, reason) for reason in reasons)
        if (source := variable.get("valueFrom")) is not None:
            _env_source(source, causes, f"{path}[{index}].valueFrom", variable.get("value") or "")


def _env_source(source: Object, causes: Causes, path: str, value: str) -> None:
    given = [field for field in _ENV_SOURCES if source.get(field) is not None]
    for field in given:
        ref, where = source[field], f"{path}.{field}"
        if field == "fieldRef":
            downward.field_ref(ref, causes, where, downward.ENV_FIELDS)
        elif field == "resourceFieldRef":
            downward.resource_field_ref(ref, causes, where, container_needed=False)
        elif field == "fileKeyRef":
            _file_key(ref, causes, where)
        else:
            rules.name(causes, f"{where}.name", ref.get("name") or "", names.dns1123_subdomain)
            rules.required_name(causes, f"{where}.key", ref.get("key"), names.config_key)
    text = ""
    if not given:
        text = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
            "`secretKeyRef` or `fileKeyRef`"
        )
    elif value:
        text = "may not be specified when `value` is not empty"
    elif len(given) > 1:
        text = "may not have more than one field specified at a time"
    if text:
        causes.append(invalid_value(path, "", text))


def _file_key(ref: Object, causes: Causes, path: str) -> None:
    """A variable out of a file that an init container wrote (KEP-3721)."""
    rules.required_name(causes, f"{path}.key", ref.get("key"), names.env_var)
    rules.required_name(causes, f"{path}.volumeName", ref.get("volumeName"), names.dns1123_label)
    if not ref.get("path"):
        causes.append(required(f"{path}.path"))
    else:
        local_path(causes, f"{path}.path", ref["path"])


def file_keys(spec: Object, causes: Causes, path: str) -> None:
    """Variables out of files come from an emptyDir of the pod."""
    volumes: dict[str, Object] | None = None
    for sort in SORTS:
        for index, container in enumerate(spec.get(sort.field) or ()):
            for at, variable in enumerate(container.get("env") or ()):
                source = variable.get("valueFrom")
                if not source or source.get("fileKeyRef") is None:
                    continue
                if volumes is None:
                    volumes = {each.get("name") or "": each for each in spec.get("volumes") or ()}
                name = source["fileKeyRef"].get("volumeName") or ""
                where = f"{path}.{sort.field}[{index}].env[{at}].valueFrom.fileKeyRef.volumeName"
                if name not in volumes:
                    causes.append(not_found_value(where, name))
                elif volumes[name].get("emptyDir") is None:
                    text = "referenced volume must be of type emptyDir"
                    causes.append(invalid_value(where, name, text))


def _env_from(sources: list[Object], causes: Causes, path: str) -> None:
    for index, source in enumerate(sources):
        where = f"{path}[{index}]"
        if prefix := source.get("prefix"):
            rules.name(causes, f"{where}.prefix", prefix, names.env_var)
        given = [field for field in ("configMapRef", "secretRef") if source.get(field) is not None]
        for field in given:
            rules.required_name(
                causes, f"{where}.{field}.name", source[field].get("name"), names.dns1123_subdomain
            )
        if not given:
            text = "must specify one of: `configMapRef` or `secretRef`"
            causes.append(invalid_value(path, "", text))
        elif len(given) > 1:
            text = "may not have more than one field specified at a time"
            causes.append(invalid_value(path, "", text))
