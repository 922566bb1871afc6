"""Pod Security Standards: which checks of the levels `baseline` and `restricted` a pod fails, and in which words.

A check looks at a pod (its annotations and its spec) and answers "" or what is forbidden there. `CHECKS` is the whole
policy: level, the Kubernetes version from which a check counts, and the checks of the lower level that it stands in for.
Source: KEP-2579 and kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sampan.kube.errors import quote

Object = dict[str, Any]

PRIVILEGED, BASELINE, RESTRICTED = "privileged", "baseline", "restricted"
LEVELS = (PRIVILEGED, BASELINE, RESTRICTED)
LATEST = (1, 1 << 30)
_VERSION = re.compile(r"v1\.([0-9]|[1-9][0-9]*)")


class Policy(NamedTuple):
    level: str = PRIVILEGED
    version: tuple[int, int] = LATEST

    def __str__(self) -> str:
        version = "latest" if self.version == LATEST else f"v1.{self.version[1]}"
        return f"{self.level}:{version}"


def parse_version(text: str) -> tuple[int, int]:
    """`latest` or `v1.N`. ValueError otherwise."""
    if text == "latest":
        return LATEST
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError('must be "latest" or "v1.x"')
    return 1, int(found[1])


class Violation(NamedTuple):
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Pod:
    annotations: dict[str, str]
    spec: Object
    version: tuple[int, int] = LATEST

    @property
    def containers(self) -> Iterator[Object]:
        for key in ("initContainers", "containers", "ephemeralContainers"):
            yield from self.spec.get(key) or ()

    @property
    def own(self) -> Object:
        """The pod's own security context."""
        return self.spec.get("securityContext") or {}

    @property
    def windows(self) -> bool:
        return (self.spec.get("os") or {}).get("name") == "windows"

    @property
    def user_namespace(self) -> bool:
        return self.spec.get("hostUsers") is False


def context(container: Object) -> Object:
    return container.get("securityContext") or {}


def violations(policy: Policy, metadata: Object, spec: Object) -> list[Violation]:
    """What the pod does that the level forbids; nothing for `privileged`."""
    if policy.level == PRIVILEGED:
        return []
    pod = Pod(metadata.get("annotations") or {}, spec, policy.version)
    chosen = [check for check in CHECKS if check.since <= policy.version]
    if policy.level == BASELINE:
        chosen = [check for check in chosen if check.level == BASELINE]
    else:
        replaced = {name for check in chosen for name in check.replaces}
        chosen = [check for check in chosen if check.name not in replaced]
    return [found for check in chosen if (found := check.look(pod)) is not None]


def sentence(found: list[Violation]) -> str:
    return ", ".join(str(each) for each in found)


# How a finding is told


def names(items: list[str]) -> str:
    return ", ".join(quote(item) for item in items)


def several(one: str, count: int) -> str:
    return one if count == 1 else f"{one}s"


def bad_containers(bad: list[str]) -> str:
    return f"{several('container', len(bad))} {names(bad)}"


def setters(pod_too: bool, bad: list[str]) -> str:
    """`pod and containers "a", "b"`: who set something explicitly."""
    return " and ".join(["pod"] * pod_too + ([bad_containers(bad)] if bad else []))


# Baseline


def host_namespaces(pod: Pod) -> Violation | None:
    found = [f"{key}=true" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key)]
    return Violation("host namespaces", ", ".join(found)) if found else None


def host_paths(pod: Pod) -> Violation | None:
    found = [each["name"] for each in pod.spec.get("volumes") or () if each.get("hostPath")]
    if not found:
        return None
    return Violation("hostPath volumes", f"{several('volume', len(found))} {names(found)}")


def host_ports(pod: Pod) -> Violation | None:
    bad, ports = [], set()
    for container in pod.containers:
        used = {
            str(port["hostPort"]) for port in container.get("ports") or () if port.get("hostPort")
        }
        if used:
            bad.append(container["name"])
            ports |= used
    if not bad:
        return None
    verb = "uses" if len(bad) == 1 else "use"
    listed = ", ".join(sorted(ports))
    return Violation(
        "hostPort", f"{bad_containers(bad)} {verb} {several('hostPort', len(ports))} {listed}"
    )


def probe_hosts(pod: Pod) -> Violation | None:
    bad, hosts = set(), set()
    for container in pod.containers:
        hooks = container.get("lifecycle") or {}
        handlers = [
            *(container.get(key) for key in ("livenessProbe", "readinessProbe", "startupProbe")),
            *(hooks.get(key) for key in ("postStart", "preStop")),
        ]
        for handler in handlers:
            for key in ("httpGet", "tcpSocket"):
                host = ((handler or {}).get(key) or {}).get("host")
                if host:
                    bad.add(container["name"])
                    hosts.add(host)
    if not bad:
        return None
    verb = "uses" if len(bad) == 1 else "use"
    what = several("probe or lifecycle host", len(hosts))
    text = f"{bad_containers(sorted(bad))} {verb} {what} {names(sorted(hosts))}"
    return Violation("probe or lifecycle host", text)


def privileged(pod: Pod) -> Violation | None:
    bad = [each["name"] for each in pod.containers if context(each).get("privileged")]
    if not bad:
        return None
    text = f"{bad_containers(bad)} must not set securityContext.privileged=true"
    return Violation("privileged", text)


DEFAULT_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)


def _adding(pod: Pod, allowed: frozenset[str]) -> tuple[list[str], str]:
    bad, added = [], set()
    for container in pod.containers:
        more = set((context(container).get("capabilities") or {}).get("add") or ()) - allowed
        if more:
            bad.append(container["name"])
            added |= more
    text = f"{bad_containers(bad)} must not include {names(sorted(added))} in securityContext.capabilities.add"
    return bad, text


def default_capabilities(pod: Pod) -> Violation | None:
    bad, text = _adding(pod, DEFAULT_CAPABILITIES)
    return Violation("non-default capabilities", text) if bad else None


APPARMOR_PREFIX = "container.apparmor.security.beta.kubernetes.io/"


def apparmor(pod: Pod) -> Violation | None:
    values: set[str] = set()
    pod_too = _forbidden_type(pod.own, "appArmorProfile", values)
    bad = [
        each["name"]
        for each in pod.containers
        if _forbidden_type(context(each), "appArmorProfile", values)
    ]
    setting = [setters(pod_too, bad)] if pod_too or bad else []
    marked = {
        key: value
        for key, value in pod.annotations.items()
        if key.startswith(APPARMOR_PREFIX)
        and value not in ("", "runtime/default")
        and not value.startswith("localhost/")
    }
    if marked:
        told = [f"{key}={quote(value)}" for key, value in sorted(marked.items())]
        setting.append(f"{several('annotation', len(marked))} {', '.join(told)}")
        values |= set(marked.values())
    if not setting:
        return None
    text = f"{' and '.join(setting)} must not set AppArmor profile type to {names(sorted(values))}"
    return Violation(several("forbidden AppArmor profile", len(values)), text)


def _forbidden_type(owner: Object, key: str, values: set[str]) -> bool:
    """Does `owner` name a profile that is neither the runtime's default nor the node's own? Its type joins `values`."""
    profile = owner.get(key)
    if profile is None or profile.get("type", "") in ("RuntimeDefault", "Localhost"):
        return False
    values.add(profile.get("type", ""))
    return True


SELINUX_TYPES = frozenset(("", "container_t", "container_init_t", "container_kvm_t"))


def selinux(pod: Pod) -> Violation | None:
    allowed = SELINUX_TYPES | ({"container_engine_t"} if pod.version >= (1, 31) else set())
    types: set[str] = set()
    users: list[bool] = []
    roles: list[bool] = []

    def forbidden(owner: Object) -> bool:
        options = owner.get("seLinuxOptions") or {}
        kind = options.get("type", "")
        if kind not in allowed:
            types.add(kind)
        users.append(bool(options.get("user")))
        roles.append(bool(options.get("role")))
        return kind not in allowed or users[-1] or roles[-1]

    pod_too = forbidden(pod.own)
    bad = [each["name"] for each in pod.containers if forbidden(context(each))]
    if not pod_too and not bad:
        return None
    data = [f"{several('type', len(types))} {names(sorted(types))}"] if types else []
    data += ["user may not be set"] * any(users) + ["role may not be set"] * any(roles)
    text = (
        f"{setters(pod_too, bad)} set forbidden securityContext.seLinuxOptions: {'; '.join(data)}"
    )
    return Violation("seLinuxOptions", text)


def proc_mount(pod: Pod) -> Violation | None:
    bad, kinds = [], set()
    for container in pod.containers:
        kind = context(container).get("procMount")
        if kind not in (None, "Default"):
            bad.append(container["name"])
            kinds.add(kind)
    if not bad:
        return None
    text = f"{bad_containers(bad)} must not set securityContext.procMount to {names(sorted(kinds))}"
    return Violation("procMount", text)


def proc_mount_of_host_users(pod: Pod) -> Violation | None:
    return None if pod.user_namespace and pod.version >= (1, 35) else proc_mount(pod)


def seccomp(pod: Pod) -> Violation | None:
    values: set[str] = set()
    pod_too = _forbidden_type(pod.own, "seccompProfile", values)
    bad = [
        each["name"]
        for each in pod.containers
        if _forbidden_type(context(each), "seccompProfile", values)
    ]
    if not pod_too and not bad:
        return None
    text = f"{setters(pod_too, bad)} must not set securityContext.seccompProfile.type to {names(sorted(values))}"
    return Violation("seccompProfile", text)


# Namespaced and harmless sysctls, by the version that first allowed them.
SYSCTLS: dict[str, tuple[int, int]] = {
    "kernel.shm_rmid_forced": (1, 0),
    "net.ipv4.ip_local_port_range": (1, 0),
    "net.ipv4.tcp_syncookies": (1, 0),
    "net.ipv4.ping_group_range": (1, 0),
    "net.ipv4.ip_unprivileged_port_start": (1, 0),
    "net.ipv4.ip_local_reserved_ports": (1, 27),
    "net.ipv4.tcp_keepalive_time": (1, 29),
    "net.ipv4.tcp_fin_timeout": (1, 29),
    "net.ipv4.tcp_keepalive_intvl": (1, 29),
    "net.ipv4.tcp_keepalive_probes": (1, 29),
    "net.ipv4.tcp_rmem": (1, 32),
    "net.ipv4.tcp_wmem": (1, 32),
}


def sysctls(pod: Pod) -> Violation | None:
    bad = [
        each["name"]
        for each in pod.own.get("sysctls") or ()
        if SYSCTLS.get(each["name"], LATEST) > pod.version or each["name"] not in SYSCTLS
    ]
    return Violation("forbidden sysctls", ", ".join(bad)) if bad else None


def windows_host_process(pod: Pod) -> Violation | None:
    def asks(owner: Object) -> bool:
        return bool((owner.get("windowsOptions") or {}).get("hostProcess"))

    pod_too, bad = asks(pod.own), [each["name"] for each in pod.containers if asks(context(each))]
    if not pod_too and not bad:
        return None
    text = f"{setters(pod_too, bad)} must not set securityContext.windowsOptions.hostProcess=true"
    return Violation("hostProcess", text)


# Restricted


def privilege_escalation(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    bad = [
        each["name"]
        for each in pod.containers
        if context(each).get("allowPrivilegeEscalation") is not False
    ]
    if not bad:
        return None
    text = f"{bad_containers(bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", text)


def dropped_capabilities(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    keeping = [
        each["name"]
        for each in pod.containers
        if "ALL" not in ((context(each).get("capabilities") or {}).get("drop") or ())
    ]
    adding, text = _adding(pod, frozenset(("NET_BIND_SERVICE",)))
    details = []
    if keeping:
        details.append(
            f'{bad_containers(keeping)} must set securityContext.capabilities.drop=["ALL"]'
        )
    if adding:
        details.append(text)
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


VOLUME_TYPES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
    ]
)


def volume_types(pod: Pod) -> Violation | None:
    bad, kinds = [], set()
    for volume in pod.spec.get("volumes") or ():
        found = [key for key in volume if key != "name"]
        if not VOLUME_TYPES.intersection(found):
            bad.append(volume["name"])
            kinds.update(found or ["unknown"])
    if not bad:
        return None
    verb = "uses" if len(bad) == 1 else "use"
    what = several("restricted volume type", len(kinds))
    text = f"{several('volume', len(bad))} {names(bad)} {verb} {what} {names(sorted(kinds))}"
    return Violation("restricted volume types", text)


def non_root(pod: Pod) -> Violation | None:
    if pod.user_namespace and pod.version >= (1, 35):
        return None
    own = pod.own.get("runAsNonRoot")
    asked = {each["name"]: context(each).get("runAsNonRoot") for each in pod.containers}
    refusing = [name for name, value in asked.items() if value is False]
    silent = [name for name, value in asked.items() if value is None and own is not True]
    if own is False or refusing:
        text = f"{setters(own is False, refusing)} must not set securityContext.runAsNonRoot=false"
    elif silent:
        text = f"pod or {bad_containers(silent)} must set securityContext.runAsNonRoot=true"
    else:
        return None
    return Violation("runAsNonRoot != true", text)


def root_user(pod: Pod) -> Violation | None:
    if pod.user_namespace and pod.version >= (1, 35):
        return None
    pod_too = pod.own.get("runAsUser") == 0
    bad = [each["name"] for each in pod.containers if context(each).get("runAsUser") == 0]
    if not pod_too and not bad:
        return None
    return Violation("runAsUser=0", f"{setters(pod_too, bad)} must not set runAsUser=0")


def seccomp_set(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    explicit = seccomp(pod)
    if explicit is not None:
        return explicit
    if pod.own.get("seccompProfile"):
        return None
    bad = [each["name"] for each in pod.containers if not context(each).get("seccompProfile")]
    if not bad:
        return None
    text = f'pod or {bad_containers(bad)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", text)


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    level: str
    look: Callable[[Pod], Violation | None]
    since: tuple[int, int] = (1, 0)
    replaces: tuple[str, ...] = ()


# In the order in which Kubernetes tells them.
CHECKS: tuple[Check, ...] = (
    Check("appArmorProfile", BASELINE, apparmor),
    Check("capabilities_baseline", BASELINE, default_capabilities),
    Check("hostNamespaces", BASELINE, host_namespaces),
    Check("hostPathVolumes", BASELINE, host_paths),
    Check("hostPorts", BASELINE, host_ports),
    Check("hostProbesAndHostLifecycle", BASELINE, probe_hosts, since=(1, 34)),
    Check("privileged", BASELINE, privileged),
    Check("procMount", BASELINE, proc_mount_of_host_users),
    Check("seLinuxOptions", BASELINE, selinux),
    Check("seccompProfile_baseline", BASELINE, seccomp, since=(1, 19)),
    Check("sysctls", BASELINE, sysctls),
    Check("windowsHostProcess", BASELINE, windows_host_process),
    Check("allowPrivilegeEscalation", RESTRICTED, privilege_escalation, since=(1, 8)),
    Check(
        "capabilities_restricted",
        RESTRICTED,
        dropped_capabilities,
        since=(1, 22),
        replaces=("capabilities_baseline",),
    ),
    Check("procMount_restricted", RESTRICTED, proc_mount, since=(1, 35), replaces=("procMount",)),
    Check("restrictedVolumes", RESTRICTED, volume_types, replaces=("hostPathVolumes",)),
    Check("runAsNonRoot", RESTRICTED, non_root),
    Check("runAsUser", RESTRICTED, root_user, since=(1, 23)),
    Check(
        "seccompProfile_restricted",
        RESTRICTED,
        seccomp_set,
        since=(1, 19),
        replaces=("seccompProfile_baseline",),
    ),
)
