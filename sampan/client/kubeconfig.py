"""Where a cluster is and how to be let in: kubeconfig files, the service account of a pod, and writing a kubeconfig.

`load` resolves one context to a `Kubeconfig` with bytes and paths; nothing is connected and no plug-in runs here. Several
files are merged as kubectl does with KUBECONFIG: the first that defines a name wins.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.client.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A program that prints an ExecCredential (client.authentication.k8s.io)."""

    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    api_version: str = "client.authentication.k8s.io/v1"
    install_hint: str = ""
    provide_cluster_info: bool = False


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One context, resolved. What is empty is not used."""

    server: str  # https://host:port[/path]
    namespace: str = "default"
    ca: bytes = b""  # PEM; empty: the system's certificates
    insecure: bool = False  # do not verify the server
    tls_server_name: str = ""
    proxy: str = ""
    certificate: bytes = field(default=b"", repr=False)  # PEM
    key: bytes = field(default=b"", repr=False)  # PEM
    token: str = field(default="", repr=False)
    token_file: str = ""  # read again when it changes: service account tokens are short-lived
    username: str = ""
    password: str = field(default="", repr=False)
    exec: ExecPlugin | None = None


def search_path(environment: Mapping[str, str]) -> list[Path]:
    """The files that kubectl would read."""
    listed = environment.get("KUBECONFIG", "")
    if listed:
        return [Path(part) for part in listed.split(os.pathsep) if part]
    return [Path(environment.get("HOME", "~")).expanduser() / ".kube" / "config"]


def load(path: str | Path | Sequence[str | Path], context: str | None = None) -> Kubeconfig:
    """The given or the current context of a kubeconfig, or of several merged. Raises ConfigError."""
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    merged = _merge([Path(p) for p in paths], strict=len(paths) == 1)
    shown = os.pathsep.join(str(p) for p in paths)
    name = context or merged.current
    if not name:
        raise ConfigError(f"{shown}: no current-context; name a context")
    selected, _ = merged.find("contexts", name, shown)
    cluster, cluster_base = merged.find("clusters", selected.get("cluster", ""), shown)
    user: dict[str, Any] = {}
    user_base = Path()
    if selected.get("user"):
        user, user_base = merged.find("users", selected["user"], shown)
    server = cluster.get("server", "")
    if not server.startswith(("https://", "http://")):
        raise ConfigError(
            f"{shown}: clusters[{selected.get('cluster')}].server: not a URL: {server!r}"
        )
    return Kubeconfig(
        server=server.rstrip("/"),
        namespace=selected.get("namespace") or "default",
        ca=_material(cluster, "certificate-authority", cluster_base),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name", ""),
        proxy=cluster.get("proxy-url", ""),
        certificate=_material(user, "client-certificate", user_base),
        key=_material(user, "client-key", user_base),
        token="" if user.get("tokenFile") else user.get("token", ""),
        token_file=str(user_base / user["tokenFile"]) if user.get("tokenFile") else "",
        username=user.get("username", ""),
        password=user.get("password", ""),
        exec=_exec(user["exec"], user_base, shown) if user.get("exec") else None,
    )


def in_cluster(
    environment: Mapping[str, str], directory: str | Path = SERVICE_ACCOUNT
) -> Kubeconfig:
    """The configuration of a pod, from its service account. Raises ConfigError outside of one."""
    directory = Path(directory)
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError("not in a pod: KUBERNETES_SERVICE_HOST is not set")
    try:
        ca = (directory / "ca.crt").read_bytes()
        token_file = directory / "token"
        token_file.stat()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    try:
        namespace = (directory / "namespace").read_text().strip()
    except OSError:
        namespace = ""
    shown = f"[{host}]" if ":" in host else host
    return Kubeconfig(
        server=f"https://{shown}:{port}",
        namespace=namespace or "default",
        ca=ca,
        token_file=str(token_file),
    )


def write(
    path: str | Path,
    *,
    server: str,
    ca: bytes = b"",
    certificate: bytes = b"",
    key: bytes = b"",
    token: str = "",
    name: str = "sampan",
    user: str = "",
    namespace: str = "",
) -> None:
    """Write a kubeconfig with one context. Mode 0600, replaced atomically."""
    import yaml

    user = user or name
    cluster: dict[str, Any] = {"server": server}
    if ca:
        cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
    credentials: dict[str, Any] = {}
    if certificate:
        credentials["client-certificate-data"] = base64.b64encode(certificate).decode()
        credentials["client-key-data"] = base64.b64encode(key).decode()
    if token:
        credentials["token"] = token
    context = {"cluster": name, "user": user}
    if namespace:
        context["namespace"] = namespace
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600 from the start: the key is never readable by others.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump(document, file, sort_keys=False, width=1 << 20)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _Merged:
    """Named entries of all files, each with the directory that its relative paths start from."""

    def __init__(self) -> None:
        self.current = ""
        self.entries: dict[str, dict[str, tuple[dict[str, Any], Path]]] = {
            "clusters": {},
            "users": {},
            "contexts": {},
        }

    def find(self, section: str, name: str, shown: str) -> tuple[dict[str, Any], Path]:
        found = self.entries[section].get(name)
        if found is None:
            known = ", ".join(sorted(self.entries[section])) or "none"
            raise ConfigError(f"{shown}: no entry {name!r} in {section} (there are: {known})")
        return found


def _merge(paths: list[Path], *, strict: bool) -> _Merged:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    merged = _Merged()
    for path in paths:
        try:
            document = yaml.load(path.read_bytes(), Loader=loader) or {}
        except FileNotFoundError:
            if strict:
                raise ConfigError(f"{path}: no such file") from None
            continue  # as kubectl does with files named in KUBECONFIG
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not YAML: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: not a kubeconfig")
        merged.current = merged.current or document.get("current-context") or ""
        for section, entries in merged.entries.items():
            for entry in document.get(section) or ():
                value = entry.get(section.removesuffix("s")) or {}
                entries.setdefault(entry.get("name", ""), (value, path.parent))
    return merged


def _material(entry: Mapping[str, Any], name: str, base: Path) -> bytes:
    """PEM bytes out of `<name>-data` (base64) or the file `<name>`; data wins, as for kubectl."""
    if data := entry.get(f"{name}-data"):
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ConfigError(f"{name}-data: not base64: {error}") from error
    if file := entry.get(name):
        try:
            return (base / file).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name}: {base / file}: {error.strerror}") from error
    return b""


def _exec(entry: Mapping[str, Any], base: Path, shown: str) -> ExecPlugin:
    command = entry.get("command", "")
    if not command:
        raise ConfigError(f"{shown}: users[].user.exec.command: required")
    if "/" in command:
        command = str(base / command)
    return ExecPlugin(
        command,
        tuple(entry.get("args") or ()),
        tuple((pair["name"], pair["value"]) for pair in entry.get("env") or ()),
        entry.get("apiVersion", "client.authentication.k8s.io/v1"),
        entry.get("installHint", ""),
        bool(entry.get("provideClusterInfo")),
    )
