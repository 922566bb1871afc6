"""Signing requests: approved by rule, signed by the cluster's authority, and cleaned away when they are old.

*Approving* lets a node have its first client certificate, renew it, and get a serving certificate for its own names, when a
SubjectAccessReview says that the one who asks may (`certificatesigningrequests/nodeclient`, `…/selfnodeclient`,
`…/selfnodeserver`). All else waits for an administrator. *Signing* grants what is approved and within its signer's rules; what
is not within them fails, with the reason in its conditions. `kubernetes.io/legacy-unknown` is nobody's business here.
https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

from __future__ import annotations

import asyncio
from typing import Any

from sampan.client.resources import CERTIFICATESIGNINGREQUESTS, NODES, SUBJECTACCESSREVIEWS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.kube import signing_requests
from sampan.kube.errors import ApiError
from sampan.kube.objects import parse_time
from sampan.kube.signing_requests import (
    KUBELET_CLIENT,
    KUBELET_SERVING,
    NODE_PREFIX,
    SIGNERS,
    Asked,
    BadRequest,
    state,
)

DECIDED_KEPT = 3600.0  # seconds that a denied, failed or issued request stays
PENDING_KEPT = 24 * 3600.0

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # means every machine, and thus none

# Permission → what is said in the condition.
APPROVALS = {
    "selfnodeclient": "Auto approving self kubelet client certificate after SubjectAccessReview.",
    "nodeclient": "Auto approving kubelet client certificate after SubjectAccessReview.",
    "selfnodeserver": "Auto approving self kubelet server certificate after SubjectAccessReview.",
}


class _Requests(Controller):
    watches = (Watch(CERTIFICATESIGNINGREQUESTS),)
    workers = 1

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.requests = self.informer(CERTIFICATESIGNINGREQUESTS)


class ApprovingController(_Requests):
    name = "csrapproving"

    async def reconcile(self, key: Key) -> Requeue | None:
        request = self.requests.get(*key)
        if request is None or state(request) or (request.get("status") or {}).get("certificate"):
            return None
        for permission in await self.recognized(request):
            if await self.allowed(request["spec"], permission):
                condition = {
                    "type": "Approved",
                    "status": "True",
                    "reason": "AutoApproved",
                    "message": APPROVALS[permission],
                }
                await self.client.update(
                    CERTIFICATESIGNINGREQUESTS,
                    with_condition(request, condition),
                    subresource="approval",
                )
                return None
        return None

    async def recognized(self, request: Object) -> list[str]:
        """The permissions of which one is enough."""
        spec = request["spec"]
        signer = spec.get("signerName")
        if signer not in (KUBELET_CLIENT, KUBELET_SERVING):
            return []
        try:
            asked = await asyncio.to_thread(signing_requests.parse, spec["request"])
        except BadRequest:
            return []
        if signing_requests.refusal(signer, asked, spec.get("usages") or ()):
            return []
        itself = spec.get("username") == asked.common_name
        if signer == KUBELET_CLIENT:
            return ["selfnodeclient", "nodeclient"] if itself else ["nodeclient"]
        return ["selfnodeserver"] if itself and await self.own_names(asked) else []

    async def own_names(self, asked: Asked) -> bool:
        """Are all names and addresses those that the node itself goes by?"""
        name = asked.common_name.removeprefix(NODE_PREFIX)
        try:
            node = await self.client.get(NODES, name)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        addresses = (node.get("status") or {}).get("addresses") or ()
        known = {name, *LOOPBACK, *(each.get("address") for each in addresses)}
        if not known.issuperset((*asked.dns_names, *asked.addresses)):
            return False
        for other in asked.dns_names:  # a node writes its own addresses, but no other node's name
            if other not in (name, *LOOPBACK) and await self.is_node(other):
                return False
        return True

    async def is_node(self, name: str) -> bool:
        try:
            await self.client.get(NODES, name)
        except ApiError as error:
            if error.code in (400, 404):
                return False
            raise
        return True

    async def allowed(self, spec: Object, permission: str) -> bool:
        review: dict[str, Any] = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": {
                "user": spec.get("username") or "",
                "groups": spec.get("groups") or [],
                "uid": spec.get("uid") or "",
                "extra": spec.get("extra") or {},
                "resourceAttributes": {
                    "group": signing_requests.GROUP,
                    "resource": "certificatesigningrequests",
                    "subresource": permission,
                    "verb": "create",
                },
            },
        }
        answer = await self.client.create(SUBJECTACCESSREVIEWS, review)
        return bool(answer["status"].get("allowed"))


class SigningController(_Requests):
    name = "csrsigning"

    async def reconcile(self, key: Key) -> Requeue | None:
        request = self.requests.get(*key)
        if request is None or state(request) != "Approved":
            return None
        spec, status = request["spec"], request.get("status") or {}
        signer, usages = spec.get("signerName"), spec.get("usages") or []
        if signer not in SIGNERS or status.get("certificate"):
            return None
        try:
            asked = await asyncio.to_thread(signing_requests.parse, spec["request"])
            wrong = signing_requests.refusal(signer, asked, usages)
        except BadRequest as error:
            wrong = str(error)
        if wrong:
            condition = {
                "type": "Failed",
                "status": "True",
                "reason": "SignerValidationFailure",
                "message": wrong,
                "lastUpdateTime": stamp(self.clock()),
            }
            changed = with_condition(request, condition)
        else:
            certificate = await asyncio.to_thread(
                self.context.sign, spec["request"], usages, spec.get("expirationSeconds")
            )
            changed = {**request, "status": {**status, "certificate": certificate}}
        await self.client.update(CERTIFICATESIGNINGREQUESTS, changed, subresource="status")
        return None


class CleaningController(_Requests):
    name = "csrcleaner"

    async def reconcile(self, key: Key) -> Requeue | None:
        request = self.requests.get(*key)
        if request is None:
            return None
        left = expiry(request) - self.clock()
        if left > 0:
            return Requeue(left)
        uid = request["metadata"]["uid"]
        await self.client.delete(CERTIFICATESIGNINGREQUESTS, key.name, uid=uid)
        return None


def expiry(request: Object) -> float:
    """When nobody needs the request any more, in seconds since the epoch."""
    status = request.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    created = parse_time(request["metadata"]["creationTimestamp"]).timestamp()
    decided = conditions.get("Denied") or conditions.get("Failed")
    kept = DECIDED_KEPT
    if decided is None:
        decided = conditions.get("Approved")
        if decided is None or not status.get("certificate"):
            return created + PENDING_KEPT
        # An issued certificate that has run out is of no use to anyone.
        kept = min(kept, request["spec"].get("expirationSeconds") or kept)
    moment = decided.get("lastUpdateTime")
    return (parse_time(moment).timestamp() if moment else created) + kept


def with_condition(request: Object, condition: dict[str, str]) -> Object:
    status = request.get("status") or {}
    conditions = [*(status.get("conditions") or ()), condition]
    return {**request, "status": {**status, "conditions": conditions}}
