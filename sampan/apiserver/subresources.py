"""Subresources: one handler each, in one table keyed by (resource, subresource); "*" serves any resource.

A handler gets the server and the routed, authorized call. Those that share the parent's kind (status, resize …) go through
the same update as the parent with a rule of their own about what may change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sampan.apiserver import scale
from sampan.apiserver.body import (
    applied_configuration,
    applies,
    conforming,
    decode_object,
    patched,
)
from sampan.apiserver.call import Call, boolean
from sampan.apiserver.crd.scale import CustomScale
from sampan.apiserver.entries import Entry
from sampan.apiserver.negotiate import accepted
from sampan.apiserver.present import respond_object
from sampan.apiserver.registry import Change, DeleteOptions
from sampan.apiserver.strategies.base import keep
from sampan.apiserver.strategies.certificates import SigningRequestStrategy
from sampan.client.transport import Response
from sampan.kube import errors, objects, selectors
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

Object = dict[str, Any]
Handler = Callable[["APIServer", Call], Awaitable[Response]]
Prepare = Callable[[Call, Object, Object], None]

SCALE = GVK("autoscaling", "v1", "Scale")
BINDING = GVK("", "v1", "Binding")
EVICTION = GVK("policy", "v1", "Eviction")
TOKEN_REQUEST = GVK("authentication.k8s.io", "v1", "TokenRequest")
MODIFIED_TRIES = 20


def created() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def _status(server: APIServer, call: Call) -> Response:
    call.form = accepted(call.request.headers.get("accept", ""))
    if call.info.verb == "get":
        return await server.pipeline.respond(call, await server.registry.get(call))
    if call.info.verb == "update":
        return await server.pipeline.update(call, status=True)
    return await server.pipeline.patch(call, status=True)


def _same_kind(prepare: Prepare) -> Handler:
    """A subresource that reads and writes the parent's kind, and may change only what `prepare` lets through."""

    async def handler(server: APIServer, call: Call) -> Response:
        call.form = accepted(call.request.headers.get("accept", ""))
        if call.info.verb == "get":
            return await server.pipeline.respond(call, await server.registry.get(call))
        if call.info.verb == "update":
            return await server.pipeline.update(call, prepare=prepare)
        return await server.pipeline.patch(call, prepare=prepare)

    return handler


def _finalize(call: Call, new: Object, old: Object) -> None:
    """Only `spec.finalizers` of a namespace."""
    finalizers = (new.get("spec") or {}).get("finalizers")
    new["spec"] = {**(old.get("spec") or {})}
    if finalizers:
        new["spec"]["finalizers"] = finalizers
    else:
        new["spec"].pop("finalizers", None)
    keep(new, old, "status")


def _approval(call: Call, new: Object, old: Object) -> None:
    SigningRequestStrategy().prepare_approval(call, new, old)


def _ephemeral(call: Call, new: Object, old: Object) -> None:
    """Only `spec.ephemeralContainers` of a pod, and those are only ever added."""
    wanted = (new.get("spec") or {}).get("ephemeralContainers") or []
    new["spec"] = {key: each for key, each in old["spec"].items() if key != "ephemeralContainers"}
    if wanted:
        new["spec"]["ephemeralContainers"] = wanted
    new["metadata"] = {**old["metadata"]}
    keep(new, old, "status")


def _resize(call: Call, new: Object, old: Object) -> None:
    """Only the resources of a pod and of its containers (KEP-1287, KEP-5419)."""
    spec, asked = {**old["spec"]}, new.get("spec") or {}
    groups = ("containers", "initContainers")
    if any(len(asked.get(group) or ()) != len(spec.get(group) or ()) for group in groups):
        return  # validation refuses it
    keep(spec, asked, "resources")
    for group in groups:
        if group not in spec:
            continue
        merged = []
        for container, wanted in zip(spec[group], asked[group], strict=True):
            if wanted.get("name") != container["name"]:
                merged = asked[group]  # renamed or reordered: refused as well
                break
            changed = {**container}
            for field in ("resources", "resizePolicy"):
                keep(changed, wanted, field)
            merged.append(changed)
        spec[group] = merged
    new["spec"] = spec
    new["metadata"] = {**old["metadata"]}
    keep(new, old, "status")


async def _scale(server: APIServer, call: Call) -> Response:
    call.form = accepted(call.request.headers.get("accept", ""))
    custom = call.resource.custom
    shape: Any = scale if custom is None else CustomScale(custom.scale or {})

    async def answer(entry: Entry) -> Response:
        found = entry if custom is None else await custom.read(entry)
        return respond_object(call, shape.of(found.object()))

    if call.info.verb == "get":
        return await answer(await server.registry.get(call))
    fields = server.fields
    call.tracked = True
    change: Change
    pinned = False
    if call.info.verb == "update":
        call.read_write_options("UpdateOptions")
        sent = decode_object(call, SCALE)
        _check_scale(call, sent)
        pinned = bool(sent["metadata"].get("resourceVersion"))

        def change(old: Object) -> Object:
            managed = fields.scaled(call, old, shape.of(old), sent)
            return shape.managed(shape.apply(old, sent), managed)
    elif applies(call):
        call.read_write_options("PatchOptions", apply=True)
        config = applied_configuration(call)
        force = bool(boolean(call.request, "force"))

        async def change(old: Object) -> Object:
            shown = shape.of(old)
            wanted, managed = await fields.scale_applied(call, old, shown, config, force)
            wanted = conforming(call, SCALE, wanted)
            _check_scale(call, wanted)
            return shape.managed(shape.apply(old, wanted), managed)
    else:
        call.read_write_options("PatchOptions", apply=False)
        apply = patched(call, SCALE)

        def change(old: Object) -> Object:
            shown = shape.of(old)
            wanted = conforming(call, SCALE, apply(shape.of(old)))
            _check_scale(call, wanted)
            managed = fields.scaled(call, old, shown, wanted)
            return shape.managed(shape.apply(old, wanted), managed)

    entry, _ = await server.registry.update(call, change, retry=not pinned, prepare=_keep_status)
    return await answer(entry)


def _keep_status(call: Call, new: Object, old: Object) -> None:
    keep(new, old, "status")


def _check_scale(call: Call, sent: Object) -> None:
    replicas = (sent.get("spec") or {}).get("replicas") or 0
    name = sent["metadata"].get("name")
    if name and name != call.info.name:
        raise errors.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({call.info.name})"
        )
    if replicas < 0:
        cause = errors.invalid_value(
            "spec.replicas", replicas, "must be greater than or equal to 0"
        )
        raise errors.invalid("Scale", call.info.name, [cause], "autoscaling")


async def _bind(server: APIServer, call: Call) -> Response:
    """The scheduler's decision: `spec.nodeName`, once."""
    call.read_write_options("CreateOptions")
    sent = decode_object(call, BINDING)
    target = sent.get("target") or {}
    name = call.info.name or sent["metadata"].get("name") or ""
    if sent["metadata"].get("name") and sent["metadata"]["name"] != name:
        raise errors.bad_request("name in URL does not match name in Binding object")
    causes = []
    if target.get("kind") not in (None, "", "Node"):
        causes.append(errors.not_supported("target.kind", target["kind"], ["Node", "<empty>"]))
    if not target.get("name"):
        causes.append(errors.required("target.name"))
    if causes:
        raise errors.invalid("Binding", name, causes)
    await server.registry.admission.act(call, sent)
    row = server.table.lookup("", "v1", "pods")
    assert row is not None
    info = call.info
    info.name = name
    pods = Call(call.request, info, row, call.user, dry_run=call.dry_run)

    def change(pod: Object) -> Object:
        metadata = pod["metadata"]
        uid = sent["metadata"].get("uid")
        if uid and uid != metadata["uid"]:
            raise pods.conflict(
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
            )
        if "deletionTimestamp" in metadata:
            raise pods.conflict(f"pod {name} is being deleted, cannot be assigned to a host")
        assigned = pod["spec"].get("nodeName")
        if assigned:
            raise pods.conflict(f'pod {name} is already assigned to node "{assigned}"')
        if pod["spec"].get("schedulingGates"):
            raise pods.conflict(f"pod {name} has non-empty .spec.schedulingGates")
        pod["spec"]["nodeName"] = target["name"]
        given = sent["metadata"].get("annotations")
        if given:
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **given}
        objects.set_condition(pod, "PodScheduled", "True", "", "", objects.now())
        return pod

    await server.registry.update(pods, change, status=True, prepare=_anything, validate=False)
    return respond_object(call, created(), 201)


def _anything(call: Call, new: Object, old: Object) -> None:
    """The change was made by the server itself."""


async def _evict(server: APIServer, call: Call) -> Response:
    """Delete a pod, unless a PodDisruptionBudget says that it must stay."""
    call.read_write_options("CreateOptions")
    sent = decode_object(call, EVICTION)
    name = sent["metadata"].get("name")
    if name and name != call.info.name:
        raise errors.bad_request("name in URL does not match name in Eviction object")
    await server.registry.admission.act(call, sent)
    asked = sent.get("deleteOptions") or {}
    conditions = asked.get("preconditions") or {}
    options = DeleteOptions(
        asked.get("gracePeriodSeconds"),
        asked.get("propagationPolicy") or "",
        conditions.get("uid"),
        conditions.get("resourceVersion"),
    )
    if asked.get("dryRun"):
        call.dry_run = True
    pod = (await server.registry.get(call)).object()
    phase = (pod.get("status") or {}).get("phase")
    if phase not in ("Succeeded", "Failed", "Pending") and not objects.is_deleting(pod):
        await _spend_budget(server, call, pod)
    await server.registry.delete(call, options)
    return respond_object(call, created(), 201)


async def _spend_budget(server: APIServer, call: Call, pod: Object) -> None:
    row = server.table.lookup("policy", "v1", "poddisruptionbudgets")
    assert row is not None
    namespace = call.info.namespace
    cache = await server.caches.get(row)
    budgets = [
        each
        for each in (entry.object() for entry in cache.select(f"{row.prefix}{namespace}/"))
        if selectors.from_object((each.get("spec") or {}).get("selector")).matches(
            objects.labels(pod)
        )
    ]
    if not budgets:
        return
    if len(budgets) > 1:
        raise errors.internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    budget = budgets[0]
    if not objects.pod_ready(pod) and _spared(budget):
        return
    info = call.info.__class__(
        "update",
        call.info.path,
        True,
        "policy",
        "v1",
        "poddisruptionbudgets",
        "status",
        namespace,
        objects.name(budget),
    )
    single = Call(call.request, info, row, call.user, dry_run=call.dry_run)

    def change(present: Object) -> Object:
        status = present.get("status") or {}
        allowed = status.get("disruptionsAllowed") or 0
        if status.get("observedGeneration", 0) < present["metadata"].get("generation", 0):
            raise _refused(
                f"The disruption budget {objects.name(present)} is still being processed by the server."
            )
        if allowed <= 0:
            raise _refused(
                f"The disruption budget {objects.name(present)} needs {status.get('desiredHealthy', 0)} healthy pods "
                f"and has {status.get('currentHealthy', 0)} currently"
            )
        disrupted = {**(status.get("disruptedPods") or {}), call.info.name: objects.now()}
        present["status"] = {
            **status,
            "disruptionsAllowed": allowed - 1,
            "disruptedPods": disrupted,
        }
        return present

    await server.registry.update(single, change, status=True, prepare=_anything, validate=False)


def _spared(budget: Object) -> bool:
    """May a pod that is not ready go whatever the budget says?"""
    spec, status = budget.get("spec") or {}, budget.get("status") or {}
    if spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    healthy, wanted = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    return healthy >= wanted > 0


def _refused(cause: str) -> ApiError:
    error = errors.too_many_requests(
        "Cannot evict pod as it would violate the pod's disruption budget.", 0
    )
    error.details = {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
    return error


async def _token(server: APIServer, call: Call) -> Response:
    from sampan.apiserver.token_request import create_token

    call.read_write_options("CreateOptions")
    sent = decode_object(call, TOKEN_REQUEST)
    await server.registry.admission.act(call, sent)
    access = server.access
    answer = await create_token(
        sent,
        call.user,
        call.info.namespace,
        call.info.name,
        access.signer,
        access.lookup,
        call.warnings,
    )
    return respond_object(call, answer, 201)


async def _connect(server: APIServer, call: Call) -> Response:
    """What goes on to a node, a pod or a service."""
    from sampan.apiserver import proxy  # only a server with nodes needs it

    if call.info.subresource != "log":
        await server.registry.admission.connect(call, proxy.options_of(call))
    return await proxy.connect(server, call)


SUBRESOURCES: dict[tuple[str, str], Handler] = {
    ("*", "status"): _status,
    ("*", "scale"): _scale,
    ("namespaces", "finalize"): _same_kind(_finalize),
    ("certificatesigningrequests", "approval"): _same_kind(_approval),
    ("pods", "ephemeralcontainers"): _same_kind(_ephemeral),
    ("pods", "resize"): _same_kind(_resize),
    ("pods", "binding"): _bind,
    ("pods", "eviction"): _evict,
    ("serviceaccounts", "token"): _token,
    ("*", "log"): _connect,
    ("*", "exec"): _connect,
    ("*", "attach"): _connect,
    ("*", "portforward"): _connect,
    ("*", "proxy"): _connect,
}
