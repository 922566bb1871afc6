"""The three parts of a cluster, as processes: what each is made of, and how it begins and ends.

A part is a coroutine that runs until it is cancelled. `run` gives it an event loop, logging, and its ends: SIGTERM, or the
supervisor's lifeline closing. Each imports only its own rooms.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from sampan.cli.config import VOLATILE, Config

log = logging.getLogger(__name__)

INSIST = 3.0  # seconds until a part that was told to end is told again
SWEEP_GRACE = 2  # seconds between SIGTERM and SIGKILL of pods when the cluster goes down
SWEEP_PATIENCE = 60.0  # seconds for the runtime to end or remove one of them

Notify = Callable[..., None]
Main = Callable[[Config, Notify], Awaitable[None]]


class Running(Exception):
    """This part of this data directory already runs, as another process."""


def run(name: str, config: Config, notify: Notify, lifeline: int = -1) -> None:
    """Run a part to its end. Returns when it was asked to stop; raises when it failed, or Running."""
    set_up_logging()
    held = hold(name, config, notify, wait=lifeline >= 0)
    import uvloop

    try:
        uvloop.run(until_told(PARTS[name](config, notify), lifeline))
    finally:
        os.close(held)


def hold(name: str, config: Config, notify: Notify, *, wait: bool) -> int:
    """The part's lock, which goes with the process. With `wait`: a former one is on its way out, since its lifeline closed."""
    lock = os.open(config.run_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise Running(f"{name} of {config.data_dir} already runs") from None
        notify("waiting", f"for another {name} of {config.data_dir} to end")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def set_up_logging() -> None:
    logging.basicConfig(
        level=os.environ.get("SAMPAN_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )


async def until_told(work: Any, lifeline: int) -> None:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def end() -> None:
        """Again after a while, for a cancellation that was lost; not at once, or it would cancel the clean-up too."""
        if not task.done():
            task.cancel()
            loop.call_later(INSIST, end)

    def ended() -> None:
        """Nothing is ever written: readable means closed."""
        loop.remove_reader(lifeline)
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)

    if lifeline >= 0:
        loop.add_reader(lifeline, ended)
    try:
        await task
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        if lifeline >= 0:
            loop.remove_reader(lifeline)


async def server(config: Config, notify: Notify) -> None:
    """API server, controllers, scheduler and add-ons, in one process on one store."""
    from sampan.apiserver import memory

    memory.seldom_collect()
    from sampan.cli.server import run_server

    await run_server(config, notify)


async def runtime(config: Config, notify: Notify) -> None:
    from sampan.cli.noderole import run_runtime

    await run_runtime(config, notify)


async def node(config: Config, notify: Notify) -> None:
    from sampan.cli.noderole import run_node

    await run_node(config, notify)


PARTS: dict[str, Main] = {"server": server, "runtime": runtime, "node": node}


def make_pki(config: Config) -> None:
    """Certificates and kubeconfigs of this cluster exist on return. Costs a few file reads when they do already."""
    import ipaddress

    from sampan.apiserver.pki import ensure_pki, write_admin_kubeconfig, write_node_kubeconfig

    paths = ensure_pki(
        config.pki,
        node_name=config.node_name,
        service_ip=str(ipaddress.ip_network(config.service_cidr)[1]),
        cluster_domain=config.cluster_domain,
        extra_names=(config.bind_address, *config.tls_san),
        node_names=(config.bind_address,),
    )
    if config.port:
        server_url = f"https://{config.local_address}:{config.port}"
        write_admin_kubeconfig(config.kubeconfig, server_url, paths)
        write_node_kubeconfig(config.node_kubeconfig, server_url, paths)


def sweep(config: Config) -> None:
    """Stop and remove every pod of this node, through CRI. The node agent must be down, else it makes them again."""

    async def remove_all() -> None:
        from sampan.cri import api_pb2 as pb
        from sampan.cri.client import CRIClient

        async with CRIClient(str(config.cri_socket)) as cri:

            async def end(container_id: str) -> None:
                await cri.stop_container(
                    container_id=container_id, timeout=SWEEP_GRACE, rpc_timeout=SWEEP_PATIENCE
                )

            async def remove(sandbox_id: str) -> None:
                await cri.stop_pod_sandbox(pod_sandbox_id=sandbox_id, rpc_timeout=SWEEP_PATIENCE)
                await cri.remove_pod_sandbox(pod_sandbox_id=sandbox_id, rpc_timeout=SWEEP_PATIENCE)

            containers = (await cri.list_containers()).containers
            running = [c.id for c in containers if c.state == pb.CONTAINER_RUNNING]
            failures = await asyncio.gather(*map(end, running), return_exceptions=True)
            pods = (await cri.list_pod_sandbox()).items
            failures += await asyncio.gather(
                *(remove(pod.id) for pod in pods), return_exceptions=True
            )
            if errors := [error for error in failures if isinstance(error, Exception)]:
                raise ExceptionGroup("pods that could not be removed", errors)

    asyncio.run(remove_all())


def clear(config: Config) -> None:
    """Remove what the kernel keeps when no pod is left: volumes' mounts, bridge, tables, namespaces."""
    from sampan.cli.noderole import clear_network
    from sampan.linux import cgroups, mounts
    from sampan.node.volumes.pod import release

    if not config.rootless:
        cgroups.remove(config.instance)
    release(config.data_dir / "node" / "pods", config.run_dir, root=not config.rootless)
    asyncio.run(clear_network(config))
    for name in ("device-plugins", "pod-resources"):  # a node that was killed left its sockets
        (config.data_dir / "node" / name / "kubelet.sock").unlink(missing_ok=True)
    for name in VOLATILE:
        if not mounts.mounts_below((config.run_dir / name).resolve()):
            shutil.rmtree(config.run_dir / name, ignore_errors=True)
