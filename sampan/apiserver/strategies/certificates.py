"""CertificateSigningRequests: who asks is written by the server, what was decided stays decided, a certificate is written once.

`/approval` decides, `/status` hands out the certificate; neither can do the other's work. Rules and words:
pkg/apis/certificates/validation, pkg/registry/certificates.
"""

from __future__ import annotations

from typing import Final

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Causes, Object, Strategy, keep, update_causes
from sampan.kube import errors, objects, signing_requests, validation

DECISIONS: Final = ("Approved", "Denied")
LASTING: Final = (*DECISIONS, "Failed")  # once there, they stay, and are true
_STATUSES: Final = ("False", "True", "Unknown")


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

    def validate_create(self, call: Call, obj: Object) -> Causes:
        return [
            *validation.validate_create(call.storage_gvk, obj),
            *request_causes(obj.get("spec") or {}),
        ]

    def validate_update(self, call: Call, new: Object, old: Object) -> Causes:
        decides = call.info.subresource == "approval"
        return [
            *update_causes(call, new, old),
            *condition_causes(conditions_of(new), conditions_of(old), decides=decides),
            *certificate_causes(new, old),
        ]

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "spec")
        keep(new, old, "status")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        # A decision that is there stays as it was; adding or removing one is refused.
        decided = {each.get("type"): each for each in conditions_of(old)}
        if conditions := conditions_of(new):
            new["status"]["conditions"] = [
                decided.get(each.get("type"), each) if each.get("type") in DECISIONS else each
                for each in conditions
            ]
        date_conditions(new, old)

    def prepare_approval(self, call: Call, new: Object, old: Object) -> None:
        """`/approval` writes the conditions and nothing else."""
        keep(new, old, "spec")
        status = dict(old.get("status") or {})
        if conditions := conditions_of(new):
            status["conditions"] = conditions
        else:
            status.pop("conditions", None)
        new["status"] = status
        date_conditions(new, old)


def conditions_of(obj: Object) -> list[Object]:
    return (obj.get("status") or {}).get("conditions") or []


def date_conditions(new: Object, old: Object) -> None:
    """Say when a condition was written, and when it last changed its status, unless the writer did."""
    moment = objects.now()
    before = {(each.get("type"), each.get("status")): each for each in conditions_of(old)}
    for condition in conditions_of(new):
        if not condition.get("lastUpdateTime"):
            condition["lastUpdateTime"] = moment
        if not condition.get("lastTransitionTime"):
            same = before.get((condition.get("type"), condition.get("status"))) or {}
            condition["lastTransitionTime"] = same.get("lastTransitionTime") or moment


def request_causes(spec: Object) -> Causes:
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


def certificate_causes(new: Object, old: Object) -> Causes:
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


def condition_causes(new: list[Object], old: list[Object], *, decides: bool) -> Causes:
    """What is wrong with a request's conditions, given those that it had. `decides`: it may be approved or denied now."""
    if new == old:
        return []
    path = "status.conditions"
    causes: Causes = []
    seen: set[str] = set()
    for index, condition in enumerate(new):
        kind, status = condition.get("type") or "", condition.get("status") or ""
        at = f"{path}[{index}]"
        if not kind:
            causes.append(errors.required(f"{at}.type"))
        allowed = ("True",) if kind in LASTING else _STATUSES
        if not status:
            causes.append(errors.required(f"{at}.status"))
        elif status not in allowed:
            causes.append(errors.not_supported(f"{at}.status", status, allowed))
        if kind in DECISIONS and (set(DECISIONS) - {kind}) & seen:
            text = "Approved and Denied conditions are mutually exclusive"
            causes.append(errors.invalid_value(f"{at}.type", kind, text))
        if kind in seen:
            causes.append(errors.duplicate(f"{at}.type", kind))
        seen.add(kind)
    before = {each.get("type"): each for each in old}
    now = {each.get("type"): each for each in new}
    for kind in LASTING:
        if kind in before and kind not in now:
            text = f'updates may not remove a condition of type "{kind}"'
            causes.append(errors.forbidden_field(path, text))
    for kind in () if decides else DECISIONS:
        if kind in now and now[kind] != before.get(kind):
            verb = "modify" if kind in before else "add"
            text = f'updates may not {verb} a condition of type "{kind}"'
            causes.append(errors.forbidden_field(path, text))
    return causes
