"""Registries of this node: which it pulls from, and the one that it serves itself (`sampan up --embedded-registry`).

The command line and the runtime open the image store the same way, here. The embedded registry runs in the runtime, beside the store
that it serves; its users are in `<data>/registry/users`, and both sides log in with the first of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sampan.cli.config import Config
from sampan.image.hosts import TLS, Host, Registries, is_loopback
from sampan.image.manifest import default_platforms
from sampan.image.store import ImageStore

if TYPE_CHECKING:
    from sampan.image.auth import DockerConfig
    from sampan.image.registryserver.credentials import Credentials


def credentials(config: Config) -> Credentials:
    from sampan.image.registryserver.credentials import Credentials

    return Credentials(config.data_dir / "registry")


def embedded_names(config: Config) -> list[str]:
    """What the embedded registry is called, the name that its images bear first."""
    hosts = ["localhost", "127.0.0.1"]
    if not is_loopback(config.registry_address) and config.registry_address != "0.0.0.0":
        hosts.append(config.registry_address)
    return [f"{host}:{config.registry_port}" for host in hosts]


def registries(config: Config, docker: DockerConfig | None = None) -> Registries:
    """Raises ImageError for a --private-registry file that cannot be used."""
    insecure = config.insecure_registries
    found = Registries(insecure=insecure)
    if config.private_registry:
        found = Registries.load(config.private_registry, insecure)
    if config.embedded_registry:
        names = embedded_names(config)
        tls = TLS()
        if not is_loopback(config.registry_address):
            tls = TLS(ca_file=str(config.pki / "ca.crt"))
        found = found.with_host(names, Host(credentials(config).ensure(names), tls))
    return replace(found, docker=docker)


def open_images(config: Config, docker: DockerConfig | None = None) -> ImageStore:
    return ImageStore(
        config.images,
        platforms=default_platforms(prefer_wasm=config.rootless),
        registries=registries(config, docker),
    )


async def serve_registry(config: Config, images: ImageStore) -> None:
    """Until cancelled. Raises OSError when the port is taken."""
    from sampan.image.registryserver import RegistryServer
    from sampan.image.registryserver.server import context

    beyond = not is_loopback(config.registry_address)
    pki = config.pki
    server = RegistryServer(
        images,
        credentials(config),
        address=config.registry_address,
        port=config.registry_port,
        tls=context(pki / "apiserver.crt", pki / "apiserver.key") if beyond else None,
    )
    await server.run()
