"""A node agent as its own process, to be killed: `python node_process.py DIR NAME [KUBECONFIG]`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sampan.node.agent import NodeAgent
from sampan.node.config import NodeConfig


def config_in(directory: Path, name: str) -> NodeConfig:
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
    )


async def main(directory: Path, name: str, kubeconfig: str) -> None:
    from sampan.client.client import Client
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load

    client = Client(HTTPTransport(load(kubeconfig))) if kubeconfig else None
    agent = NodeAgent(client, config_in(directory, name))
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run())
        await agent.running.wait()
        print(agent.port, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
