"""The checks of level `baseline`: what is known to lead out of a container. Each answers None or what is forbidden there."""

from __future__ import annotations

from sampan.kube.errors import quote
from sampan.kube.podsecurity.model import (
    LATEST,
    Object,
    Pod,
    Violation,
    bad_containers,
    context,
    names,
    setters,
    several,
)


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


def added_capabilities(pod: Pod, allowed: frozenset[str]) -> tuple[list[str], str]:
    bad, added = [], set()
    for container in pod.containers:
        more = set((context(container).get("capabilities") or {}).get("add") or ()) - allowed
        if more:
            bad.append(container["name"])
            added |= more
    text = f"{bad_containers(bad)} must not include {names(sorted(added))} in securityContext.capabilities.add"
    return bad, text


def default_capabilities(pod: Pod) -> Violation | None:
    bad, text = added_capabilities(pod, DEFAULT_CAPABILITIES)
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
