"""What all workers of a node share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.client.client import Client
from sampan.cri.client import CRIClient
from sampan.network.resolv import ResolvConf
from sampan.node.cgroups import Groups
from sampan.node.config import NodeConfig
from sampan.node.devices.broker import Broker
from sampan.node.environment import NodeFacts
from sampan.node.gate import Gate
from sampan.node.images import Images
from sampan.node.localstorage import LocalStorage
from sampan.node.machine import Machine
from sampan.node.podspec import Object
from sampan.node.policies import Policies
from sampan.node.quietevents import QuietRecorder
from sampan.node.references import References
from sampan.node.runtimewatch import RuntimeWatch
from sampan.node.status import Facts
from sampan.node.statuswriter import StatusWriter
from sampan.node.tokens import Tokens
from sampan.node.volumes.claims import Claims
from sampan.node.volumes.directories import Directories

if TYPE_CHECKING:
    from sampan.node.worker import PodWorker


@dataclass(slots=True)
class Context:
    config: NodeConfig
    client: Client | None
    cri: CRIClient
    group: asyncio.TaskGroup
    machine: Machine
    volatile: Path
    references: References
    tokens: Tokens
    images: Images
    status: StatusWriter
    runtime: RuntimeWatch
    recorder: QuietRecorder | None
    facts: Facts
    node_facts: NodeFacts
    resolv_conf: ResolvConf
    services: Callable[[], Iterable[Object]]
    runtime_handler: Callable[[str], Awaitable[str]]  # RuntimeClass name → handler; SandboxError
    claims: Claims
    directories: Directories
    gone: Callable[[PodWorker], None]
    sandbox_slots: asyncio.Semaphore
    devices: Broker
    gate: Gate
    cgroups: Groups
    policies: Policies
    local_storage: LocalStorage
    pods: Callable[[], Iterable[Object]] = tuple  # all that are bound to this node
    handlers: frozenset[str] = field(default_factory=frozenset)
    active: int = 0  # workers that are carrying out actions
    open: bool = False  # workers may act: the runtime was listed, services are known
