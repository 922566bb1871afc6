"""APIServer: the parts put together. `handle` is the one door for HTTP and for callers in the same process.

    server = APIServer(store, config)
    await server.start()          # caches, bootstrap objects, HTTPS; returns when requests are answered
    response = await server.handle(request)
    await server.close()

The store belongs to the caller, who closes it after the server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from sampan.apiserver import memory, resources
from sampan.apiserver.access import Access
from sampan.apiserver.admission.chain import Admission
from sampan.apiserver.aggregation.aggregator import Aggregator
from sampan.apiserver.bootstrap import bootstrap
from sampan.apiserver.config import ServerConfig
from sampan.apiserver.crd.controller import DefinitionController
from sampan.apiserver.crd.definitions import Definitions, replica_paths, schema_of
from sampan.apiserver.crd.openapi import CustomSchemas
from sampan.apiserver.discovery import Discovery
from sampan.apiserver.expiry import EventExpiry
from sampan.apiserver.fairness import Fairness
from sampan.apiserver.fieldmanager import FieldManager
from sampan.apiserver.flowcontrol import follow as follow_flow_control
from sampan.apiserver.health import Health
from sampan.apiserver.http import HTTPServer
from sampan.apiserver.metrics import Metrics
from sampan.apiserver.metrics_api import MetricsAPI
from sampan.apiserver.openapi import OpenAPI
from sampan.apiserver.pages import Pages
from sampan.apiserver.peers import Peers
from sampan.apiserver.pipeline import Pipeline
from sampan.apiserver.pki import PKIPaths, ensure_pki, write_admin_kubeconfig
from sampan.apiserver.registry import Registry
from sampan.apiserver.renewal import Renewal
from sampan.apiserver.routes import RequestInfo
from sampan.apiserver.security import SecurityConfig
from sampan.apiserver.shortcut import Shortcut
from sampan.apiserver.stamps import Clock
from sampan.apiserver.strategies import Strategies
from sampan.apiserver.tokens import TokenSigner
from sampan.apiserver.watchcache import WatchCache
from sampan.apiserver.webhook_client import WebhookClient
from sampan.client.transport import Request, Response
from sampan.store import Store, StoreError

if TYPE_CHECKING:
    from sampan.apiserver.audit import AuditTrail

log = logging.getLogger(__name__)

COMPACT_EVERY = 300.0  # seconds of history that are kept


class APIServer:
    def __init__(self, store: Store, config: ServerConfig) -> None:
        store = at_rest(store, config.security)
        self.store = store
        self.config = config
        self.table = resources.builtin()
        self.caches = WatchCache(store)
        self.strategies = Strategies(config.service_cidr, config.node_ports)
        self.pki = PKIPaths.under(config.pki)
        signer = TokenSigner(
            self.pki.service_account_key,
            time.time,
            config.issuer,
            config.audiences,
            config.security.longest_token,
        )
        self.access = Access(
            self.caches, self.table, signer, config.security, enforce=config.authorization
        )
        self.access.lookup.check_grant = self.access.check_grant
        self.access.lookup.may_use_signer = self.access.may_use_signer
        self.fields = FieldManager(self.table, Clock.now)
        admission = Admission(self.access.lookup)
        self.registry = Registry(store, self.caches, self.strategies, admission, self.fields)
        self.expiry = EventExpiry(store, config.event_ttl)
        self.registry.on_event_written = self.expiry.written
        self.metrics = Metrics()
        self.fairness = Fairness(config.max_requests_in_flight, config.request_timeout, self._count)
        self.fairness.terminate = self.metrics.terminate
        self.discovery = Discovery(self.table, config.advertise or config.address)
        self.webhooks = WebhookClient(self.access.lookup)
        self.access.lookup.access = self.access
        self.access.lookup.call_webhook = self.webhooks.call
        self.definitions = Definitions(self.caches, self.table, admission, self.webhooks.call)
        self.fields.schemas, self.fields.scales = schema_of, replica_paths
        self.openapi = OpenAPI(self.table, CustomSchemas(self.definitions))
        self.pages = Pages(self)
        self.audit = audit_trail(self)
        if self.audit is not None:
            self.access.lookup.annotate = self.audit.annotate
        self.pipeline = Pipeline(self)
        self.handle = self.pipeline.handle
        self.immediate = Shortcut(self).answer
        self.http = HTTPServer(self)
        self.peers = Peers(self)
        self.aggregator = Aggregator(self, (MetricsAPI(self),))
        self.port = config.port
        self.health = Health()
        if store.shared:
            self.health.store = lambda: self.peers.problem

    async def start(self, *, serve: bool = True) -> None:
        """Ready on return. `serve` False leaves HTTP out: only `handle` answers."""
        config = self.config
        network = ipaddress.ip_network(config.service_cidr)
        names = {config.address, *config.names, *([config.advertise] if config.advertise else [])}
        ensure = partial(
            ensure_pki,
            config.pki,
            service_ip=str(network.network_address + 1),
            cluster_domain=config.cluster_domain,
            extra_names=sorted(names - {"0.0.0.0", "::"}),
        )
        ensure()
        self._own("watch cache", self.caches.run())
        self._own("event expiry", self.expiry.run())
        self._own("compaction", self._compact())
        if self.audit is not None:
            self._own("audit log", self.audit.log.run())
        if serve:
            self.port = self.http.bind(config.address, config.port)
            write_admin_kubeconfig(config.kubeconfig, self.address, self.pki)
        await self.definitions.start()
        definitions = DefinitionController(self.definitions, self.registry)
        self._own("crd informer", definitions.run())
        await bootstrap(self)
        if self.store.shared:
            self._own("lease", self.peers.run())
        if serve:
            await self.http.accept(self.pki)
            self.renewal = Renewal(self.pki, ensure, self._use_renewed)
            self._own("certificate renewal", self.renewal.run())
        self.health.ready = True
        self._own("priority and fairness", follow_flow_control(self, self.fairness))
        self._own("apiservice availability", self.aggregator.run())

    def _use_renewed(self) -> None:
        """New certificates are on disk."""
        from sampan.apiserver.proxy import forget_credentials  # only a server with nodes needs it

        self.http.reload(self.pki)
        forget_credentials()
        write_admin_kubeconfig(self.config.kubeconfig, self.address, self.pki)

    @property
    def ready(self) -> bool:
        return self.health.ready

    @property
    def closing(self) -> bool:
        return self.health.closing

    @property
    def address(self) -> str:
        """URL for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.address, self.config.address)
        return f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}"

    def _count(self, info: RequestInfo) -> int:
        """Objects of the kind that a request is about, as far as they are in the cache."""
        row = self.table.rows.get((info.group, info.version, info.resource))
        cache = self.caches.caches.get(row.storage) if row is not None else None
        return len(cache.entries) if cache is not None else 0

    def _own(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """A task of the server; `close` ends it, and one that fails makes the server not live."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self.health.add(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self.closing:
            log.error("%s ended", task.get_name(), exc_info=task.exception())

    async def _compact(self) -> None:
        """Forget history that is older than a few minutes. Nothing is done while nothing is written."""
        before = self.store.revision
        while True:
            await asyncio.sleep(COMPACT_EVERY)
            if before:
                try:
                    await self.store.compact(before)
                    memory.give_back()
                except StoreError as error:
                    log.warning("history before %d cannot be forgotten: %s", before, error)
            before = self.store.revision

    async def close(self) -> None:
        """Answer what was begun, end watches, release the port. Idempotent."""
        if self.closing:
            return
        self.health.closing = True
        if self.ready:
            await self.peers.leave()
        self.caches.close()
        await self.http.close()
        tasks = self.health.tasks.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.access.close()
        await self.webhooks.close()

    async def __aenter__(self) -> APIServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, request: Request) -> Response:
        """`handle` under the name that transports use."""
        return await self.handle(request)


def at_rest(store: Store, security: SecurityConfig) -> Store:
    """The store, behind encryption when it is configured."""
    if security.encryption_provider_config is None:
        return store
    from sampan.apiserver.encryption import EncryptedStore, read_config

    return EncryptedStore(store, read_config(security.encryption_provider_config))


def audit_trail(server: APIServer) -> AuditTrail | None:
    security = server.config.security
    if security.audit_policy_file is None:
        return None
    from sampan.apiserver.audit import AuditLog, AuditTrail
    from sampan.apiserver.audit.policy import read_policy

    log = AuditLog(
        security.audit_log_path,
        max_age=security.audit_log_maxage,
        max_backups=security.audit_log_maxbackup,
        max_size=security.audit_log_maxsize,
    )
    return AuditTrail(read_policy(security.audit_policy_file), log, server.access)
