"""Authentication: who sent this request?

In order: the TLS client certificate (subject CN is the user, each O a group), then a bearer token (Authorization header,
or the sub-protocol that browsers' WebSockets have to use): one of our service accounts', or of another `TokenSource`.
Without any, the request is anonymous, which RBAC allows little. A service-account token's signature is checked once; that
its account, pod, secret or node still exists is asked each time, which is a look into the watch cache.
Impersonation (`Impersonate-*` headers) comes last and needs permission.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import unquote

from sampan.apiserver.authz import Authorizer, forbidden
from sampan.apiserver.rbac import Attributes
from sampan.apiserver.tokens import (
    InvalidToken,
    Reference,
    ServiceAccountToken,
    TokenSigner,
    groups_of,
    split_username,
)
from sampan.client.transport import Request, User
from sampan.kube import errors, objects

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))
CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"

WEBSOCKET_BEARER = "base64url.bearer.authorization.k8s.io."
PROTOCOLS = "sec-websocket-protocol"

REMEMBERED = 4096  # verified tokens
DELETION_LEEWAY = timedelta(seconds=60)  # a pod that is being deleted may use its token so long

_ENDING = object()  # in place of an entry that only time will make invalid
AUTHENTICATION_GROUP = "authentication.k8s.io"


class EntryLike(Protocol):
    def object(self) -> dict[str, Any]: ...


class Lookup(Protocol):
    """What is needed of `plugin.Lookup`: one object out of the watch cache."""

    async def entry(
        self, group: str, version: str, plural: str, namespace: str, name: str
    ) -> EntryLike | None: ...

    def seen(
        self, group: str, version: str, plural: str, namespace: str, name: str
    ) -> EntryLike | None: ...


class TokenSource(Protocol):
    """One way of knowing for whom a bearer token speaks, beside our own service accounts."""

    async def user_of(self, token: str) -> User | None:
        """The user; None when the token is not of this source. Raises InvalidToken when it is, and is not good."""
        ...


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Which requests may come without credentials; what they may then do is for the authorizer to say."""

    enabled: bool = True
    paths: frozenset[str] | None = None  # None: any

    def allows(self, path: str) -> bool:
        return self.enabled and (self.paths is None or path in self.paths)


def user_of_certificate(certificate: Mapping[str, Any] | None, der: bytes = b"") -> User | None:
    """The user of a verified peer certificate, as `SSLObject.getpeercert()` shows it; None without one.

    Costs some microseconds: the HTTP server asks once per connection. `der` is the certificate itself, whose hash is the
    credential's id (KEP-4193).
    """
    if not certificate:
        return None
    name, groups = "", []
    for relative in certificate.get("subject", ()):
        for key, value in relative:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    if not name:
        return None
    extra = {CREDENTIAL_ID: (f"X509SHA256={hashlib.sha256(der).hexdigest()}",)} if der else {}
    return User(name, tuple(dict.fromkeys((*groups, AUTHENTICATED))), extra=extra)


@dataclass(slots=True)
class _Known:
    """A token whose signature was checked."""

    token: ServiceAccountToken
    user: User  # the same object each time: whoever remembers answers by user finds them sooner
    # What it was bound to when last asked: the very entries of the cache, so that an unchanged one is recognised
    # without reading it again.
    bound: list[object] = field(default_factory=list)
    references: tuple[tuple[str, str, Reference], ...] = ()


class Authenticator:
    """Finds the user of a request. `lookup` reads the watch cache."""

    def __init__(
        self,
        signer: TokenSigner,
        lookup: Lookup,
        sources: Sequence[TokenSource] = (),
        anonymous: Anonymous = Anonymous(),
    ) -> None:
        self.signer = signer
        self.lookup = lookup
        self.sources = sources
        self.anonymous = anonymous
        self._known: dict[bytes, _Known] = {}  # by the token's hash
        self._headers: dict[str, _Known] = {}  # the same, by the whole header that it came in

    async def authenticate(self, request: Request) -> User:
        """The user; `request.user` when the transport already knows. Raises ApiError 401."""
        if request.user is not None:
            return request.user
        header = request.headers.get("authorization", "")
        known = self._headers.get(header)
        if known is not None and self._holds(known):
            return known.user
        token = take_bearer(request)
        if token:
            try:
                user = await self.user_of_token(token)
            except InvalidToken as error:
                raise errors.unauthorized() from error
            if header:
                self._remember(header, token)
            return user
        if self.anonymous.allows(request.path):
            return ANONYMOUS
        raise errors.unauthorized()

    def _remember(self, header: str, token: str) -> None:
        known = self._known.get(hashlib.sha256(token.encode()).digest())
        if known is not None:
            if len(self._headers) >= REMEMBERED:
                self._headers.clear()
            self._headers[header] = known

    def _holds(self, known: _Known) -> bool:
        """Is the token still good, and what it is bound to as it was? False: it must be looked at again."""
        found = known.token
        if found.expires and found.expires <= self.signer.clock():
            return False
        bound = known.bound
        seen = self.lookup.seen
        for index, (plural, namespace, wanted) in enumerate(known.references):
            if seen("", "v1", plural, namespace, wanted.name) is not bound[index]:
                return False
        return True

    async def user_of_token(self, token: str) -> User:
        """For whom a token speaks, here. Raises InvalidToken."""
        return (await self.review(token, ()))[0]

    async def review(self, token: str, audiences: tuple[str, ...]) -> tuple[User, tuple[str, ...]]:
        """For whom a token speaks, and for which of `audiences` (this server's when empty). Raises InvalidToken.

        A token of another source says nothing of our audiences: it is good for this server's own.
        """
        digest = hashlib.sha256(token.encode()).digest()
        if digest not in self._known:
            for source in self.sources:
                user = await source.user_of(token)
                if user is not None:
                    here = self.signer.audiences
                    accepted = tuple(each for each in audiences if each in here) or here
                    if audiences and not set(audiences) & set(here):
                        raise InvalidToken(
                            f"token audiences {list(here)} is invalid for the target audiences {list(audiences)}"
                        )
                    return user, accepted
        known = await self._check(token, digest, audiences)
        wanted = audiences or self.signer.audiences
        return known.user, tuple(each for each in wanted if each in known.token.audiences)

    async def _check(self, token: str, digest: bytes, audiences: tuple[str, ...]) -> _Known:
        known = None if audiences else self._known.get(digest)
        if known is None or (known.token.expires and known.token.expires <= self.signer.clock()):
            found = self.signer.verify(token, audiences)
            user = User(found.username, found.groups, found.service_account.uid, found.extra)
            known = _Known(found, user)
            if not audiences:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[digest] = known
        await self._check_bound(known, token)
        return known

    async def _check_bound(self, known: _Known, token: str) -> None:
        before = known.bound
        now: list[object] = []
        known.references = known.references or tuple(_references(known.token))
        for index, (plural, namespace, wanted) in enumerate(known.references):
            entry = await self.lookup.entry("", "v1", plural, namespace, wanted.name)
            if entry is None:
                raise InvalidToken(f"{plural} {wanted.name} was deleted")
            same = index < len(before) and before[index] is entry
            if same or self._check_object(plural, wanted, entry.object(), known.token, token):
                now.append(entry)
            else:
                now.append(_ENDING)
        known.bound = now

    def _check_object(
        self,
        plural: str,
        wanted: Reference,
        obj: dict[str, Any],
        found: ServiceAccountToken,
        token: str,
    ) -> bool:
        """Whether it will be all right until it changes. Raises InvalidToken when it is not even now."""
        if wanted.uid and objects.uid(obj) != wanted.uid:
            raise InvalidToken(f"{plural} {wanted.name} was deleted and made again")
        deleted = objects.metadata(obj).get("deletionTimestamp")
        if deleted:
            now = datetime.fromtimestamp(self.signer.clock(), UTC)
            if objects.parse_time(deleted) + DELETION_LEEWAY < now:
                raise InvalidToken(f"{plural} {wanted.name} is being deleted")
        if plural == "secrets" and not found.expires:
            data = (obj.get("data") or {}).get("token", "")
            if base64.b64decode(data) != token.encode():
                raise InvalidToken("the secret holds another token")
        return not deleted


def _references(found: ServiceAccountToken) -> Iterator[tuple[str, str, Reference]]:
    yield "serviceaccounts", found.namespace, found.service_account
    if found.pod:
        yield "pods", found.namespace, found.pod
    elif found.node:  # the node of a bound pod is told, not bound
        yield "nodes", "", found.node
    if found.secret:
        yield "secrets", found.namespace, found.secret


def take_bearer(request: Request) -> str:
    """The bearer token, "" when there is none. One hidden in the sub-protocols is taken out of them, so that it does not
    travel on to a node. Another scheme is no credential of ours. Raises ApiError 401 for malformed sub-protocols."""
    header = request.header("authorization")
    if header:
        scheme, _, token = header.strip().partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    offered = request.header(PROTOCOLS)
    if WEBSOCKET_BEARER not in offered:
        return ""
    protocols = [each.strip() for each in offered.split(",")]
    hidden = [each for each in protocols if each.startswith(WEBSOCKET_BEARER)]
    kept = [each for each in protocols if not each.startswith(WEBSOCKET_BEARER)]
    if len(hidden) != 1 or not kept:  # a browser needs one that we may answer with
        raise errors.unauthorized()
    encoded = hidden[0].removeprefix(WEBSOCKET_BEARER)
    try:
        token = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise errors.unauthorized() from error
    request.headers = {**request.headers, PROTOCOLS: ", ".join(kept)}
    return token


# --- impersonation ----------------------------------------------------------------------------------

IMPERSONATE = "impersonate-"
EXTRA = "impersonate-extra-"
SEPARATOR = "\n"  # between the values of a header that came several times; none contains it


def impersonated(user: User, request: Request, authorizer: Authorizer) -> User:
    """The user that `Impersonate-*` headers name, else `user`. Raises ApiError 403 when `user` may not.

    https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
    """
    headers = {key: value for key, value in request.headers.items() if key.startswith(IMPERSONATE)}
    if not headers:
        return user
    name = headers.get("impersonate-user", "")
    groups = tuple(filter(None, headers.get("impersonate-group", "").split(SEPARATOR)))
    uid = headers.get("impersonate-uid", "")
    extra = {
        unquote(key.removeprefix(EXTRA)): tuple(value.split(SEPARATOR))
        for key, value in headers.items()
        if key.startswith(EXTRA)
    }
    if not (name or groups or uid or extra):
        return user  # a header of another name
    if not name:
        raise errors.bad_request("requested impersonation of groups, uid or extra without a user")
    for asked in _questions(user, name, groups, uid, extra):
        decision = authorizer.authorize(asked)
        if not decision.allowed:
            raise forbidden(asked, decision.reason)
    account = split_username(name)
    if account and not groups:
        groups = groups_of(account[0])
    if name == ANONYMOUS.name:
        groups = groups or ANONYMOUS.groups
    elif AUTHENTICATED not in groups and UNAUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(name, groups, uid, extra)


def _questions(
    user: User, name: str, groups: tuple[str, ...], uid: str, extra: dict[str, tuple[str, ...]]
) -> Iterator[Attributes]:
    account = split_username(name)
    if account:
        yield Attributes(user, "impersonate", "", "v1", "serviceaccounts", "", *account)
    else:
        yield Attributes(user, "impersonate", "", "v1", "users", "", "", name)
    for group in groups:
        yield Attributes(user, "impersonate", "", "v1", "groups", "", "", group)
    if uid:
        yield Attributes(user, "impersonate", AUTHENTICATION_GROUP, "v1", "uids", "", "", uid)
    for key, values in extra.items():
        for value in values:
            yield Attributes(
                user, "impersonate", AUTHENTICATION_GROUP, "v1", "userextras", key, "", value
            )
