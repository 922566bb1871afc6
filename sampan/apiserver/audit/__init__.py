"""Audit: who did what, when, and what came of it, as audit.k8s.io/v1 Events.

`AuditTrail` stands around the request pipeline and is made only when a policy and a log are configured; without it the
pipeline asks one attribute. A request is judged by the policy once, as the user who was authenticated; impersonation is
recorded beside it. Bodies are recorded as they went over the wire when they are JSON, else decoded.
https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from sampan.apiserver import routes
from sampan.apiserver.access import Access
from sampan.apiserver.audit.log import AuditLog
from sampan.apiserver.audit.policy import API_VERSION, Decision, Level, Policy
from sampan.apiserver.auth import IMPERSONATE, impersonated
from sampan.apiserver.authz import attributes
from sampan.apiserver.negotiate import PROTOBUF, media_type
from sampan.apiserver.reviews import user_info
from sampan.client.transport import Request, Response, User
from sampan.kube import objects
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK

AUDIT_ID = "Audit-Id"
Object = dict[str, Any]
Answer = Callable[[Request], Awaitable[Response]]

LONG_RUNNING_VERBS = frozenset({"watch"})
LONG_RUNNING_SUBRESOURCES = frozenset({"attach", "exec", "portforward", "proxy", "log"})
UNKNOWN = User("")


@dataclass(slots=True)
class Trail:
    """One audited request."""

    event: Object
    decision: Decision
    panicked: bool = False


class AuditTrail:
    def __init__(self, policy: Policy, log: AuditLog, access: Access) -> None:
        self.policy = policy
        self.log = log
        self.access = access
        self._open: dict[int, Trail] = {}

    async def handle(self, request: Request, answer: Answer) -> Response:
        """`answer(request)`, recorded as the policy says. Every answer tells its audit ID."""
        info = routes.parse(request.method, request.path, list(request.pairs()))
        audit_id = request.header("audit-id")
        if not 0 < len(audit_id) <= 64 or not audit_id.isprintable():
            audit_id = str(uuid.uuid4())
        user = UNKNOWN
        try:
            user = await self.access.authenticator.authenticate(request)
            request.user = user
        except ApiError:
            pass  # the pipeline will say so, and that is recorded
        decision = self.policy.decide(user, info)
        if decision.level is Level.NONE:
            return with_id(await answer(request), audit_id)
        trail = Trail(self._begin(request, info, user, audit_id, decision), decision)
        await self._emit(trail, "RequestReceived")
        if decision.level >= Level.REQUEST and request.body:
            body = recorded(request.body, request.header("content-type"), info)
            if body is not None:
                trail.event["requestObject"] = slim(body, decision)
        self._open[id(request)] = trail
        try:
            response = await answer(request)
        finally:
            del self._open[id(request)]
        await self._judge(trail, request, info, user)
        await self._complete(trail, request, info, response)
        return with_id(response, audit_id)

    def panicked(self, request: Request) -> None:
        """The pipeline met an error that nobody foresaw while it answered."""
        trail = self._open.get(id(request))
        if trail is not None:
            trail.panicked = True

    def annotate(self, request: Request, key: str, value: str) -> None:
        """What admission has to say about a request; a webhook's patch only where bodies are recorded."""
        trail = self._open.get(id(request))
        if trail is None:
            return
        if key.startswith("patch.webhook.") and trail.decision.level < Level.REQUEST:
            return
        trail.event.setdefault("annotations", {})[key] = value

    def _begin(
        self,
        request: Request,
        info: routes.RequestInfo,
        user: User,
        audit_id: str,
        decision: Decision,
    ) -> Object:
        query = "&".join(f"{key}={value}" for key, value in request.pairs())
        event: Object = {
            "kind": "Event",
            "apiVersion": API_VERSION,
            "level": decision.level.label,
            "auditID": audit_id,
            "stage": "",
            "requestURI": f"{request.path}?{query}" if query else request.path,
            "verb": info.verb,
            "user": user_info(user) if user is not UNKNOWN else {},
        }
        sources = [each.strip() for each in request.header("x-forwarded-for").split(",") if each]
        if request.remote:
            sources.append(request.remote)
        if sources:
            event["sourceIPs"] = sources
        if agent := request.header("user-agent"):
            event["userAgent"] = agent
        if info.is_resource:
            reference = {
                "resource": info.resource,
                "namespace": info.namespace,
                "name": info.name,
                "apiGroup": info.group,
                "apiVersion": info.version,
                "subresource": info.subresource,
            }
            event["objectRef"] = {key: value for key, value in reference.items() if value}
        event["requestReceivedTimestamp"] = objects.micro_now()
        return event

    async def _judge(
        self, trail: Trail, request: Request, info: routes.RequestInfo, user: User
    ) -> None:
        """Who it was in the end, and what the authorizer said; both are remembered answers by now."""
        if user is UNKNOWN:
            return
        if any(name.startswith(IMPERSONATE) for name in request.headers):
            try:
                other = impersonated(user, request, self.access.authorizer)
            except ApiError:
                return
            if other is not user:
                trail.event["impersonatedUser"] = user_info(other)
                user = other
        if not self.access.enforce:
            return
        decision = self.access.authorizer.authorize(attributes(user, info))
        trail.event["annotations"] = {
            **trail.event.get("annotations", {}),
            "authorization.k8s.io/decision": "allow" if decision.allowed else "forbid",
            "authorization.k8s.io/reason": decision.reason,
        }

    async def _complete(
        self, trail: Trail, request: Request, info: routes.RequestInfo, response: Response
    ) -> None:
        event, body = trail.event, response.body
        event["responseStatus"] = {"metadata": {}, "code": response.status}
        if trail.panicked:
            event["responseStatus"] |= {"status": "Failure", "reason": "InternalError"}
            await self._emit(trail, "Panic")
            return
        if isinstance(body, bytes) and response.status >= 400:
            event["responseStatus"] |= failure(body)
        if info.verb in LONG_RUNNING_VERBS or info.subresource in LONG_RUNNING_SUBRESOURCES:
            await self._emit(trail, "ResponseStarted")
        if response.streaming:
            response.body = self._followed(trail, response.body)  # type: ignore[arg-type]
            return
        assert isinstance(body, bytes)
        if trail.decision.level >= Level.REQUEST_RESPONSE:
            answer = recorded(body, response.headers.get("Content-Type", ""), info)
            if answer is not None:
                event["responseObject"] = slim(answer, trail.decision)
        await self._emit(trail, "ResponseComplete")

    async def _followed(self, trail: Trail, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The stream itself, and the event of its end."""
        try:
            async for part in body:
                yield part
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()
            await self._emit(trail, "ResponseComplete")

    async def _emit(self, trail: Trail, stage: str) -> None:
        if stage in trail.decision.omit_stages:
            return
        trail.event["stage"] = stage
        trail.event["stageTimestamp"] = objects.micro_now()
        await self.log.write(orjson.dumps(trail.event))


def with_id(response: Response, audit_id: str) -> Response:
    response.headers = {**response.headers, AUDIT_ID: audit_id}
    return response


def failure(body: bytes) -> Object:
    """The telling fields of a Status."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        return {}
    return {key: status[key] for key in ("status", "message", "reason") if status.get(key)}


def recorded(body: bytes, content_type: str, info: routes.RequestInfo) -> Any:
    """A body as an object; None for one that is not."""
    kind = media_type(content_type)
    if kind == PROTOBUF:
        from sampan.apiserver import protobuf

        try:
            return protobuf.decode(body, GVK(info.group, info.version, ""))
        except ValueError:
            return None
    if kind.endswith("yaml"):
        from sampan.kube import yaml_body

        try:
            return yaml_body.parse(body)[0]
        except yaml_body.YAMLError:
            return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def slim(obj: Any, decision: Decision) -> Any:
    """Without managed fields when the policy says so."""
    if not decision.omit_managed_fields or not isinstance(obj, dict):
        return obj
    for each in (obj, *(obj.get("items") or ())):
        metadata = each.get("metadata") if isinstance(each, dict) else None
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)
    return obj
