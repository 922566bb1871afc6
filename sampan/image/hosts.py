"""Where the images of a registry are fetched from: mirrors, credentials and TLS, in the format of K3s' `registries.yaml`.

    mirrors:
      docker.io:                                     # or "*": any registry without an entry of its own
        endpoint: ["https://mirror.example:5000"]    # tried in this order, the registry itself last
        rewrite: {"^library/(.*)": "hub/$1"}
    configs:
      "mirror.example:5000":
        auth: {username: captain, password: secret}  # or auth, identity_token
        tls: {ca_file: /etc/ca.pem, cert_file: …, key_file: …, insecure_skip_verify: false}

Plain HTTP is spoken to loopback registries, to those called insecure, and to endpoints written as http://. Credentials that come
with a request (imagePullSecrets) go to the registry itself and never to a mirror; a mirror has its own under `configs`.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sampan.image.auth import Auth, DockerConfig
from sampan.image.errors import ImageError
from sampan.image.reference import DEFAULT_REGISTRY

DOCKER_HOST = "registry-1.docker.io"


class BadRegistries(ImageError):
    """A configuration of registries that cannot be used; names the field."""


@dataclass(frozen=True, slots=True)
class TLS:
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False

    def context(self) -> ssl.SSLContext | None:
        """None: what Python trusts by itself. Raises OSError (ssl.SSLError is one)."""
        if self == TLS():
            return None
        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None)
        return context


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask. `schemes` has two entries when either may be spoken there, the likelier first."""

    host: str
    schemes: tuple[str, ...]
    path: str = "/v2"
    auth: Auth | None = None
    tls: TLS = TLS()
    rewrite: tuple[tuple[str, str], ...] = ()
    mirror: bool = False

    def repository(self, name: str) -> str:
        """The repository's name there: the first rule that matches applies."""
        for pattern, replacement in self.rewrite:
            if re.search(pattern, name):
                return re.sub(pattern, replacement, name)
        return name


@dataclass(frozen=True, slots=True)
class Host:
    auth: Auth | None = None
    tls: TLS = TLS()


@dataclass(frozen=True, slots=True)
class Mirror:
    endpoints: tuple[str, ...] = ()
    rewrite: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Registries:
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    insecure: tuple[str, ...] = ()  # host[:port] that may be spoken to over plain HTTP
    docker: DockerConfig | None = None  # the user's own logins: the command line's, never a node's

    @classmethod
    def read(cls, document: Any, insecure: Sequence[str] = ()) -> Registries:
        """Raises BadRegistries."""
        document = _mapping(document, "the file")
        if unknown := set(document) - {"mirrors", "configs", "auths"}:
            raise BadRegistries(f"unknown field {sorted(unknown)[0]!r}")
        mirrors = {
            str(name): _mirror(value, f"mirrors[{name}]")
            for name, value in _mapping(document.get("mirrors"), "mirrors").items()
        }
        hosts = {
            str(name): _host(value, f"configs[{name}]")
            for name, value in _mapping(document.get("configs"), "configs").items()
        }
        return cls(mirrors, hosts, tuple(insecure))

    @classmethod
    def load(cls, path: Path | str, insecure: Sequence[str] = ()) -> Registries:
        """Raises BadRegistries, naming the file."""
        import yaml

        try:
            return cls.read(yaml.safe_load(Path(path).read_bytes()), insecure)
        except (OSError, yaml.YAMLError, BadRegistries) as error:
            raise BadRegistries(f"{path}: {error}") from None

    def with_host(self, names: Sequence[str], host: Host) -> Registries:
        """The same, knowing a further registry by these names. What the file says of one of them counts more."""
        hosts = {**dict.fromkeys(names, host), **self.hosts}
        return Registries(self.mirrors, hosts, self.insecure, self.docker)

    def endpoints(self, registry: str, auth: Auth | None = None) -> list[Endpoint]:
        """Where to look for the images of `registry`, best first; its own address is the last."""
        mirror = self.mirrors.get(registry) or self.mirrors.get("*") or Mirror()
        found = [self._endpoint(url, mirror, registry) for url in mirror.endpoints]
        return [*found, self.own(registry, auth)]

    def own(self, registry: str, auth: Auth | None = None) -> Endpoint:
        """The registry itself. Looking up the user's own logins may run a helper: call it in a thread."""
        address = DOCKER_HOST if registry == DEFAULT_REGISTRY else registry
        host = self.hosts.get(registry) or self.hosts.get(address) or Host()
        plain = is_loopback(address) or registry in self.insecure
        schemes = ("https", "http") if plain else ("https",)
        if is_loopback(address) and not host.tls.ca_file:
            schemes = schemes[::-1]
        elif host.tls.ca_file:  # somebody took care to name its authority: never in the clear
            schemes = ("https",)
        login = auth or host.auth
        if login is None and self.docker is not None:
            login = self.docker.lookup(registry)
        return Endpoint(address, schemes, auth=login, tls=host.tls)

    def _endpoint(self, url: str, mirror: Mirror, registry: str) -> Endpoint:
        parts = urlsplit(url)
        host = self.hosts.get(parts.netloc) or Host()
        rewrite = mirror.rewrite
        if parts.netloc == registry and not rewrite:
            return self.own(registry)
        return Endpoint(
            parts.netloc,
            (parts.scheme,),
            parts.path.rstrip("/") or "/v2",
            host.auth,
            host.tls,
            rewrite,
            mirror=True,
        )


def is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRegistries(f"{where}: must be a map")
    return value


def _mirror(value: Any, where: str) -> Mirror:
    value = _mapping(value, where)
    endpoints = value.get("endpoint") or []
    if not isinstance(endpoints, list):
        raise BadRegistries(f"{where}.endpoint: must be a list of URLs")
    for url in endpoints:
        parts = urlsplit(str(url))
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username is not None:
            raise BadRegistries(f"{where}.endpoint: {str(url)!r} is not https://host[:port]")
    rules = []
    for pattern, replacement in _mapping(value.get("rewrite"), f"{where}.rewrite").items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadRegistries(f"{where}.rewrite: {pattern!r}: {error}") from None
        rules.append((pattern, re.sub(r"\$\{?(\d+)\}?", r"\\g<\1>", str(replacement))))
    return Mirror(tuple(str(url) for url in endpoints), tuple(rules))


def _host(value: Any, where: str) -> Host:
    value = _mapping(value, where)
    tls = _mapping(value.get("tls"), f"{where}.tls")
    try:
        auth = Auth.read(_mapping(value.get("auth"), f"{where}.auth"))
    except ValueError:
        raise BadRegistries(f"{where}.auth.auth: is not base64 of user:password") from None
    files = {name: str(tls.get(name) or "") for name in ("ca_file", "cert_file", "key_file")}
    for name, path in files.items():
        if path and not Path(path).is_file():
            raise BadRegistries(f"{where}.tls.{name}: {path}: no such file")
    return Host(auth, TLS(**files, insecure_skip_verify=bool(tls.get("insecure_skip_verify"))))
