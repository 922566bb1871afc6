"""The kinds that are questions: what may someone do, who am I, whose token is this. Answered, never stored.

`kubectl auth can-i` (SelfSubjectAccessReview), `can-i --list` (SelfSubjectRulesReview), `whoami` (SelfSubjectReview), and
what extension servers and the node ask (SubjectAccessReview, TokenReview).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sampan.apiserver.auth import Authenticator
from sampan.apiserver.authz import Authorizer, node_name
from sampan.apiserver.rbac import Attributes, Rule
from sampan.apiserver.tokens import InvalidToken
from sampan.client.transport import User
from sampan.kube import errors, objects

Object = dict[str, Any]
Prepare = Callable[[Attributes], Awaitable[None]]

AUTHORIZATION, AUTHENTICATION = "authorization.k8s.io", "authentication.k8s.io"


class Reviews:
    def __init__(
        self, authorizer: Authorizer, authenticator: Authenticator, prepare: Prepare | None = None
    ) -> None:
        """`prepare` loads what the authorizer needs for an answer."""
        self.authorizer = authorizer
        self.authenticator = authenticator
        self.prepare = prepare

    async def create(self, kind: str, body: Object, user: User, namespace: str = "") -> Object:
        """The review with its status filled. `namespace` is the path's. Raises ApiError 400 or 422."""
        group = AUTHENTICATION if kind in ("TokenReview", "SelfSubjectReview") else AUTHORIZATION
        status = await self._answers[kind](self, body.get("spec") or {}, user, namespace)
        review: Object = {"kind": kind, "apiVersion": f"{group}/v1"}
        review["metadata"] = {"creationTimestamp": objects.now()} | objects.metadata(body)
        if kind != "SelfSubjectReview":
            review["spec"] = body.get("spec") or {}
        review["status"] = status
        return review

    async def _self_access(self, spec: Object, user: User, _namespace: str) -> Object:
        return await self._decide("SelfSubjectAccessReview", spec, user)

    async def _subject_access(self, spec: Object, _user: User, _namespace: str) -> Object:
        return await self._decide(
            "SubjectAccessReview", spec, _subject(spec, "SubjectAccessReview")
        )

    async def _local_access(self, spec: Object, _user: User, namespace: str) -> Object:
        kind = "LocalSubjectAccessReview"
        asked = (spec.get("resourceAttributes") or {}).get("namespace") or ""
        causes = []
        if asked != namespace:
            causes.append(
                errors.invalid_value(
                    "spec.resourceAttributes.namespace", asked, "must match metadata.namespace"
                )
            )
        if spec.get("nonResourceAttributes"):
            causes.append(
                errors.invalid_value(
                    "spec.nonResourceAttributes",
                    spec["nonResourceAttributes"],
                    "disallowed on this kind of request",
                )
            )
        if causes:
            raise errors.invalid(kind, "", causes, AUTHORIZATION)
        return await self._decide(kind, spec, _subject(spec, kind))

    async def _decide(self, kind: str, spec: Object, user: User) -> Object:
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if resource is not None and path is not None:
            cause = errors.invalid_value(
                "spec.nonResourceAttributes",
                path,
                "cannot be specified in combination with resourceAttributes",
            )
            raise errors.invalid(kind, "", [cause], AUTHORIZATION)
        if resource is None and path is None:
            cause = errors.invalid_value(
                "spec.resourceAttributes",
                None,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )
            raise errors.invalid(kind, "", [cause], AUTHORIZATION)
        asked = _question(user, resource, path)
        if self.prepare is not None:
            await self.prepare(asked)
        decision = self.authorizer.authorize(asked)
        return {"allowed": decision.allowed} | (
            {"reason": decision.reason} if decision.reason else {}
        )

    async def _rules(self, spec: Object, user: User, _namespace: str) -> Object:
        namespace = spec.get("namespace") or ""
        if not namespace:
            raise errors.bad_request("no namespace on request")
        held = self.authorizer.holds(user, namespace)
        found: Object = {
            "resourceRules": [_resource_rule(rule) for rule in held if rule.resources],
            "nonResourceRules": [
                {"verbs": sorted(rule.verbs), "nonResourceURLs": sorted(rule.urls)}
                for rule in held
                if rule.urls
            ],
            "incomplete": False,
        }
        if node_name(user):  # what a node may do depends on the pods that it has
            found["incomplete"] = True
            found["evaluationError"] = "node authorizer does not support user rule resolution"
        return found

    async def _self(self, _spec: Object, user: User, _namespace: str) -> Object:
        return {"userInfo": user_info(user)}

    async def _token(self, spec: Object, _user: User, _namespace: str) -> Object:
        token, audiences = spec.get("token") or "", tuple(spec.get("audiences") or ())
        if not token:
            raise errors.bad_request("token is required for TokenReview in authentication")
        try:
            user, accepted = await self.authenticator.review(token, audiences)
        except InvalidToken as error:
            return {"authenticated": False, "user": {}, "error": f"[invalid bearer token, {error}]"}
        return {"authenticated": True, "user": user_info(user), "audiences": list(accepted)}

    _answers: dict[str, Callable[[Reviews, Object, User, str], Awaitable[Object]]] = {
        "SelfSubjectAccessReview": _self_access,
        "SubjectAccessReview": _subject_access,
        "LocalSubjectAccessReview": _local_access,
        "SelfSubjectRulesReview": _rules,
        "SelfSubjectReview": _self,
        "TokenReview": _token,
    }


def user_info(user: User) -> Object:
    info: Object = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = list(user.groups)
    if user.extra:
        info["extra"] = user.extra_map()
    return info


def _subject(spec: Object, kind: str) -> User:
    groups = tuple(spec.get("groups") or ())
    if not spec.get("user") and not groups:
        cause = errors.invalid_value(
            "spec.user", "", "at least one of user or group must be specified"
        )
        raise errors.invalid(kind, "", [cause], AUTHORIZATION)
    return User(spec.get("user") or "", groups, spec.get("uid") or "", spec.get("extra") or ())


def _question(user: User, resource: Object | None, path: Object | None) -> Attributes:
    if resource is None:
        path = path or {}
        return Attributes(user, path.get("verb") or "", path=path.get("path") or "")

    def value(key: str) -> str:
        return (resource or {}).get(key) or ""

    return Attributes(
        user,
        value("verb"),
        value("group"),
        value("version"),
        value("resource"),
        value("subresource"),
        value("namespace"),
        value("name"),
        field_selector=_selector((resource or {}).get("fieldSelector")) if node_name(user) else "",
    )


def _selector(given: Object | None) -> str:
    """The equalities of a FieldSelectorAttributes, as a selector is written."""
    if not given:
        return ""
    if given.get("rawSelector"):
        return str(given["rawSelector"])
    return ",".join(
        f"{each.get('key')}={each['values'][0]}"
        for each in given.get("requirements") or ()
        if each.get("operator") == "In" and len(each.get("values") or ()) == 1
    )


def _resource_rule(rule: Rule) -> Object:
    found = {
        "verbs": sorted(rule.verbs),
        "apiGroups": sorted(rule.groups),
        "resources": sorted(rule.resources),
    }
    return found | ({"resourceNames": sorted(rule.names)} if rule.names else {})
