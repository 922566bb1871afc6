"""The door: who is it, and may they? One object that the request pipeline asks, made of this floor's parts.

It keeps the RBAC index fed from the watch cache. Changes are applied as the cache applies them, before the write that
made them is answered, so that a role just granted counts for the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.auth import Anonymous, Authenticator, impersonated
from sampan.apiserver.authz import MASTERS, Authorizer, node_name
from sampan.apiserver.entries import Entry
from sampan.apiserver.feed import Feed
from sampan.apiserver.nodeauthz import NodeAuthorizer, NodeGraph
from sampan.apiserver.rbac import KINDS, RBAC_GROUP, Attributes, RBACIndex
from sampan.apiserver.resources import Table
from sampan.apiserver.reviews import Reviews
from sampan.apiserver.routes import RequestInfo
from sampan.apiserver.security import SecurityConfig
from sampan.apiserver.token_sources import token_sources
from sampan.apiserver.tokens import TokenSigner
from sampan.apiserver.watchcache import WatchCache
from sampan.client.transport import Request, User
from sampan.kube import signing_requests

HEALTH = frozenset({"/healthz", "/livez", "/readyz", "/version"})


class Access:
    """`user` and `check` are what each request goes through; the parts are public for those who need one of them."""

    def __init__(
        self,
        caches: WatchCache,
        table: Table,
        signer: TokenSigner,
        security: SecurityConfig,
        *,
        enforce: bool = True,
    ) -> None:
        self.caches = caches
        self.table = table
        self.signer = signer
        self.enforce = enforce  # False: whoever is authenticated may do anything
        self.stale = True
        self.index = RBACIndex()
        self.lookup = Lookup(caches, table)
        self.graph = NodeGraph(caches, table)
        self.authorizer = Authorizer(self.index, NodeAuthorizer(self.graph))
        sources, anonymous = token_sources(security, self.lookup, signer.clock)
        if (
            not enforce
        ):  # where nobody is judged, nobody comes without a name but to ask after our health
            anonymous = Anonymous(anonymous.enabled, HEALTH)
        self.authenticator = Authenticator(signer, self.lookup, sources, anonymous)
        self.reviews = Reviews(self.authorizer, self.authenticator, self._prepare_for)
        self._loading = asyncio.Lock()

    async def close(self) -> None:
        """End what token sources have under way."""
        for source in self.authenticator.sources:
            close = getattr(source, "close", None)
            if close is not None:
                await close()

    async def load(self) -> None:
        """Fill the index. Called by itself when it is needed; idempotent."""
        async with self._loading:
            if not self.stale:
                return
            rows = [self.table.lookup(RBAC_GROUP, "v1", plural) for plural in KINDS]
            caches = [(row.name, await self.caches.get(row)) for row in rows if row is not None]
            self.stale = False
            self.index.clear()
            for plural, cache in caches:
                Feed(cache, partial(self._apply, plural), self._outdated)

    def _apply(self, plural: str, entry: Entry | None, previous: Entry | None) -> None:
        if entry is not None:
            self.index.apply(plural, entry.object())
        elif previous is not None:
            self.index.apply(plural, previous.object(), deleted=True)

    def _outdated(self) -> None:
        """A cache was reset, or the server stops: what the index shows is old."""
        self.stale = True

    async def user(self, request: Request) -> User:
        """Who asks, impersonation included. Raises ApiError 401, or 403 for an impersonation that is not allowed."""
        user = await self.authenticator.authenticate(request)
        if any(key.startswith("impersonate-") for key in request.headers):
            await self._prepare(user, None)
            user = impersonated(user, request, self.authorizer)
        return user

    async def check(self, user: User, info: RequestInfo) -> None:
        """Raises ApiError 403 when `user` may not do this."""
        if not self.enforce or MASTERS in user.groups:
            return
        await self._prepare(user, info)
        self.authorizer.check(user, info)

    async def _prepare(self, user: User, info: RequestInfo | None) -> None:
        if self.stale:
            await self.load()
        if info is not None and node_name(user):
            await self.graph.prepare(info.group, info.resource)

    async def _prepare_for(self, asked: Attributes) -> None:
        if node_name(asked.user):
            await self.graph.prepare(asked.group, asked.resource)

    async def may_use_signer(self, user: User, verb: str, signer: str) -> bool:
        """May `user` approve or sign requests for this signer? `<domain>/*` stands for all of a domain."""
        if not self.enforce or MASTERS in user.groups:
            return True
        await self._prepare(user, None)
        names = (signer, signer.partition("/")[0] + "/*")
        return any(
            self.authorizer.authorize(
                Attributes(user, verb, signing_requests.GROUP, "*", "signers", "", "", name)
            ).allowed
            for name in names
        )

    # --- writes of roles and bindings: nobody grants what they do not hold ------------------------------

    async def check_grant(
        self, user: User, plural: str, new: Mapping[str, Any], old: Mapping[str, Any] | None
    ) -> None:
        """Called before a role or binding is written. Raises ApiError 403."""
        if not self.enforce or MASTERS in user.groups:
            return
        await self._prepare(user, None)
        if plural.endswith("bindings"):
            self.authorizer.check_binding(user, plural, new, old)
        else:
            self.authorizer.check_role(user, plural, new, old)
