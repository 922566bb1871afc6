"""What a node is told about itself: plain values, computed elsewhere (`cli.config`). Nothing here reads the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.node.pressure import DEFAULTS

if TYPE_CHECKING:
    from sampan.node.policies import Enforcer


@dataclass(slots=True)
class NodeConfig:
    """One node. Paths exist or are made; durations are seconds."""

    name: str
    data_dir: Path
    run_dir: Path
    cri_socket: Path
    log_dir: Path | None = None  # parent of `pods/`; None: <data_dir>/logs
    address: str = "127.0.0.1"  # InternalIP, and where the endpoint listens
    hostname: str = ""
    port: int = 10250  # 0: any free one
    client_ca: Path | None = None  # who may call the endpoint; None: no endpoint
    certificate: Path | None = None  # the endpoint's own
    key: Path | None = None
    pod_cidr: str = ""  # spec.podCIDR of the Node, when this side decides it
    cluster_dns: str = "10.43.0.10"
    cluster_domain: str = "cluster.local"
    max_pods: int = 250
    root: bool = False
    cgroup_root: str = ""  # name of the parent cgroup of all pods, "" without cgroups
    resolv_conf: Path | None = None  # for dnsPolicy Default; None: the host's
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()
    # Makes the service proxy and the DNS server: things with `apply(services, slices)` and `close()`.
    network: Callable[[], Any] | None = None
    policies: Callable[[], Enforcer] | None = None  # None: NetworkPolicies cannot be enforced here
    parallel_pods: int = 8  # sandboxes that are being made at once
    parallel_pulls: int = 4
    container_log_max_size: int = 10 * 1024 * 1024  # bytes of one file
    container_log_max_files: int = 5
    allowed_unsafe_sysctls: tuple[str, ...] = ()  # names, or prefixes that end with *
    eviction_hard: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULTS))
    image_gc_high: int = 85  # per cent of the images' disk
    image_gc_low: int = 80
    pod_manifest_path: Path | None = None  # directory of static pods
    root_dir: Path | None = None  # of device-plugins/ and pod-resources/; None: <data_dir>/node
    shutdown_grace: float = (
        0.0  # seconds that pods get when the machine stops; 0: it is not waited for
    )
    shutdown_grace_critical: float = 0.0  # of them, for critical pods
    image_dir: Path | None = None  # where the runtime keeps images; None: data_dir
    lease_seconds: int = 10
    status_seconds: int = 300

    @property
    def cache_path(self) -> Path:
        return self.data_dir / "node" / "cache.db"

    @property
    def device_plugins_dir(self) -> Path:
        return (self.root_dir or self.data_dir / "node") / "device-plugins"

    @property
    def pod_resources_dir(self) -> Path:
        return (self.root_dir or self.data_dir / "node") / "pod-resources"

    @property
    def storage_dir(self) -> Path:
        """Of the volumes that are directories of this node."""
        return self.data_dir / "storage"

    @property
    def pods_dir(self) -> Path:
        return self.data_dir / "node" / "pods"

    @property
    def pod_logs_dir(self) -> Path:
        return (self.log_dir or self.data_dir / "logs") / "pods"

    def pod_log_dir(self, pod: dict[str, Any]) -> Path:
        meta = pod["metadata"]
        return self.pod_logs_dir / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"

    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback
