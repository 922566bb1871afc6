"""A node agent as its own process, to be killed: `python node_process.py DIR NAME KUBECONFIG [FLAG=VALUE]…` (KUBECONFIG "": no API server)."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sampan.node import flags
from sampan.node.agent import NodeAgent
from sampan.node.config import NodeConfig


def config_in(directory: Path, name: str, arguments: Sequence[str] = ()) -> NodeConfig:
    pki = directory / "pki"
    return NodeConfig(
        name=name,
        data_dir=directory,
        run_dir=directory / "run",
        cri_socket=directory / "run" / "cri.sock",
        port=0,
        client_ca=pki / "ca.crt",
        certificate=pki / "node-serving.crt",
        key=pki / "node-serving.key",
        cluster_dns="127.43.0.10",
        root=False,
        **flags.read(arguments),
    )


async def main(directory: Path, name: str, kubeconfig: str, arguments: list[str]) -> None:
    from sampan.client.client import Client
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load

    client = Client(HTTPTransport(load(kubeconfig))) if kubeconfig else None
    agent = NodeAgent(client, config_in(directory, name, arguments))
    async with asyncio.TaskGroup() as group:
        agent.end_pods_on(signal.SIGPWR, group)
        group.create_task(agent.run())
        await agent.running.wait()
        print(agent.port, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
