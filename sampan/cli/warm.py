"""Before the supervisor forks: what the parts share is imported once, its orders are read, and the certificates are made."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from sampan.cli.config import Config

# What the parts share, in the order in which they are forked: a part sees what was imported before it.
WARM: dict[str, tuple[str, ...]] = {
    "server": ("asyncio", "ssl", "uvloop", "orjson", "sampan.client.lean_aiohttp", "sampan.cli.parts",
               "sampan.client.client", "sampan.client.informer", "sampan.client.workqueue"),
    "runtime": ("google.protobuf", "sampan.cri.server"),
    "node": ("grpc.aio", "sampan.cri.client", "sampan.client.http", "sampan.node.agent", "sampan.node.server",
             "sampan.network.dns", "sampan.network.nft"),
}  # fmt: skip

SERVER = "sampan.apiserver.server"  # what the server alone imports


def warm(name: str) -> None:
    """Import what the part shares with those that are forked after it."""
    for module in WARM[name]:
        importlib.import_module(module)


def live_out(work: Callable[[], object]) -> NoReturn:
    """The rest of a forked child's life: the work, and an exit code that says how it went. Nothing of the parent's is run."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def begin_pki(config: Config) -> tuple[int, int]:
    """Make the certificates in a child: the crypto library is large, and needed once a year. (its pid, a pipe that ends with it)"""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    live_out(lambda: importlib.import_module("sampan.cli.parts").make_pki(config))


def end_pki(config: Config, pid: int) -> None:
    """The certificates exist on return."""
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(f"the certificates in {config.pki} could not be made; see above")


def read_orders(fd: int) -> dict[str, Any]:
    """What `sampan up` wants; ends the process when it wants nothing."""
    with os.fdopen(fd, "rb") as pipe:
        line = pipe.readline()
    if not line:
        raise SystemExit(0)
    orders: dict[str, Any] = json.loads(line)
    return orders
