"""NodeAgent: puts the parts of a node together and owns their tasks.

    informer of pods (spec.nodeName=NAME) ─┐
    on-disk cache, when the API is away ───┼→ one PodWorker per pod ──→ CRI
    CRI listing and events ────────────────┘
    registration, leases · endpoint on 10250 · service VIPs and DNS

Nothing is started or stopped before both pictures are there: what the runtime holds, and what the API (or, without it,
the cache) wants. What the runtime holds and nobody wants is ended like a deleted pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.client.client import Client
from sampan.client.events import EventRecorder
from sampan.client.informer import Informer
from sampan.client.resources import PODS, RUNTIMECLASSES, SERVICES
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError
from sampan.kube.errors import ApiError
from sampan.network import resolv
from sampan.node import machine, registration
from sampan.node.cache import ObjectCache
from sampan.node.cgroups import Groups
from sampan.node.config import NodeConfig
from sampan.node.context import Context
from sampan.node.devices import sockets
from sampan.node.devices.broker import Broker
from sampan.node.environment import NodeFacts
from sampan.node.errors import SandboxError
from sampan.node.eviction import Eviction
from sampan.node.gate import Gate
from sampan.node.imagegc import ImageGC
from sampan.node.images import Images
from sampan.node.leftovers import Leftovers
from sampan.node.localstorage import LocalStorage
from sampan.node.logrotation import LogRotation
from sampan.node.observed import (
    RUNNING,
    ContainerState,
    SandboxState,
)
from sampan.node.podspec import Object
from sampan.node.policies import Policies
from sampan.node.pressure import PressureWatch
from sampan.node.quietevents import QuietRecorder
from sampan.node.references import References
from sampan.node.registration import Registrar
from sampan.node.runtimewatch import PodNews, RuntimeWatch
from sampan.node.shutdown import NOT_READY, Shutdown
from sampan.node.static.manifests import is_mirror
from sampan.node.status import Facts
from sampan.node.statuswriter import StatusWriter
from sampan.node.tokens import Tokens
from sampan.node.volumes.claims import Claims
from sampan.node.volumes.directories import Directories
from sampan.node.volumes.pod import prepare_volatile
from sampan.node.worker import PodWorker

if TYPE_CHECKING:
    from sampan.node.server import Endpoint
    from sampan.node.static.pods import StaticPods

log = logging.getLogger(__name__)

API_PATIENCE = 3.0  # seconds that cached pods wait for the API server at start


class NodeAgent:
    """`client` None: no API server at all; the cached pods run."""

    def __init__(self, client: Client | None, config: NodeConfig) -> None:
        self.client = client
        self.config = config
        self.workers: dict[str, PodWorker] = {}
        self.port = 0  # of the endpoint, once it listens
        self.endpoint: Endpoint | None = None
        self.running = (
            asyncio.Event()
        )  # pods are looked after, and the Node is registered if it can be
        self._listed = asyncio.Event()
        self._services: Informer | None = None
        self._static: StaticPods | None = None
        self._handlers: dict[str, str] = {}
        self._early: list[tuple[str, list[SandboxState], list[ContainerState]]] = []
        self._listing: dict[str, PodNews] = {}
        self._labels: dict[str, Any] = {}

    async def run(self) -> None:
        """Look after this node's pods until cancelled. The pods stay when it ends."""
        config = self.config
        for directory in (config.pods_dir, config.pod_logs_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        cri = CRIClient(config.cri_socket)
        self.cache = ObjectCache(config.cache_path)
        try:
            async with asyncio.TaskGroup() as group:
                self._build(cri, group)
                group.create_task(self.cache.run(), name="node cache")
                group.create_task(self.context.runtime.run(), name="runtime watch")
                if config.certificate and config.key and config.client_ca:
                    await self._listen(group)
                if self.client is not None:
                    self._connect(self.client, group)
                group.create_task(self.context.policies.run(), name="network policies")
                group.create_task(self._open(), name="pods")
                self._keep_house(cri, group)
                group.create_task(
                    sockets.serve(self.running, self.context, self._holding), name="device plugins"
                )
        finally:
            for worker in self.workers.values():
                worker.close()
            self.cache.close()
            await cri.close()

    def _build(self, cri: CRIClient, group: asyncio.TaskGroup) -> None:
        config = self.config
        facts = machine.read(config.data_dir)
        recorder = None
        if self.client:
            events = EventRecorder(self.client, "kubelet", config.name)
            recorder = QuietRecorder(events, self._is_busy)
        runtime = RuntimeWatch(cri)
        runtime.event, runtime.listing = self._on_event, self._on_listing
        runtime.connected = self._on_connected
        image_dir = config.image_dir or config.data_dir
        pressure = PressureWatch(config.data_dir, image_dir, config.eviction_hard)
        devices = Broker(config.data_dir / "node" / "devices.json", group, changed=self._look_again)
        self._registrar = (
            Registrar(config, facts, self.client, cri, recorder, pressure, devices.amounts)
            if self.client
            else None
        )
        gate = Gate(
            config.name,
            self.workers,
            allocatable=registration.allocatable(config, facts),
            pressure=pressure.holding,
            labels=self._node_labels,
            devices=devices,
            unsafe_sysctls=config.allowed_unsafe_sysctls,
        )
        self.shutdown = Shutdown(
            gate,
            self.workers,
            whole=config.shutdown_grace,
            critical=config.shutdown_grace_critical,
            told=self._on_shutdown,
        )
        self._pressure = pressure
        self.context = Context(
            config=config,
            client=self.client,
            cri=cri,
            group=group,
            machine=facts,
            volatile=prepare_volatile(config.run_dir, root=config.root),
            references=References(self.client, self.cache, self._on_reference),
            tokens=Tokens(self.client, self.cache),
            images=Images(cri, config.parallel_pulls),
            status=StatusWriter(self.client, group, self._on_answer),
            runtime=runtime,
            recorder=recorder,
            facts=Facts((config.address,)),
            node_facts=NodeFacts((config.address,), registration.allocatable(config, facts)),
            resolv_conf=resolv.read_host(config.resolv_conf),
            services=self._known_services,
            runtime_handler=self._runtime_handler,
            claims=Claims(self.client, self.cache),
            directories=Directories(config.storage_dir, group),
            gone=self._on_gone,
            sandbox_slots=asyncio.Semaphore(config.parallel_pods),
            devices=devices,
            gate=gate,
            cgroups=Groups(config.cgroup_root, facts.cpus),
            policies=Policies(
                self.client,
                config.name,
                self.cache,
                config.policies() if config.policies is not None else None,
                recorder,
                config.cluster_dns,
            ),
            local_storage=LocalStorage(cri, config.pod_log_dir),
            pods=lambda: (worker.pod for worker in self.workers.values()),
        )
        self._leftovers = Leftovers(self.context, self.workers)
        if config.pod_manifest_path is not None:
            from sampan.node.static.pods import StaticPods

            self._static = StaticPods(
                config.pod_manifest_path, self.context, self.workers, self._node
            )

    def _connect(self, client: Client, group: asyncio.TaskGroup) -> None:
        assert self._registrar is not None
        if self.context.recorder:
            self.context.recorder.start(group)
        group.create_task(self._registrar.run(), name="node registration")
        self._services = Informer(client, SERVICES)
        self._services.start(group)
        self._services.add_handler(self._on_service)
        self._pods = Informer(client, PODS, field_selector=f"spec.nodeName={self.config.name}")
        self._pods.add_handler(self._on_pod)
        self._pods.start(group)
        if self.config.network is not None:
            from sampan.node.network import NetworkFeed

            feed = NetworkFeed(client, self.config.network, self._services)
            group.create_task(feed.run(), name="services and dns")

    def _keep_house(self, cri: CRIClient, group: asyncio.TaskGroup) -> None:
        """What keeps the node within its means: logs, images, pods that take too much."""
        config = self.config
        rotation = LogRotation(
            cri,
            self._running_logs,
            most_bytes=config.container_log_max_size,
            most_files=config.container_log_max_files,
        )
        images = ImageGC(
            cri,
            config.image_dir or config.data_dir,
            high=config.image_gc_high,
            low=config.image_gc_low,
            deleted=self.context.images.forget_all,
        )
        eviction = Eviction(
            self.context,
            self.workers,
            self._pressure,
            free_images=images.free,
            changed=self._look_again,
        )
        group.create_task(rotation.run(), name="log rotation")
        group.create_task(images.run(), name="image garbage")
        group.create_task(eviction.run(), name="eviction")
        group.create_task(self.context.local_storage.run(), name="local storage")

    def _holding(self) -> Iterable[Object]:
        """Pods that were let in and have not ended."""
        return [w.pod for w in self.workers.values() if w.admitted and not w.ending.settled]

    def _running_logs(self) -> Iterator[tuple[str, Path]]:
        for worker in self.workers.values():
            for state in worker.observed.containers.values():
                if state.state == RUNNING:
                    yield state.id, worker.log_path(state)

    def _look_again(self) -> None:
        if self._registrar:
            self._registrar.look_again()

    def end_pods_on(
        self, number: int, group: asyncio.TaskGroup, done: Callable[[], None] = lambda: None
    ) -> None:
        """From this signal on the machine shuts down: the node takes no pods, and ends those that it has."""

        async def end() -> None:
            await self.running.wait()
            await self.shutdown.run()
            done()

        asyncio.get_running_loop().add_signal_handler(
            number, lambda: group.create_task(end(), name="node shutdown")
        )

    def _on_shutdown(self) -> None:
        if self._registrar:
            self._registrar.problem = NOT_READY
            self._registrar.look_again()

    def _node(self) -> Object | None:
        return self._registrar.node() if self._registrar else None

    def _node_labels(self) -> dict[str, str] | None:
        node = self._node()
        return None if node is None else node["metadata"].get("labels") or {}

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        from sampan.node.server import Endpoint

        self.endpoint = Endpoint(self.config, self.context, self.workers)
        self.port = await self.endpoint.start(group)
        if self._registrar:
            self._registrar.listening(self.port)

    async def _open(self) -> None:
        """Wait for both pictures, then let the workers act."""
        await self._listed.wait()
        if self.client is not None:
            cached = self.cache.load("pod")
            try:
                async with asyncio.timeout(API_PATIENCE if cached else None):
                    await self._pods.synced()
                    assert self._services is not None
                    await self._services.synced()
            except TimeoutError:
                log.warning("the API server does not answer: %d cached pods start", len(cached))
                self._adopt_cached(cached)
        else:
            self._adopt_cached(self.cache.load("pod"))
        if self._static is not None:
            self._static.open()
            self.context.group.create_task(self._static.run(), name="static pods")
        self._distribute()
        self.context.devices.keep_only(self.workers.keys())
        self.context.open = True
        for worker in list(self.workers.values()):
            worker.wake()
        early, self._early = self._early, []
        for news in early:
            self._on_event(*news)
        if self._registrar is not None and self._pods.has_synced:
            await self._registrar.registered.wait()
            if self._static is not None:
                self._static.mirrors.look_again()
        self.running.set()
        if self.client is not None:
            await self._pods.synced()
            wanted = {pod["metadata"]["uid"] for pod in self._pods.list()}
            for uid in self.workers.keys() - wanted:
                if self._static is None or not self._static.has(uid):
                    self.workers[uid].remove()
            self._follow_mirrors()
        self._leftovers.clean()

    def _follow_mirrors(self) -> None:
        """The API's pods are known: mirrors can be told from what is missing."""
        if self._static is not None:
            self.context.group.create_task(self._static.mirrors.run(), name="mirror pods")
            return
        orphans = [pod for pod in self._pods.list() if is_mirror(pod)]
        if orphans and self.client is not None:
            from sampan.node.static import mirrors

            self.context.group.create_task(
                mirrors.delete_all(self.client, orphans), name="mirror pods"
            )

    def _adopt_cached(self, pods: Iterable[Object]) -> None:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self.workers:
                self.workers[uid] = PodWorker(self.context, pod)

    def _distribute(self) -> None:
        """Give every pod what the runtime holds of it; what is nobody's gets a worker that ends it."""
        for uid, news in self._listing.items():
            worker = self.workers.get(uid)
            if worker is None:
                self._leftovers.end(uid, self._labels[uid], news)
            else:
                worker.observed.replace(*news)
        self._listing.clear()

    # News

    def _on_pod(self, _type: str, old: Object | None, new: Object | None) -> None:
        if is_mirror(new or old or {}):
            if self._static is not None:
                self._static.mirrors.seen(old, new)
            return
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            if worker := self.workers.get(old["metadata"]["uid"]):
                worker.remove()
        if new is None:
            return
        uid = new["metadata"]["uid"]
        worker = self.workers.get(uid)
        if worker is None:
            worker = self.workers[uid] = PodWorker(self.context, new)
            worker.wake()
        else:
            worker.update(new)
        self.cache.put("pod", new["metadata"]["namespace"], uid, new)

    def _on_answer(self, pod: Object, expected: bool) -> None:
        if worker := self.workers.get(pod["metadata"]["uid"]):
            worker.update(pod, expected=expected)
            self.cache.put("pod", pod["metadata"]["namespace"], worker.uid, pod)

    def _on_reference(self, uid: str) -> None:
        if worker := self.workers.get(uid):
            worker.objects_changed()

    def _on_service(self, _type: str, _old: Object | None, new: Object | None) -> None:
        if new is not None and new["metadata"]["name"] == "kubernetes":
            meta = new["metadata"]
            self.cache.put("service", meta["namespace"], meta["name"], new)

    def _on_event(
        self, uid: str, sandboxes: list[SandboxState], containers: list[ContainerState]
    ) -> None:
        if not self.context.open:
            self._early.append((uid, sandboxes, containers))
        elif worker := self.workers.get(uid):
            worker.observe(sandboxes, containers)
        elif any(sandbox.ready for sandbox in sandboxes):
            self.context.group.create_task(self._leftovers.look_for(uid), name=f"stranger {uid}")

    def _on_listing(self, pods: dict[str, PodNews], labels: dict[str, Any]) -> None:
        self._listing, self._labels = pods, labels
        if self.context.open:
            for uid, worker in self.workers.items():
                if uid not in pods:
                    worker.observed.replace((), ())
            self._distribute()
            for worker in list(self.workers.values()):
                worker.wake()
        self._listed.set()

    def _on_connected(self, up: bool) -> None:
        if up:
            self.context.group.create_task(self._ask_runtime(), name="runtime facts")
        if self._registrar:
            self._registrar.look_again()

    async def _ask_runtime(self) -> None:
        try:
            facts = await registration.ask_runtime(self.context.cri)
        except CRIError as error:
            log.info("the runtime is away: %s", error)
            return
        self.context.handlers = frozenset(facts.handlers)

    def _on_gone(self, worker: PodWorker) -> None:
        if self.workers.get(worker.uid) is worker:
            del self.workers[worker.uid]
        self.cache.put("pod", worker.pod["metadata"]["namespace"], worker.uid, None)
        self.context.policies.forget(worker.uid)
        self.context.claims.forget(worker.pod)
        if self._static is not None:
            self._static.gone(worker)

    def _is_busy(self) -> bool:
        """A pod is being started or stopped right now."""
        return self.context.active > 0

    # What workers ask

    def _known_services(self) -> Iterable[Object]:
        if self._services is not None and self._services.has_synced:
            return self._services.list()
        return self.cache.load("service")

    async def _runtime_handler(self, name: str) -> str:
        known = self._handlers.get(name)
        if known is not None:
            return known
        try:
            if self.client is None:
                raise ConnectionError("this node has no API server")
            found = await self.client.get(RUNTIMECLASSES, name)
            self.cache.put("runtimeclass", "", name, found)
        except ApiError as error:
            if error.code == 404:
                text = f'failed to get sandbox runtime: runtimeclass.node.k8s.io "{name}" not found'
                raise SandboxError(text) from error
            raise SandboxError(f"runtimeclass {name}: {error.message}") from error
        except (OSError, TimeoutError) as error:
            cached = self.cache.get("runtimeclass", "", name)
            if cached is None:
                raise SandboxError(f"runtimeclass {name}: {error}") from error
            found = cached
        # The handler of a RuntimeClass cannot change.
        handler = self._handlers[name] = found["handler"]
        return handler
