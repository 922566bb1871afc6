"""FlowSchema and PriorityLevelConfiguration (KEP-1040): who waits with whom, and how many of each are served at once."""

from __future__ import annotations

import math
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, not_supported, required
from sampan.kube.objects import metadata
from sampan.kube.objects import name as name_of
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "flowcontrol.apiserver.k8s.io"
EXEMPT, CATCH_ALL = "exempt", "catch-all"
# How v1beta3 said that a level wants no shares at all.
_PRESERVE_ZERO: Final = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"
_MAX_PRECEDENCE: Final = 10_000
_MAX_QUEUES: Final = 10_000_000
_HASH_BITS: Final = 60  # a hand of queues is dealt out of one 64-bit hash
_VERBS: Final = (
    "create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch",
)  # fmt: skip
_DISTINGUISHERS: Final = ("ByNamespace", "ByUser")
_SUBJECTS: Final = {"ServiceAccount": "serviceAccount", "User": "user", "Group": "group"}
_NOT_NEGATIVE: Final = "must be a non-negative integer"

# What every cluster has, so that nobody can lock out its masters.
_EVERYTHING: Final[Object] = {
    "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": True,
         "namespaces": ["*"]}
    ],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
}  # fmt: skip


def _groups(*found: str) -> list[Object]:
    return [{"kind": "Group", "group": {"name": name}} for name in found]


_FIXED_SCHEMAS: Final[dict[str, Object]] = {
    EXEMPT: {
        "priorityLevelConfiguration": {"name": EXEMPT},
        "matchingPrecedence": 1,
        "rules": [{"subjects": _groups("system:masters"), **_EVERYTHING}],
    },
    CATCH_ALL: {
        "priorityLevelConfiguration": {"name": CATCH_ALL},
        "matchingPrecedence": _MAX_PRECEDENCE,
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [
            {
                "subjects": _groups("system:unauthenticated", "system:authenticated"),
                **_EVERYTHING,
            }
        ],
    },
}
_FIXED_LEVELS: Final[dict[str, Object]] = {
    EXEMPT: {"type": "Exempt"},  # its shares may be changed
    CATCH_ALL: {
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 5,
            "lendablePercent": 0,
            "limitResponse": {"type": "Reject"},
        },
    },
}


def _fixed(spec: Object, name: str, fixed: dict[str, Object], causes: Causes) -> None:
    if name in fixed and spec != fixed[name]:
        but = " except the 'spec.exempt' field" if name == EXEMPT and "type" in spec else ""
        text = f"spec of '{name}'{but} must equal the fixed value"
        causes.append(invalid_value("spec", spec, text))


def _schema(found: Object, causes: Causes) -> None:
    spec, name = found.get("spec") or {}, name_of(found)
    precedence, path = spec.get("matchingPrecedence") or 0, "spec.matchingPrecedence"
    if precedence <= 0:
        causes.append(invalid_value(path, precedence, "must be a positive value"))
    if precedence > _MAX_PRECEDENCE:
        text = f"must not be greater than {_MAX_PRECEDENCE}"
        causes.append(invalid_value(path, precedence, text))
    if precedence == 1 and name != EXEMPT:
        text = "only the schema named 'exempt' may have matchingPrecedence 1"
        causes.append(invalid_value(path, precedence, text))
    if (method := spec.get("distinguisherMethod")) is not None:
        kind = method.get("type") or ""
        if kind not in _DISTINGUISHERS:
            causes.append(not_supported("spec.distinguisherMethod.type", kind, _DISTINGUISHERS))
    level = (spec.get("priorityLevelConfiguration") or {}).get("name")
    rules.required_name(
        causes,
        "spec.priorityLevelConfiguration.name",
        level,
        names.dns1123_subdomain,
        "must reference a priority level",
    )
    for index, rule in enumerate(spec.get("rules") or ()):
        _rule(rule, causes, f"spec.rules[{index}]")
    _fixed(spec, name, _FIXED_SCHEMAS, causes)


def _rule(rule: Object, causes: Causes, path: str) -> None:
    if not rule.get("subjects"):
        causes.append(required(f"{path}.subjects", "subjects must contain at least one value"))
    for index, subject in enumerate(rule.get("subjects") or ()):
        _subject(subject, causes, f"{path}.subjects[{index}]")
    resources, paths = rule.get("resourceRules") or [], rule.get("nonResourceRules") or []
    if not resources and not paths:
        text = "at least one of resourceRules and nonResourceRules has to be non-empty"
        causes.append(required(path, text))
    for index, each in enumerate(resources):
        _resource_rule(each, causes, f"{path}.resourceRules[{index}]")
    for index, each in enumerate(paths):
        _path_rule(each, causes, f"{path}.nonResourceRules[{index}]")


def _subject(subject: Object, causes: Causes, path: str) -> None:
    kind = subject.get("kind") or ""
    if kind not in _SUBJECTS:
        causes.append(not_supported(f"{path}.kind", kind, sorted(_SUBJECTS)))
        return
    mine = _SUBJECTS[kind]
    value, where = subject.get(mine), f"{path}.{mine}"
    if value is None:
        text = f"{mine} is required when subject kind is '{kind}'"
        causes.append(required(where, text))
    else:
        _named(value, causes, where, account=kind == "ServiceAccount")
    for other, field in _SUBJECTS.items():
        if field != mine and subject.get(field) is not None:
            text = f"{field} is forbidden when subject kind is not '{other}'"
            causes.append(forbidden_field(f"{path}.{field}", text))


def _named(value: Object, causes: Causes, path: str, *, account: bool) -> None:
    name = value.get("name") or ""
    if not name:
        causes.append(required(f"{path}.name"))
    elif account and name != "*":
        rules.name(causes, f"{path}.name", name, names.dns1123_subdomain)
    if account:
        space, text = value.get("namespace"), "must specify namespace for service account"
        rules.required_name(causes, f"{path}.namespace", space, names.dns1123_label, text)


def _alone(values: list[str], causes: Causes, path: str, what: str) -> None:
    """A wildcard says all; beside it there is nothing to say."""
    if "*" in values and len(values) > 1:
        text = f"if '*' is present, must not specify other {what}"
        causes.append(invalid_value(path, values, text))


def _verbs(verbs: list[str], causes: Causes, path: str) -> None:
    if not verbs:
        causes.append(required(path, "verbs must contain at least one value"))
    elif "*" in verbs:
        _alone(verbs, causes, path, "verbs")
    elif not set(verbs) <= set(_VERBS):
        causes.append(not_supported(path, verbs, _VERBS))


def _resource_rule(rule: Object, causes: Causes, path: str) -> None:
    _verbs(rule.get("verbs") or [], causes, f"{path}.verbs")
    for field, one, several in (
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ):
        values = rule.get(field) or []
        if not values:
            text = f"resource rules must supply at least one {one}"
            causes.append(required(f"{path}.{field}", text))
        _alone(values, causes, f"{path}.{field}", several)
    spaces, where = rule.get("namespaces") or [], f"{path}.namespaces"
    if not spaces and not rule.get("clusterScope"):
        text = "resource rules that are not cluster scoped must supply at least one namespace"
        causes.append(required(where, text))
    if "*" in spaces:
        _alone(spaces, causes, where, "namespaces")
        return
    for index, space in enumerate(spaces):
        for reason in names.dns1123_label(space):
            text = f"each member of this list must be '*' or a DNS-1123 label; {reason}"
            causes.append(invalid_value(f"{where}[{index}]", space, text))


def _path_rule(rule: Object, causes: Causes, path: str) -> None:
    _verbs(rule.get("verbs") or [], causes, f"{path}.verbs")
    urls, where = rule.get("nonResourceURLs") or [], f"{path}.nonResourceURLs"
    if not urls:
        causes.append(required(where, "nonResourceURLs must contain at least one value"))
    elif "*" in urls:
        _alone(urls, causes, where, "non-resource URLs")
    else:
        for index, url in enumerate(urls):
            if reason := _bad_url(url):
                causes.append(invalid_value(f"{where}[{index}]", url, reason))


def _bad_url(url: str) -> str:
    if not url:
        return "must not be empty"
    if not url.startswith("/"):
        return "must start with slash"
    if " " in url:
        return "must not contain white-space"
    if "//" in url:
        return "must not contain double slash"
    stars = url.count("*")
    if stars > 1 or (stars == 1 and not url.endswith("/*")):
        return "wildcard can only do suffix matching"
    return ""


# --- levels -----------------------------------------------------------------------------------------


def _level(found: Object, causes: Causes) -> None:
    spec, name = found.get("spec") or {}, name_of(found)
    kind, limited, exempt = spec.get("type") or "", spec.get("limited"), spec.get("exempt")
    if _PRESERVE_ZERO in (metadata(found).get("annotations") or {}):
        text = f"annotation '{_PRESERVE_ZERO}' is forbidden"
        causes.append(forbidden_field("metadata.annotations", text))
    if (name == EXEMPT) != (kind == "Exempt"):
        text = "must be 'Exempt' if and only if `name` is 'exempt'"
        causes.append(invalid_value("spec.type", kind, text))
    if kind == "Exempt":
        if exempt is not None:
            _shares(exempt, causes, "spec.exempt")
        if limited is not None:
            text = "must be nil if the type is not Limited"
            causes.append(forbidden_field("spec.limited", text))
    elif kind == "Limited":
        if exempt is not None:
            causes.append(forbidden_field("spec.exempt", "must be nil if the type is Limited"))
        if limited is None:
            causes.append(required("spec.limited", "must not be empty when type is Limited"))
        else:
            _limited(limited, causes, "spec.limited")
    else:
        causes.append(not_supported("spec.type", kind, ("Exempt", "Limited")))
    fixed = {key: value for key, value in spec.items() if key != "exempt"}
    _fixed(fixed, name, _FIXED_LEVELS, causes)


def _shares(found: Object, causes: Causes, path: str) -> None:
    shares, lendable = found.get("nominalConcurrencyShares"), found.get("lendablePercent")
    if shares is not None and shares < 0:
        causes.append(invalid_value(f"{path}.nominalConcurrencyShares", shares, _NOT_NEGATIVE))
    if lendable is not None and not 0 <= lendable <= 100:
        text = "must be between 0 and 100, inclusive"
        causes.append(invalid_value(f"{path}.lendablePercent", lendable, text))


def _limited(limited: Object, causes: Causes, path: str) -> None:
    _shares(limited, causes, path)
    borrowing = limited.get("borrowingLimitPercent")
    if borrowing is not None and borrowing < 0:
        text = "if specified, must be a non-negative integer"
        causes.append(invalid_value(f"{path}.borrowingLimitPercent", borrowing, text))
    response = limited.get("limitResponse") or {}
    kind, queuing = response.get("type") or "", response.get("queuing")
    where = f"{path}.limitResponse"
    if kind == "Reject":
        if queuing is not None:
            text = "must be nil if limited.limitResponse.type is not Limited"
            causes.append(forbidden_field(f"{where}.queuing", text))
    elif kind == "Queue":
        if queuing is None:
            text = "must not be empty if limited.limitResponse.type is Limited"
            causes.append(required(f"{where}.queuing", text))
        else:
            _queuing(queuing, causes, f"{where}.queuing")
    else:
        causes.append(not_supported(f"{where}.type", kind, ("Queue", "Reject")))


def _queuing(queuing: Object, causes: Causes, path: str) -> None:
    def positive(field: str) -> int:
        value: int = queuing.get(field) or 0
        if value <= 0:
            causes.append(invalid_value(f"{path}.{field}", value, "must be positive"))
        return value

    positive("queueLengthLimit")
    queues, hand = positive("queues"), positive("handSize")
    if queues > _MAX_QUEUES:
        text = f"must not be greater than {_MAX_QUEUES}"
        causes.append(invalid_value(f"{path}.queues", queues, text))
    if hand <= 0:
        return
    if hand > queues:
        text = f"should not be greater than queues ({queues})"
        causes.append(invalid_value(f"{path}.handSize", hand, text))
    elif math.ceil(math.log2(queues) * hand) > _HASH_BITS:
        text = (
            f"required entropy bits of deckSize {queues} and handSize {hand} should not be greater "
            f"than {_HASH_BITS}"
        )
        causes.append(invalid_value(f"{path}.handSize", hand, text))


def _status(new: Object, old: Object, causes: Causes) -> None:
    seen: set[Any] = set()
    for index, condition in enumerate((new.get("status") or {}).get("conditions") or ()):
        path, kind = f"status.conditions[{index}].type", condition.get("type") or ""
        if kind in seen:
            causes.append(duplicate(path, kind))
        seen.add(kind)
        if not kind:
            causes.append(required(path, "must not be empty"))


RULES = {
    (GROUP, "FlowSchema"): Rules(_schema, namespaced=False, status=_status),
    (GROUP, "PriorityLevelConfiguration"): Rules(_level, namespaced=False, status=_status),
}
