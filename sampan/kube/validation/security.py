"""Security contexts of pods and containers, and what an operating system allows in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

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
from sampan.kube.validation.mounts import local_path
from sampan.kube.validation.rules import Causes, Object

_ID_MAX: Final = 2**31 - 1
_PATH_MAX: Final = 4095
_PROFILES: Final = ("Localhost", "RuntimeDefault", "Unconfined")
_PROC_MOUNTS: Final = ("Default", "Unmasked")
_GROUP_CHANGE: Final = ("Always", "OnRootMismatch")
_GROUPS: Final = ("Merge", "Strict")
_SELINUX_CHANGE: Final = ("Recursive",)  # "MountOption" needs KEP-1710, which is not stable
_OS: Final = ("linux", "windows")
_SYSCTL: Final = (
    "must have at most 253 characters and match regex "
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
)
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
_IPC_SYSCTLS: Final = ("kernel.shm", "kernel.msg", "fs.mqueue.")


def is_host_users(spec: Object) -> bool:
    return spec.get("hostUsers") is not False


def _id(causes: Causes, path: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= _ID_MAX:
        causes.append(invalid_value(path, value, names.in_range(0, _ID_MAX)))


def _one_of(causes: Causes, path: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        causes.append(not_supported(path, value, allowed))


def of_pod(context: Object, spec: Object, causes: Causes, path: str) -> None:
    get = context.get
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        _id(causes, f"{path}.{field}", get(field))
    for index, group in enumerate(get("supplementalGroups") or ()):
        _id(causes, f"{path}.supplementalGroups[{index}]", group)
    if sysctls := get("sysctls"):
        _sysctls(sysctls, spec, causes, f"{path}.sysctls")
    _one_of(causes, f"{path}.fsGroupChangePolicy", get("fsGroupChangePolicy"), _GROUP_CHANGE)
    _profiles(context, causes, path)
    policy = get("supplementalGroupsPolicy")
    _one_of(causes, f"{path}.supplementalGroupsPolicy", policy, _GROUPS)
    _one_of(causes, f"{path}.seLinuxChangePolicy", get("seLinuxChangePolicy"), _SELINUX_CHANGE)


def _profiles(context: Object, causes: Causes, path: str) -> None:
    if (found := context.get("seccompProfile")) is not None:
        _seccomp(found, causes, f"{path}.seccompProfile")
    if (found := context.get("appArmorProfile")) is not None:
        _app_armor(found, causes, f"{path}.appArmorProfile")
    if (found := context.get("windowsOptions")) is not None:
        _windows(found, causes, f"{path}.windowsOptions")


def _sysctls(sysctls: list[Object], spec: Object, causes: Causes, path: str) -> None:
    seen: set[str] = set()
    for index, sysctl in enumerate(sysctls):
        where = f"{path}[{index}].name"
        name = sysctl.get("name") or ""
        if not name:
            causes.append(required(where))
        elif not names.is_sysctl(name):
            causes.append(invalid_value(where, name, _SYSCTL))
        elif name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith("net."):
            text = "may not be specified when 'hostNetwork' is true"
            causes.append(invalid_value(where, name, text))
        elif spec.get("hostIPC") and (dotted.startswith(_IPC_SYSCTLS) or dotted == "kernel.sem"):
            text = "may not be specified when 'hostIPC' is true"
            causes.append(invalid_value(where, name, text))


def of_container(context: Object, causes: Causes, path: str, *, host_users: bool) -> None:
    get = context.get
    _id(causes, f"{path}.runAsUser", get("runAsUser"))
    _id(causes, f"{path}.runAsGroup", get("runAsGroup"))
    if (mount := get("procMount")) is not None:
        _one_of(causes, f"{path}.procMount", mount, _PROC_MOUNTS)
        if host_users and mount == "Unmasked":
            text = "`hostUsers` must be false to use `Unmasked`"
            causes.append(invalid_value(f"{path}.procMount", mount, text))
    _profiles(context, causes, path)
    if get("allowPrivilegeEscalation") is False:
        if get("privileged"):
            text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
            causes.append(invalid_value(path, context, text))
        if "CAP_SYS_ADMIN" in ((get("capabilities") or {}).get("add") or ()):
            text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            causes.append(invalid_value(path, context, text))


def _seccomp(profile: Object, causes: Causes, path: str) -> None:
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    if not kind:
        causes.append(required(f"{path}.type", "type is required when seccompProfile is set"))
    else:
        _one_of(causes, f"{path}.type", kind, _PROFILES)
    if kind == "Localhost":
        if local is None:
            text = "must be set when seccomp type is Localhost"
            causes.append(required(f"{path}.localhostProfile", text))
        else:
            local_path(causes, f"{path}.localhostProfile", local)
    elif local is not None:
        text = "can only be set when seccomp type is Localhost"
        causes.append(invalid_value(f"{path}.localhostProfile", profile, text))


def _app_armor(profile: Object, causes: Causes, path: str) -> None:
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    where, needed = f"{path}.localhostProfile", "must be set when AppArmor type is Localhost"
    if kind == "Localhost":
        if local is None or (not local.strip() and local == local.strip()):
            causes.append(required(where, needed))
        elif local != local.strip():
            causes.append(invalid_value(where, local, "must not be padded with whitespace"))
        if local is not None and len(local) > _PATH_MAX:
            causes.append(too_long(where, "", _PATH_MAX))
    elif not kind:
        causes.append(required(f"{path}.type", "type is required when appArmorProfile is set"))
    elif kind not in _PROFILES:
        causes.append(not_supported(f"{path}.type", kind, _PROFILES))
    elif local is not None:
        text = "can only be set when AppArmor type is Localhost"
        causes.append(invalid_value(where, local, text))


# --- Windows ----------------------------------------------------------------------------------------

_SPEC_MAX: Final = 64 * 1024
_NET_BIOS = re.compile(r'[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}')
_DOMAIN = re.compile(
    r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
_BAD_USER = re.compile(r'["/\\:;|=,+*?<>@\[\]]')


def _windows(options: Object, causes: Causes, path: str) -> None:
    if (name := options.get("gmsaCredentialSpecName")) is not None:
        rules.name(causes, f"{path}.gmsaCredentialSpecName", name, names.dns1123_subdomain)
    if (spec := options.get("gmsaCredentialSpec")) is not None:
        where = f"{path}.gmsaCredentialSpec"
        if not spec:
            text = "gmsaCredentialSpec cannot be an empty string"
            causes.append(invalid_value(where, spec, text))
        elif rules.utf8_size(spec) > _SPEC_MAX:
            text = "gmsaCredentialSpec size must be under 64 KiB"
            causes.append(invalid_value(where, spec, text))
    if (user := options.get("runAsUserName")) is not None:
        for text in _user_name(user):
            causes.append(invalid_value(f"{path}.runAsUserName", user, text))


def _user_name(whole: str) -> Iterator[str]:
    """Why it is no user name of Windows, `DOMAIN\\user` or `user`."""
    if not whole:
        yield "runAsUserName cannot be an empty string"
        return
    if any(ord(char) < 32 or ord(char) == 127 for char in whole):
        yield "runAsUserName cannot contain control characters"
        return
    if whole.count("\\") > 1:
        yield "runAsUserName cannot contain more than one backslash"
        return
    domain, backslash, user = whole.rpartition("\\")
    if len(domain) >= 256:
        yield "runAsUserName's Domain length must be under 256 characters"
    if backslash and not (_NET_BIOS.fullmatch(domain) or _DOMAIN.fullmatch(domain)):
        yield "runAsUserName's Domain doesn't match the NetBios nor the DNS format"
    if not user:
        yield "runAsUserName's User cannot be empty"
    elif len(user) > 104:
        yield "runAsUserName's User length must not be longer than 104 characters"
    if user and not user.strip(". "):
        yield "runAsUserName's User cannot contain only periods or spaces"
    if _BAD_USER.search(user):
        yield "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"


def _host_process(context: Object | None) -> bool | None:
    options = (context or {}).get("windowsOptions") or {}
    return options.get("hostProcess")  # type: ignore[no-any-return]


def host_process(spec: Object, causes: Causes, path: str) -> None:
    """All containers of a Windows pod are host processes, or none is."""
    whole = _host_process(spec.get("securityContext"))
    count = processes = 0
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            count += 1
            own = _host_process(container.get("securityContext"))
            if whole is not None and own is not None and whole != own:
                where = f"{path}.{field}[{index}].securityContext.windowsOptions.hostProcess"
                text = f"pod hostProcess value must be identical if both are specified, was {str(whole).lower()}"
                causes.append(invalid_value(where, own, text))
            processes += bool(whole if own is None else own)
    if not processes:
        return
    if processes != count:
        text = "If pod contains any hostProcess containers then all containers must be HostProcess containers"
        causes.append(invalid_value(path, "", text))
    if not spec.get("hostNetwork"):
        text = "hostNetwork must be true if pod contains any hostProcess containers"
        causes.append(invalid_value(f"{path}.hostNetwork", False, text))


# --- operating systems ------------------------------------------------------------------------------

_NOT_ON_WINDOWS_POD: Final = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls",
    "runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy",
)  # fmt: skip
_NOT_ON_WINDOWS_SPEC: Final = ("hostUsers", "hostPID", "hostIPC", "shareProcessNamespace")
_NOT_ON_WINDOWS_CONTAINER: Final = (
    "appArmorProfile", "seLinuxOptions", "seccompProfile", "capabilities", "readOnlyRootFilesystem",
    "privileged", "allowPrivilegeEscalation", "procMount", "runAsUser", "runAsGroup",
)  # fmt: skip


def operating_system(spec: Object, causes: Causes, path: str) -> None:
    system = (spec.get("os") or {}).get("name") or ""
    if not system:
        causes.append(required(f"{path}.os.name"))
    elif system not in _OS:
        causes.append(not_supported(f"{path}.os", system, _OS))
    elif system == "linux":
        _forbid(spec, causes, path, (), ("windowsOptions",), ("windowsOptions",),
                "windows options cannot be set for a linux pod")  # fmt: skip
    else:
        _forbid(spec, causes, path, _NOT_ON_WINDOWS_SPEC, _NOT_ON_WINDOWS_POD,
                _NOT_ON_WINDOWS_CONTAINER, "cannot be set for a windows pod")  # fmt: skip


def _forbid(
    spec: Object,
    causes: Causes,
    path: str,
    in_spec: tuple[str, ...],
    in_pod: tuple[str, ...],
    in_container: tuple[str, ...],
    text: str,
) -> None:
    context = spec.get("securityContext") or {}
    for field in in_pod:
        if context.get(field) is not None and context[field] != []:
            causes.append(forbidden_field(f"{path}.securityContext.{field}", text))
    for field in in_spec:
        value = spec.get(field)
        if value or (value is not None and field not in ("hostPID", "hostIPC")):
            causes.append(forbidden_field(f"{path}.{field}", text))
    for list_field in _CONTAINERS:
        for index, container in enumerate(spec.get(list_field) or ()):
            own = container.get("securityContext") or {}
            for field in in_container:
                if own.get(field) is not None:
                    where = f"{path}.{list_field}[{index}].securityContext.{field}"
                    causes.append(forbidden_field(where, text))


def host_users(spec: Object, causes: Causes, path: str) -> None:
    """A pod with user ids of its own shares no other namespace with the node (KEP-127)."""
    if is_host_users(spec):
        return
    text = "when `hostUsers` is false"
    for field, shown in (
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ):
        if spec.get(field):
            causes.append(forbidden_field(f"{path}.{shown}", text))
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            if container.get("volumeDevices"):
                where = f"{path}.{field}[{index}].volumeDevices"
                causes.append(forbidden_field(where, text))
