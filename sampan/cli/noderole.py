"""The `runtime` and `node` parts: what a machine that runs pods is made of, with root and without."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from sampan.cli.config import Config

log = logging.getLogger(__name__)

UNPRIVILEGED_DNS = (
    10053  # where DNS answers when port 53 cannot be bound: the rule of docs/network.md
)


def pod_cidr(config: Config) -> str:
    """This node's share of the cluster's pod addresses. Loopback needs no shares: all of it is this host's."""
    network = ipaddress.ip_network(config.cluster_cidr)
    if config.rootless or network.prefixlen >= 24:
        return str(network)
    return str(next(network.subnets(new_prefix=24)))


def pod_network(config: Config) -> Any:
    directory = config.data_dir / "network"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if config.rootless:
        from sampan.network.loopback import LoopbackNetwork

        return LoopbackNetwork(directory, pod_cidr(config), config.service_cidr)
    from sampan.network import cni

    if cni.find_configuration(config.cni_conf_dir) is not None:
        return cni.CNINetwork(directory, config.instance, configuration=config.cni_conf_dir)
    from sampan.network.bridge import BridgeNetwork

    return BridgeNetwork(directory, pod_cidr(config), config.instance, follow=config.pod_cidr_told)


def offered(config: Config, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Sandbox kinds of this node. A microVM without a pod's network namespace is an ordinary user's: root's VMM is jailed."""
    if config.rootless:
        kinds = ("wasm",) if os.geteuid() == 0 else ("wasm", "microvm")
    return tuple(kind for kind in kinds if kind in (config.runtime_kinds or kinds))


async def run_runtime(config: Config, notify: Callable[..., None]) -> None:
    from sampan.cli.registry import open_images, serve_registry
    from sampan.runtime.config import RuntimeConfig
    from sampan.runtime.kinds import KINDS
    from sampan.runtime.serve import serve

    ready = asyncio.Event()
    images = open_images(config)
    settings = RuntimeConfig(
        directory=config.data_dir / "runtime",
        run_directory=config.run_dir,
        socket=config.cri_socket,
        instance=config.instance,
        network=pod_network(config),
        images=images,
        kinds=offered(config, tuple(KINDS)),
        engines={} if config.rootless else config.oci_runtimes,
        takes_pod_cidr=config.pod_cidr_told,
    )
    config.cri_socket.parent.mkdir(parents=True, exist_ok=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, ready))
        await ready.wait()
        if config.embedded_registry:
            group.create_task(serve_registry(config, images))
        notify("cri", str(config.cri_socket))


class NodeNetwork:
    """Services and DNS of this node: what `node.network` feeds with Services and EndpointSlices."""

    def __init__(self, config: Config) -> None:
        from sampan.network.dns import DNSServer
        from sampan.network.zone import build

        self.config = config
        self.zone = build((), (), config.cluster_domain)
        self.proxy = self.make_proxy()
        self.dns = DNSServer((config.cluster_dns,), self.dns_port(), lambda: self.zone)
        self.serving = False

    def make_proxy(self) -> Any:
        config = self.config
        if config.rootless:
            from sampan.network.userspace import UserspaceProxy

            return UserspaceProxy(config.node_name, (config.bind_address,))
        from sampan.network.nft import NFTProxy

        return NFTProxy(config.instance, pod_cidr(config), config.service_cidr, config.node_name)

    def dns_port(self) -> int:
        from sampan.network.userspace import first_free_port

        return 53 if first_free_port() <= 53 else UNPRIVILEGED_DNS

    async def apply(self, services: list[Any], slices: list[Any]) -> None:
        from sampan.network.zone import build

        self.zone = build(services, slices, self.config.cluster_domain)
        if not self.serving:
            await (
                self.serve_dns()
            )  # first: service addresses are routed by the bridge that it makes sure of
            self.serving = True
        await self.proxy.apply(services, slices)

    async def serve_dns(self) -> None:
        if not self.config.rootless:
            network = pod_network(self.config)
            await network.serve_address(self.config.cluster_dns)
            await network.close()
        await self.dns.start()

    async def close(self) -> None:
        await self.dns.close()
        await self.proxy.close()


def policy_table(config: Config) -> Any:
    from sampan.network.policytable import PolicyTable

    return PolicyTable(config.instance)


async def run_node(config: Config, notify: Callable[..., None]) -> None:
    from sampan.apiserver.pki import PKIPaths, write_node_kubeconfig
    from sampan.client.client import Client
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load
    from sampan.node import flags
    from sampan.node.agent import NodeAgent
    from sampan.node.certificates import Own, Rotation
    from sampan.node.config import NodeConfig

    pki = PKIPaths.under(config.pki)
    kubeconfig = load(config.node_kubeconfig)
    transport = HTTPTransport(kubeconfig)
    client = Client(transport, user_agent="kubelet")
    agent = NodeAgent(
        client,
        NodeConfig(
            name=config.node_name,
            data_dir=config.data_dir,
            run_dir=config.run_dir,
            cri_socket=config.cri_socket,
            log_dir=config.logs,
            address=config.bind_address,
            hostname=config.node_name,
            port=config.node_port,
            client_ca=pki.ca.crt,
            certificate=pki.node_serving.crt,
            key=pki.node_serving.key,
            pod_cidr=pod_cidr(config),
            cluster_dns=config.cluster_dns,
            cluster_domain=config.cluster_domain,
            max_pods=config.max_pods,
            root=not config.rootless,
            cgroup_root="" if config.rootless else config.instance,
            network=lambda: NodeNetwork(config),
            policies=None if config.rootless else lambda: policy_table(config),
            image_dir=config.images,
            **flags.read(config.kubelet_args),
        ),
    )

    def renewed_client() -> None:
        write_node_kubeconfig(config.node_kubeconfig, kubeconfig.server, pki)
        transport.credentials.renew(pki.node.crt.read_bytes(), pki.node.key.read_bytes())

    def renewed_serving() -> None:
        if agent.endpoint is not None:
            agent.endpoint.reload()

    rotation = Rotation(
        client,
        config.node_name,
        (
            Own(pki.node.crt, pki.node.key, serving=False, renewed=renewed_client),
            Own(pki.node_serving.crt, pki.node_serving.key, serving=True, renewed=renewed_serving),
        ),
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            agent.end_pods_on(signal.SIGPWR, group, lambda: notify("drained", config.node_name))
            await agent.running.wait()
            if agent.config.shutdown_grace:
                notify("graceful", f"{agent.config.shutdown_grace:g}")
            notify("registered", config.node_name)
            group.create_task(rotation.run())
    finally:
        await client.close()


async def clear_network(config: Config) -> None:
    """Take down bridge, tables and namespaces. Only when no pod is left."""
    if config.rootless:
        return
    network = pod_network(config)
    await NodeNetwork(config).proxy.remove()
    await policy_table(config).remove()
    await network.remove()
    await network.close()
