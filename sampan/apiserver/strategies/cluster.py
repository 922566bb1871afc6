"""Kinds of the cluster itself with rules of their own: namespaces, nodes, CSRs, priority classes, secrets, jobs."""

from __future__ import annotations

from sampan.apiserver.aggregation import services
from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Strategy, keep, update_causes
from sampan.kube import errors, objects, signing_requests, validation
from sampan.kube.defaulting.core import METADATA_NAME_LABEL

DECISIONS = ("Approved", "Denied")  # about a signing request


class NamespaceStrategy(Strategy):
    """`spec.finalizers` holds the namespace until its controller has emptied it and asked `/finalize`."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        finalizers = (obj.get("spec") or {}).get("finalizers") or []
        if "kubernetes" not in finalizers:
            finalizers = [*finalizers, "kubernetes"]
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": finalizers}
        obj["status"] = {"phase": "Active"}
        # Defaulting could not know a generated name.
        marks = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = marks | {METADATA_NAME_LABEL: obj["metadata"].get("name") or ""}

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "spec")
        keep(new, old, "status")

    def may_remove(self, obj: Object) -> bool:
        return not (obj.get("spec") or {}).get("finalizers")

    def begin_delete(self, obj: Object) -> None:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}


class NodeStrategy(Strategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        # A node registers itself together with its status.
        obj.setdefault("status", {})


class SigningRequestStrategy(Strategy):
    """Who asks is written by the server, and nobody can ask in another's name."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        for key in ("username", "groups", "uid", "extra"):
            spec.pop(key, None)
        spec["username"] = call.user.name
        if call.user.groups:
            spec["groups"] = list(call.user.groups)
        if call.user.uid:
            spec["uid"] = call.user.uid
        if call.user.extra:
            spec["extra"] = call.user.extra_map()
        obj["status"] = {}

    def validate_create(self, call: Call, obj: Object) -> list[errors.Cause]:
        return [
            *validation.validate_create(call.storage_gvk, obj),
            *request_causes(obj.get("spec") or {}),
        ]

    def validate_update(self, call: Call, new: Object, old: Object) -> list[errors.Cause]:
        return [*update_causes(call, new, old), *certificate_causes(new, old)]

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "spec")
        keep(new, old, "status")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        keep_conditions(new, old, DECISIONS)

    def prepare_approval(self, call: Call, new: Object, old: Object) -> None:
        """`/approval` writes the conditions and nothing else. What was decided stays decided."""
        keep(new, old, "spec")
        conditions = (new.get("status") or {}).get("conditions") or []
        causes = approval_causes(conditions, (old.get("status") or {}).get("conditions") or [])
        if causes:
            raise call.invalid(causes)
        moment = objects.now()
        for condition in conditions:
            condition.setdefault("lastUpdateTime", moment)
            condition.setdefault("lastTransitionTime", moment)
        new["status"] = {**(old.get("status") or {}), "conditions": conditions}


def request_causes(spec: Object) -> list[errors.Cause]:
    """What is wrong with a new signing request beyond its shape."""
    causes = []
    if spec.get("request"):
        try:
            signing_requests.load(spec["request"])
        except signing_requests.BadRequest as error:
            causes.append(errors.invalid_value("spec.request", spec["request"], str(error)))
    known = sorted((*signing_requests.KEY_USAGES, *signing_requests.EXTENDED_USAGES))
    seen: set[str] = set()
    for index, usage in enumerate(spec.get("usages") or ()):
        if usage not in known:
            causes.append(errors.not_supported(f"spec.usages[{index}]", usage, known))
        elif usage in seen:
            causes.append(errors.duplicate(f"spec.usages[{index}]", usage))
        seen.add(usage)
    if spec.get("signerName") == signing_requests.LEGACY_UNKNOWN:
        text = "the legacy signerName is not allowed via this API version"
        causes.append(errors.invalid_value("spec.signerName", spec["signerName"], text))
    return causes


def certificate_causes(new: Object, old: Object) -> list[errors.Cause]:
    """A certificate is written once, and is one."""
    path = "status.certificate"
    given = (new.get("status") or {}).get("certificate") or ""
    present = (old.get("status") or {}).get("certificate") or ""
    if given == present:
        return []
    if present:
        return [errors.forbidden_field(path, "updates may not modify a non-empty certificate")]
    try:
        signing_requests.check_certificates(given)
    except signing_requests.BadRequest as error:
        return [errors.invalid_value(path, "<certificate data>", str(error))]
    return []


def approval_causes(new: list[Object], old: list[Object]) -> list[errors.Cause]:
    """What is wrong with a signing request's conditions, given those that it had."""
    path = "status.conditions"
    causes = []
    kinds = {each.get("type") for each in new}
    for index, condition in enumerate(new):
        kind = condition.get("type")
        if kind in DECISIONS and condition.get("status") != "True":
            at = f"{path}[{index}].status"
            causes.append(errors.not_supported(at, condition.get("status") or "", ["True"]))
        if kind == "Denied" and "Approved" in kinds:
            text = "Approved and Denied conditions are mutually exclusive"
            causes.append(errors.invalid_value(f"{path}[{index}].type", kind, text))
    for condition in old:
        kind = condition.get("type")
        if kind in DECISIONS and kind not in kinds:
            text = f'updates may not remove a condition of type "{kind}"'
            causes.append(errors.forbidden_field(path, text))
    return causes


def keep_conditions(new: Object, old: Object, kinds: tuple[str, ...]) -> None:
    """Conditions of these types stay as they were."""
    status = new.setdefault("status", {})
    mine = [each for each in status.get("conditions") or () if each.get("type") not in kinds]
    theirs = [
        each
        for each in (old.get("status") or {}).get("conditions") or ()
        if each.get("type") in kinds
    ]
    if theirs or mine:
        status["conditions"] = theirs + mine
    else:
        status.pop("conditions", None)


class SecretStrategy(Strategy):
    def prepare_create(self, call: Call, obj: Object) -> None:
        merge_string_data(obj)

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        merge_string_data(new)
        if not new.get("type"):
            keep(new, old, "type")


def merge_string_data(secret: Object) -> None:
    """`stringData` is written over `data` and never stored."""
    plain = secret.pop("stringData", None)
    if isinstance(plain, dict) and plain:
        import base64

        data = dict(secret.get("data") or {})
        for key, value in plain.items():
            data[key] = base64.b64encode(str(value).encode()).decode()
        secret["data"] = data


class OrphaningStrategy(Strategy):
    """Kinds old enough that DELETE without a policy leaves the dependents (batch/v1 Jobs, ReplicationControllers)."""

    orphan_by_default = True


class ReturningStrategy(Strategy):
    returns_deleted = True


class VolumeStrategy(ReturningStrategy):
    """A PersistentVolume remembers when its phase changed, unless whoever changed it says so (KEP-3762)."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        super().prepare_create(call, obj)
        obj["status"]["lastPhaseTransitionTime"] = objects.now()

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        status, before = new.get("status") or {}, old.get("status") or {}
        at = "lastPhaseTransitionTime"
        if status.get("phase") != before.get("phase") and status.get(at) in (None, before.get(at)):
            new["status"] = {**status, at: objects.now()}


class EventStrategy(Strategy):
    """One storage under two groups, and events.k8s.io asks more of an event than core does."""

    def validate_create(self, call: Call, obj: Object) -> list[errors.Cause]:
        return validation.validate_create(call.gvk, obj)

    def validate_update(self, call: Call, new: Object, old: Object) -> list[errors.Cause]:
        return validation.validate_update(call.gvk, new, old)


class APIServiceStrategy(Strategy):
    """One without a service is served by this server, and so is available from the start."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        local = (obj.get("spec") or {}).get("service") is None
        obj["status"] = {"conditions": [services.local_condition()]} if local else {}

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        for key in ("annotations", "finalizers"):
            keep(new["metadata"], old["metadata"], key)
