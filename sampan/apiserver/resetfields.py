"""Which fields an endpoint resets, whatever a client sends: such fields have no managers (strategies' GetResetFields).

A plain write cannot touch status; a status write touches status and what metadata its kind lets through. The tables hold
what differs from that, by (group, kind). `kept` gives the filter that a set of fields goes through.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from sampan.apiserver.resources import Resource
from sampan.kube.apply import fields
from sampan.kube.apply.fields import ANY, Fields, Path
from sampan.kube.apply.updater import Filter

_SPEC: Final[Path] = ("f:spec",)
_STATUS: Final[Path] = ("f:status",)
_METADATA: Final[Path] = ("f:metadata",)
_SIGNING_REQUEST: Final = ("certificates.k8s.io", "CertificateSigningRequest")

# First-level fields that neither a create nor an update sets.
_PLAIN: Final[dict[tuple[str, str], tuple[str, ...]]] = {_SIGNING_REQUEST: ("spec", "status")}

_BY_STATUS: Final[dict[tuple[str, str], tuple[Path, ...]]] = {
    ("", "Pod"): (
        _SPEC,
        ("f:metadata", "f:deletionTimestamp"),
        ("f:metadata", "f:ownerReferences"),
    ),
    ("apps", "Deployment"): (_SPEC, ("f:metadata", "f:labels")),
    _SIGNING_REQUEST: (_SPEC, ("f:status", "f:conditions")),
    **dict.fromkeys(
        (
            ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("apiregistration.k8s.io", "APIService"),
            ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
            ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
            ("networking.k8s.io", "ServiceCIDR"),
            ("resource.k8s.io", "ResourceClaim"),
            ("storage.k8s.io", "VolumeAttachment"),
        ),
        (_SPEC, _METADATA),
    ),
}

# Subresources that let through these paths alone.
_ONLY: Final[dict[str, tuple[Path, ...]]] = {
    "ephemeralcontainers": (("f:spec", "f:ephemeralContainers"),),
    "resize": tuple(
        ("f:spec", group, ANY, field)
        for group in ("f:containers", "f:initContainers")
        for field in ("f:resources", "f:resizePolicy")
    ),
}
_EXCEPT: Final[dict[str, tuple[Path, ...]]] = {
    "finalize": (_STATUS,),
    "approval": (_SPEC, ("f:status", "f:certificate")),
}


def on_create(row: Resource) -> tuple[str, ...]:
    """First-level fields that the creator of an object does not own."""
    return _PLAIN.get((row.group, row.kind)) or (("status",) if row.has_status else ())


def kept(row: Resource, subresource: str, *, custom: bool = False) -> Filter:
    """What is left of a set after the endpoint's reset. `custom`: the kind is a custom resource."""
    return _kept(row.group, row.kind, subresource, row.has_status, custom)


@cache
def _kept(group: str, kind: str, subresource: str, has_status: bool, custom: bool) -> Filter:
    if subresource in _ONLY:
        return _only(*_ONLY[subresource])
    if subresource == "status":
        if custom:
            return _only(_STATUS)
        return _except(*_BY_STATUS.get((group, kind), (_SPEC,)))
    if subresource in _EXCEPT:
        return _except(*_EXCEPT[subresource])
    plain = _PLAIN.get((group, kind)) or (("status",) if has_status and not subresource else ())
    return _except(*((f"f:{name}",) for name in plain))


def _only(*paths: Path) -> Filter:
    return lambda found: fields.within(found, *paths)


def _except(*paths: Path) -> Filter:
    reset: Fields = fields.of(*paths)
    return lambda found: fields.without(found, reset) if found else found
