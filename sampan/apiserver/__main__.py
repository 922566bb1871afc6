"""`python -m sampan.apiserver --data-dir DIR [--port N]`: the API server alone, for tests and for looking at it."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from sampan.apiserver import memory
from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.store.sqlite import SQLiteStore


async def serve(data: Path, address: str, port: int) -> None:
    (data / "store").mkdir(parents=True, exist_ok=True, mode=0o700)
    store = await SQLiteStore.open(data / "store" / "state.db")
    config = ServerConfig(data / "pki", data / "kubeconfig.yaml", address=address, port=port)
    server = APIServer(store, config)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await server.start()
        memory.keep()
        print(server.address, config.kubeconfig, flush=True)
        await stop.wait()
    finally:
        await server.close()
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sampan.apiserver", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6443, help="0: any free port")
    arguments = parser.parse_args()
    memory.seldom_collect()
    uvloop.run(serve(arguments.data_dir, arguments.address, arguments.port))


if __name__ == "__main__":
    main()
