"""`serviceaccounts/token`: a TokenRequest answered with a token bound to the account, and to a pod, secret or node if asked.

KEP-1205. A node may ask only for pods that run on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sampan.apiserver.auth import Lookup
from sampan.apiserver.authz import node_name
from sampan.apiserver.tokens import DEFAULT_SECONDS, MAXIMUM_SECONDS, MINIMUM_SECONDS, TokenSigner
from sampan.client.transport import User
from sampan.kube import errors, objects

GROUP = "authentication.k8s.io"
BINDABLE = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


async def create_token(
    body: dict[str, Any],
    user: User,
    namespace: str,
    name: str,
    signer: TokenSigner,
    lookup: Lookup,
    warnings: list[str] | None = None,
) -> dict[str, Any]:
    """The TokenRequest with its status filled. Raises ApiError."""
    metadata = objects.metadata(body)
    if metadata.get("name") and metadata["name"] != name:
        raise errors.bad_request(
            f"service account name in URL {name} does not match name in request {metadata['name']}"
        )
    if metadata.get("namespace") and metadata["namespace"] != namespace:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    entry = await lookup.entry("", "v1", "serviceaccounts", namespace, name)
    if entry is None:
        raise errors.not_found("serviceaccounts", name)
    spec = body.get("spec") or {}
    seconds = spec.get("expirationSeconds")
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    _check_lifetime(name, seconds)
    if signer.longest and seconds > signer.longest:
        if warnings is not None:
            warnings.append(
                f"requested expiration of {seconds} seconds shortened to {signer.longest} seconds"
            )
        seconds = signer.longest
    reference = spec.get("boundObjectRef")
    bound = await _bound(reference, name, namespace, lookup) if reference else {}
    if node := node_name(user):
        _check_node(node, name, bound)
        await _check_audiences(user, name, spec.get("audiences") or (), bound["pod"], lookup)
    audiences = spec.get("audiences") or list(signer.audiences[:1])
    token, _ = signer.make(entry.object(), audiences=audiences, seconds=seconds, **bound)
    expires = datetime.fromtimestamp(int(signer.clock()) + seconds, UTC)
    return {
        "kind": "TokenRequest",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": objects.now(),
        },
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": reference,
        },
        "status": {
            "token": token,
            "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    }


def _check_lifetime(name: str, seconds: int) -> None:
    field = "spec.expirationSeconds"
    cause = None
    if seconds < MINIMUM_SECONDS:
        cause = errors.invalid_value(
            field, seconds, "may not specify a duration less than 10 minutes"
        )
    elif seconds > MAXIMUM_SECONDS:
        cause = errors.invalid_value(
            field, seconds, "may not specify a duration larger than 2^32 seconds"
        )
    if cause:
        raise errors.invalid("TokenRequest", name, [cause], GROUP)


async def _bound(
    reference: dict[str, Any], account: str, namespace: str, lookup: Lookup
) -> dict[str, dict[str, Any]]:
    """Keyword arguments of `TokenSigner.make` for the object that the token is bound to."""
    kind, wanted = reference.get("kind") or "", reference.get("name") or ""
    plural = BINDABLE.get(kind)
    if plural is None or reference.get("apiVersion") not in ("v1", "", None):
        raise errors.bad_request(
            f"cannot bind token to object of type {reference.get('apiVersion') or ''}, Kind={kind}"
        )
    place = "" if kind == "Node" else namespace
    entry = await lookup.entry("", "v1", plural, place, wanted)
    if entry is None:
        raise errors.not_found(plural, wanted)
    found = entry.object()
    if reference.get("uid") and reference["uid"] != objects.uid(found):
        raise errors.conflict(
            plural,
            wanted,
            f"the UID in the bound object reference ({reference['uid']}) does not match the UID in "
            "record. The object might have been deleted and then recreated",
        )
    if kind != "Pod":
        return {kind.lower(): found}
    spec = found.get("spec") or {}
    if spec.get("serviceAccountName") != account:
        raise errors.bad_request(
            f'cannot bind token for serviceaccount "{account}" to pod running with different '
            "serviceaccount name."
        )
    bound = {"pod": found}
    if spec.get("nodeName"):
        node = await lookup.entry("", "v1", "nodes", "", spec["nodeName"])
        bound["node"] = node.object() if node else {"metadata": {"name": spec["nodeName"]}}
    return bound


def _check_node(node: str, account: str, bound: dict[str, dict[str, Any]]) -> None:
    pod = bound.get("pod")
    if pod is None:
        text = f"node {node} requested token not bound to a pod"
    elif (pod.get("spec") or {}).get("nodeName") != node:
        text = f"node {node} requested token bound to a pod scheduled on a different node"
    else:
        return
    raise errors.forbidden("serviceaccounts", account, text)


async def _check_audiences(
    user: User, account: str, audiences: Sequence[str], pod: dict[str, Any], lookup: Lookup
) -> None:
    """A node asks only for audiences that the pod's volumes name (ServiceAccountNodeAudienceRestriction, KEP-4412)."""
    named: set[str] = set()
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if "serviceAccountToken" in source:
                named.add(source["serviceAccountToken"].get("audience") or "")
        driver = (volume.get("csi") or {}).get("driver")
        if driver:
            entry = await lookup.entry("storage.k8s.io", "v1", "csidrivers", "", driver)
            spec = (entry.object().get("spec") or {}) if entry else {}
            named |= {each.get("audience") or "" for each in spec.get("tokenRequests") or ()}
    for audience in audiences:
        if audience not in named:
            text = (
                f'audience "{audience}" not found in pod spec volume, {user.name} is not authorized '
                "to request tokens for this audience"
            )
            raise errors.forbidden("serviceaccounts", account, text)
