"""PodSandboxConfig from a pod: names, DNS, ports, security and cgroup, as kubelet fills them in. Pure."""

from __future__ import annotations

from typing import Any

from sampan.cri import api_pb2 as api
from sampan.kube.quantity import parse
from sampan.network.resolv import ResolvConf
from sampan.node import podspec
from sampan.node.config import NodeConfig
from sampan.node.errors import SandboxError
from sampan.node.observed import POD_NAME, POD_NAMESPACE, POD_UID
from sampan.node.podspec import Object
from sampan.node.resources import (
    BEST_EFFORT,
    BURSTABLE,
    PERIOD,
    cpu_shares,
    pod_resources,
    qos_class,
)
from sampan.node.userranges import LENGTH, UserRange

PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
POD, CONTAINER, NODE, TARGET = range(4)
HOSTNAME_LIMIT = 63
KERNEL_LIMIT = 64  # of a host name: __NEW_UTS_LEN


def hostname(pod: Object) -> str:
    spec = pod["spec"]
    name = spec.get("hostnameOverride") or spec.get("hostname") or pod["metadata"]["name"]
    return name[:HOSTNAME_LIMIT].rstrip("-.")


def domain(pod: Object, config: NodeConfig) -> str:
    """The pod's own DNS name when it has a subdomain, else empty; none beside `hostnameOverride` (KEP-4762)."""
    subdomain = pod["spec"].get("subdomain")
    if not subdomain or pod["spec"].get("hostnameOverride"):
        return ""
    return f"{subdomain}.{pod['metadata']['namespace']}.svc.{config.cluster_domain}"


def kernel_hostname(pod: Object, config: NodeConfig) -> str:
    """What uname(2) says in the pod: with `setHostnameAsFQDN` its DNS name (KEP-1797). SandboxError when that is too long."""
    own, tail = hostname(pod), domain(pod, config)
    if not tail or not pod["spec"].get("setHostnameAsFQDN"):
        return own
    full = f"{own}.{tail}"
    if len(full) > KERNEL_LIMIT:
        raise SandboxError(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN "
            f"{full} is too long ({KERNEL_LIMIT} characters is the max, {len(full)} characters requested)"
        )
    return full


def cgroup_parent(pod: Object, config: NodeConfig) -> str:
    if not config.cgroup_root:
        return ""
    qos = qos_class(pod)
    middle = f"/{qos.lower()}" if qos in (BURSTABLE, BEST_EFFORT) else ""
    return f"/{config.cgroup_root.strip('/')}/kubepods{middle}/pod{pod['metadata']['uid']}"


def namespaces(pod: Object, target: str = "", users: UserRange | None = None) -> Any:
    spec = pod["spec"]
    options = api.NamespaceOption(
        network=NODE if spec.get("hostNetwork") else POD,
        ipc=NODE if spec.get("hostIPC") else POD,
        pid=NODE
        if spec.get("hostPID")
        else POD
        if spec.get("shareProcessNamespace")
        else CONTAINER,
    )
    if users is not None:
        ids = mapping(users)
        options.userns_options.CopyFrom(api.UserNamespace(mode=POD, uids=ids, gids=ids))
    if target:
        options.pid = TARGET
        options.target_id = target
    return options


def mapping(users: UserRange | None) -> list[Any]:
    """IDMappings of a pod with users of its own, else none."""
    if users is None:
        return []
    return [api.IDMapping(host_id=users.first, container_id=0, length=LENGTH)]


def seccomp(profile: Object | None, *, privileged: bool = False) -> Any:
    """Without a profile the runtime's default one holds, as with kubelet's --seccomp-default."""
    kind = (profile or {}).get("type") or ("Unconfined" if privileged else "RuntimeDefault")
    number = {"RuntimeDefault": 0, "Unconfined": 1, "Localhost": 2}[kind]
    return api.SecurityProfile(
        profile_type=number, localhost_ref=(profile or {}).get("localhostProfile") or ""
    )


def groups(pod: Object) -> list[int]:
    security = pod["spec"].get("securityContext") or {}
    found = list(security.get("supplementalGroups") or ())
    if security.get("fsGroup") is not None:
        found.append(security["fsGroup"])
    return found


def groups_policy(pod: Object) -> Any:
    """Whether the groups of the image's /etc/group come on top (KEP-3619)."""
    security = pod["spec"].get("securityContext") or {}
    return api.Strict if security.get("supplementalGroupsPolicy") == "Strict" else api.Merge


def make(
    pod: Object, attempt: int, config: NodeConfig, names: ResolvConf, users: UserRange | None = None
) -> Any:
    """A PodSandboxConfig. `names`: the pod's resolv.conf."""
    meta, spec = pod["metadata"], pod["spec"]
    security = spec.get("securityContext") or {}
    privileged = any(
        (c.container.get("securityContext") or {}).get("privileged")
        for c in podspec.containers(pod)
    )
    context = api.LinuxSandboxSecurityContext(
        namespace_options=namespaces(pod, users=users),
        supplemental_groups=groups(pod),
        privileged=privileged,
        seccomp=seccomp(security.get("seccompProfile"), privileged=privileged),
    )
    if security.get("runAsUser") is not None:
        context.run_as_user.value = security["runAsUser"]
    if security.get("runAsGroup") is not None:
        context.run_as_group.value = security["runAsGroup"]
    linux = api.LinuxPodSandboxConfig(
        cgroup_parent=cgroup_parent(pod, config),
        security_context=context,
        sysctls={item["name"]: item["value"] for item in security.get("sysctls") or ()},
        resources=api.LinuxContainerResources(**pod_resources(pod)),
    )
    if overhead := spec.get("overhead"):
        linux.overhead.CopyFrom(_overhead(overhead))
    return api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(
            name=meta["name"], namespace=meta["namespace"], uid=meta["uid"], attempt=attempt
        ),
        hostname="" if spec.get("hostNetwork") else kernel_hostname(pod, config),
        log_directory=str(config.pod_log_dir(pod)),
        dns_config=api.DNSConfig(
            servers=names.nameservers, searches=names.searches, options=names.options
        ),
        port_mappings=[
            api.PortMapping(
                protocol=PROTOCOLS.get(port.get("protocol") or "TCP", 0),
                container_port=port["containerPort"],
                host_port=port.get("hostPort") or 0,
                host_ip=port.get("hostIP") or "",
            )
            for named in podspec.containers(pod)
            for port in named.container.get("ports") or ()
        ],
        labels={
            **(meta.get("labels") or {}),
            POD_NAME: meta["name"],
            POD_NAMESPACE: meta["namespace"],
            POD_UID: meta["uid"],
        },
        annotations=meta.get("annotations") or {},
        linux=linux,
    )


def _overhead(overhead: dict[str, str]) -> Any:
    fields: dict[str, int] = {}
    if cpu := overhead.get("cpu"):
        fields |= {"cpu_shares": cpu_shares(parse(cpu).milli()), "cpu_period": PERIOD}
    if memory := overhead.get("memory"):
        fields["memory_limit_in_bytes"] = parse(memory).value()
    return api.LinuxContainerResources(**fields)


def hosts_file(pod: Object, config: NodeConfig, addresses: tuple[str, ...]) -> str:
    """/etc/hosts of a pod with its own network."""
    lines = [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
    ]
    own = hostname(pod)
    tail = domain(pod, config)
    names = f"{own}.{tail}\t{own}" if tail else own
    lines.extend(f"{address}\t{names}" for address in addresses)
    return "\n".join(lines + _aliases(pod)) + "\n"


def host_hosts_file(pod: Object, own: str) -> str:
    """The node's /etc/hosts, `own`, with the pod's aliases, for a pod on the node's network."""
    lines = ["# Kubernetes-managed hosts file (host network).", own.rstrip("\n"), *_aliases(pod)]
    return "\n".join(lines) + "\n"


def _aliases(pod: Object) -> list[str]:
    aliases = pod["spec"].get("hostAliases") or ()
    if not aliases:
        return []
    lines = ["", "# Entries added by HostAliases."]
    lines += [f"{item['ip']}\t" + "\t".join(item.get("hostnames") or ()) for item in aliases]
    return lines
