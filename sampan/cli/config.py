"""Where everything of one cluster lives, and what it is called: the one place that reads the environment.

A `Config` is made from the command line, written to `<data>/config.json` by the first `sampan up`, and read by every
part that is started later, so that `sampan node --data-dir D` agrees with `sampan up --data-dir D`. A later `up` keeps
what it is not told anew; what the data rests on (addresses, privilege) cannot change.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import socket
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any


class ConfigError(Exception):
    """A setting that cannot be used; the text names the setting."""


class NoCluster(ConfigError):
    """Nobody ran `sampan up` with this data directory yet."""


def default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/sampan")
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "sampan"


def default_run_dir(data_dir: Path) -> Path:
    """Sockets live in a short path: a unix socket's is limited to 107 bytes."""
    if data_dir == default_data_dir():
        if os.geteuid() == 0:
            return Path("/run/sampan")
        if runtime := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(runtime) / "sampan"
    return data_dir / "run"


def instance_of(data_dir: Path) -> str:
    """Prefix of kernel objects (bridge, table, namespaces, cgroups), so that two clusters can share a host."""
    if data_dir == default_data_dir() and os.geteuid() == 0:
        return "sampan"
    return "sp" + hashlib.sha256(str(data_dir).encode()).hexdigest()[:6]


def node_name() -> str:
    """The host's name as a DNS-1123 subdomain, as kubelet takes it."""
    name = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.")
    return name or "node"


VOLATILE = (
    "volumes",
    "wasm",
    "container",
)  # what parts keep in the run directory while there are pods
LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
ROOTLESS = {"cluster_cidr": "127.42.0.0/16", "service_cidr": "127.43.0.0/16"}
FIXED = {"rootless", "cluster_cidr", "service_cidr"}  # what objects and certificates rest on


def option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def dns_address(service_cidr: str) -> str:
    """Where cluster DNS answers: the tenth address, as is usual."""
    return str(ipaddress.IPv4Network(service_cidr)[10])


@dataclass(frozen=True)
class Config:
    data_dir: Path
    run_dir: Path
    rootless: bool
    instance: str
    node_name: str = field(default_factory=node_name)
    bind_address: str = "127.0.0.1"
    port: int = 6443
    node_port: int = 10250
    cluster_cidr: str = "10.42.0.0/16"
    pod_cidr_told: bool = False  # by a kubelet: `cluster_cidr` holds until then
    service_cidr: str = "10.43.0.0/16"
    cluster_dns: str = "10.43.0.10"
    cluster_domain: str = "cluster.local"
    service_node_ports: str = "30000-32767"
    max_pods: int = 250
    tls_san: tuple[str, ...] = ()  # further names and addresses in the API server's certificate
    kubelet_args: tuple[str, ...] = ()  # name=value (node/flags.py)
    controller_args: tuple[str, ...] = ()  # name=value (controllers/flags.py)
    cni_conf_dir: Path = Path("/etc/cni/net.d")  # plugins configured here attach the pods
    insecure_registries: tuple[str, ...] = ()  # host[:port] that may be spoken to over plain HTTP
    cri_listen: str = ""  # unix:///path of the runtime's socket; "": in the run directory
    runtime_kinds: tuple[str, ...] = ()  # sandbox kinds to offer; none: all
    oci_runtimes: dict[str, str] = field(default_factory=dict)  # by handler (runtime/config.py)
    private_registry: str = ""  # a registries.yaml: mirrors, credentials, TLS (image/hosts.py)
    embedded_registry: bool = False  # whether the runtime serves one of its own (cli/registry.py)
    registry_port: int = 5000
    registry_address: str = "127.0.0.1"
    # kube-apiserver's flags about identity, audit and encryption, by name (apiserver/security.py)
    apiserver_flags: dict[str, Any] = field(default_factory=dict)
    datastore_endpoint: tuple[str, ...] = ()  # URLs of an etcd cluster; none: the SQLite file
    datastore_cafile: str = ""  # PEM files for etcd
    datastore_certfile: str = ""
    datastore_keyfile: str = ""

    @property
    def local_address(self) -> str:
        """Where this machine's own clients reach what listens on `bind_address`."""
        return "127.0.0.1" if self.bind_address == "0.0.0.0" else self.bind_address

    @property
    def has_pods(self) -> bool:
        """Whether the runtime has pods on record; they may run though nobody supervises them."""
        sandboxes = self.data_dir / "runtime" / "sandboxes"
        return sandboxes.is_dir() and any(sandboxes.iterdir())

    @property
    def data_dir_is_default(self) -> bool:
        return self.data_dir == default_data_dir()

    @property
    def pki(self) -> Path:
        return self.data_dir / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.data_dir / "kubeconfig.yaml"

    @property
    def node_kubeconfig(self) -> Path:
        return self.data_dir / "node" / "kubeconfig.yaml"

    @property
    def store(self) -> Path:
        return self.data_dir / "store" / "state.db"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def images(self) -> Path:
        return self.data_dir / "images"

    @property
    def cri_socket(self) -> Path:
        if self.cri_listen:
            return Path(self.cri_listen.removeprefix("unix://"))
        return self.run_dir / "cri.sock"

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "supervisor.sock"

    @property
    def file(self) -> Path:
        return self.data_dir / "config.json"

    @classmethod
    def make(cls, data_dir: Path | None, *, rootless: bool = False, **settings: Any) -> Config:
        """What `sampan up` shall use: what is on disk, changed by those `settings` that are not None. Raises ConfigError."""
        given = {name: value for name, value in settings.items() if value is not None}
        try:
            known = cls.load(data_dir)
        except NoCluster:
            known = None
        flags = {**(known.apiserver_flags if known else {}), **given.get("apiserver_flags", {})}
        given["apiserver_flags"] = {name: value for name, value in flags.items() if value != ""}
        if known is not None:
            given |= {"rootless": True} if rootless else {}
            for name in FIXED & set(given):
                if given[name] != getattr(known, name):
                    raise ConfigError(
                        f"{option(name)}: the cluster in {known.data_dir} was made with "
                        f"{getattr(known, name)}, which cannot change; take another --data-dir"
                    )
            config = replace(known, **given)
        else:
            data = (data_dir or default_data_dir()).absolute()
            rootless = rootless or os.geteuid() != 0
            config = cls(data, default_run_dir(data), rootless, instance_of(data))
            config = replace(config, **(ROOTLESS if rootless else {}) | given)
        config.check()
        return config if known else replace(config, cluster_dns=dns_address(config.service_cidr))

    def check(self) -> None:
        """Raise ConfigError for a setting that cannot work, naming its option."""
        from sampan.kube.names import dns1123_subdomain

        if len(str(self.run_dir / "supervisor.sock")) > 100:
            raise ConfigError(
                f"--data-dir {self.data_dir}: the path is too long for the sockets in it (at most 80 characters)"
            )
        if self.cri_listen and not re.fullmatch(r"(unix://)?/.{1,106}", self.cri_listen):
            raise ConfigError(f"--listen {self.cri_listen}: must be unix:///path of a socket")
        if unknown := set(self.runtime_kinds) - {"wasm", "container", "microvm"}:
            raise ConfigError(f"kinds: {', '.join(sorted(unknown))}: no such kind of sandbox")
        for handler in self.oci_runtimes:
            if dns1123_subdomain(handler) or handler in ("wasm", "microvm"):
                raise ConfigError(f"oci.{handler}: cannot be the name of an OCI runtime's handler")
        for name in ("port", "node_port", "registry_port"):
            if not 0 < getattr(self, name) < 65536:
                raise ConfigError(f"{option(name)} {getattr(self, name)}: must be 1 to 65535")
        if self.port == self.node_port:
            raise ConfigError(f"--node-port {self.node_port}: the API server has this port")
        if self.embedded_registry and self.registry_port in (self.port, self.node_port):
            raise ConfigError(f"--registry-port {self.registry_port}: another part has this port")
        try:
            ipaddress.IPv4Address(self.registry_address)
        except ValueError:
            raise ConfigError(
                f"--registry-address {self.registry_address}: not an IPv4 address"
            ) from None
        if self.private_registry:
            from sampan.image.hosts import BadRegistries, Registries

            try:
                Registries.load(self.private_registry)
            except BadRegistries as error:
                raise ConfigError(f"--private-registry {error}") from None
        if wrong := dns1123_subdomain(self.node_name):
            raise ConfigError(f"--node-name {self.node_name}: {wrong[0]}")
        if self.kubelet_args or self.controller_args:
            self._check_flags()
        if self.max_pods < 1:
            raise ConfigError(f"--max-pods {self.max_pods}: must be at least 1")
        try:
            ipaddress.IPv4Address(self.bind_address)
        except ValueError:
            raise ConfigError(f"--bind-address {self.bind_address}: not an IPv4 address") from None
        for endpoint in self.datastore_endpoint:
            if not re.fullmatch(r"https?://\S+", endpoint):
                raise ConfigError(
                    f"--datastore-endpoint {endpoint}: must be URLs of etcd (https://host:2379,…), or sqlite"
                )
        pods = self.network("cluster_cidr", 24)
        services = self.network("service_cidr", 28)
        if pods.overlaps(services):
            raise ConfigError(f"--service-cidr {services}: overlaps --cluster-cidr {pods}")

    def _check_flags(self) -> None:
        """Those that are handed on to the node and to the controllers."""
        from sampan.controllers import flags as controller_flags
        from sampan.kube.flags import BadFlag
        from sampan.node import flags as node_flags

        for option_name, read, arguments in (
            ("--kubelet-arg", node_flags.read, self.kubelet_args),
            ("--kube-controller-manager-arg", controller_flags.read, self.controller_args),
        ):
            try:
                read(arguments)
            except BadFlag as error:
                raise ConfigError(f"{option_name} {error}") from None

    def network(self, name: str, longest: int) -> ipaddress.IPv4Network:
        text = getattr(self, name)
        try:
            network = ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ConfigError(f"{option(name)} {text}: {error}") from None
        if network.prefixlen > longest:
            raise ConfigError(f"{option(name)} {text}: too small; /{longest} is the least")
        if self.rootless and not network.subnet_of(LOOPBACK):
            raise ConfigError(f"{option(name)} {text}: without root it must be part of {LOOPBACK}")
        return network

    @classmethod
    def load(cls, data_dir: Path | None) -> Config:
        """The configuration that `sampan up` wrote. Raises ConfigError when there is none."""
        data = (data_dir or default_data_dir()).absolute()
        try:
            raw = json.loads((data / "config.json").read_bytes())
        except FileNotFoundError:
            raise NoCluster(
                f"no cluster in {data}; start one: sampan up --data-dir {data}"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{data}/config.json cannot be read: {error}") from error
        known = {f.name for f in fields(cls)}
        try:
            values = {name: value for name, value in raw.items() if name in known}
            values["data_dir"], values["run_dir"] = data, Path(raw["run_dir"])
            if "cni_conf_dir" in values:
                values["cni_conf_dir"] = Path(values["cni_conf_dir"])
            for name in ("tls_san", "insecure_registries", "datastore_endpoint", "kubelet_args"):
                values[name] = tuple(raw.get(name, ()))
            values["controller_args"] = tuple(raw.get("controller_args", ()))
            values["runtime_kinds"] = tuple(raw.get("runtime_kinds", ()))
            return cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"{data}/config.json cannot be read: {error!r}") from error

    def prepare(self) -> None:
        """Make the directories (0700) and write the configuration. Idempotent."""
        for directory in (self.data_dir, self.run_dir, self.logs, self.images):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(
            {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        )
        # Parts that are started alone, at the same moment, all come by here: each writes a file of its own.
        scratch = self.file.with_suffix(f".{os.getpid()}.part")
        scratch.touch(mode=0o600)
        with scratch.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(self.file)
