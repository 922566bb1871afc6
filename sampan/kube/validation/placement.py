"""Where a pod may run: node selectors, affinity, tolerations and topology spread."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UNSATISFIABLE: Final = frozenset(("DoNotSchedule", "ScheduleAnyway"))
_HONOR: Final = frozenset(("Honor", "Ignore"))
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def affinity(found: Object, causes: Causes, path: str) -> None:
    if node := found.get("nodeAffinity"):
        _node_affinity(node, causes, f"{path}.nodeAffinity")
    for field in ("podAffinity", "podAntiAffinity"):
        if pods := found.get(field):
            _pod_affinity(pods, causes, f"{path}.{field}")


def _weight(item: Object, causes: Causes, path: str) -> None:
    weight = item.get("weight") or 0
    if not 1 <= weight <= 100:
        causes.append(invalid_value(f"{path}.weight", weight, "must be in the range 1-100"))


def _node_affinity(found: Object, causes: Causes, path: str) -> None:
    if (selector := found.get(_REQUIRED)) is not None:
        node_selector(selector, causes, f"{path}.{_REQUIRED}")
    for index, item in enumerate(found.get(_PREFERRED) or ()):
        where = f"{path}.{_PREFERRED}[{index}]"
        _weight(item, causes, where)
        # A value that no label can have is let through: it prefers nothing, and harms nothing.
        _node_term(item.get("preference") or {}, causes, f"{where}.preference", values=False)


def node_selector(selector: Object, causes: Causes, path: str) -> None:
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        text = "must have at least one node selector term"
        causes.append(required(f"{path}.nodeSelectorTerms", text))
    for index, term in enumerate(terms):
        _node_term(term, causes, f"{path}.nodeSelectorTerms[{index}]", values=True)


def _node_term(term: Object, causes: Causes, path: str, *, values: bool) -> None:
    for index, item in enumerate(term.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        _node_requirement(item, causes, where)
        rules.name(causes, f"{where}.key", item.get("key") or "", names.label_key)
        for at, value in enumerate(item.get("values") or ()) if values else ():
            rules.name(causes, f"{where}.values[{at}]", value, names.label_value)
    for index, item in enumerate(term.get("matchFields") or ()):
        where = f"{path}.matchFields[{index}]"
        chosen = item.get("values") or []
        if item.get("operator") not in ("In", "NotIn"):
            text = "not a valid selector operator"
            causes.append(invalid_value(f"{where}.operator", item.get("operator") or "", text))
        elif len(chosen) != 1:
            text = (
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
            causes.append(required(f"{where}.values", text))
        if item.get("key") != "metadata.name":
            text = "not a valid field selector key"
            causes.append(invalid_value(f"{where}.key", item.get("key") or "", text))
        else:
            for at, value in enumerate(chosen):
                rules.name(causes, f"{where}.values[{at}]", value, names.dns1123_subdomain)


def _node_requirement(item: Object, causes: Causes, path: str) -> None:
    values, operator = item.get("values") or [], item.get("operator") or ""
    match operator:
        case "In" | "NotIn":
            if not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                causes.append(required(f"{path}.values", text))
        case "Exists" | "DoesNotExist":
            if values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                causes.append(forbidden_field(f"{path}.values", text))
        case "Gt" | "Lt":
            if len(values) != 1:
                text = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                causes.append(required(f"{path}.values", text))
        case _:
            text = "not a valid selector operator"
            causes.append(invalid_value(f"{path}.operator", operator, text))


def _pod_affinity(found: Object, causes: Causes, path: str) -> None:
    for index, term in enumerate(found.get(_REQUIRED) or ()):
        _pod_term(term, causes, f"{path}.{_REQUIRED}[{index}]")
    for index, item in enumerate(found.get(_PREFERRED) or ()):
        where = f"{path}.{_PREFERRED}[{index}]"
        _weight(item, causes, where)
        _pod_term(item.get("podAffinityTerm") or {}, causes, f"{where}.podAffinityTerm")


def _pod_term(term: Object, causes: Causes, path: str) -> None:
    selector = term.get("labelSelector")
    rules.label_selector(causes, f"{path}.labelSelector", selector)
    rules.label_selector(causes, f"{path}.namespaceSelector", term.get("namespaceSelector"))
    for namespace in term.get("namespaces") or ():
        rules.name(causes, f"{path}.namespace", namespace, names.dns1123_label)
    if term.get("matchLabelKeys") or term.get("mismatchLabelKeys"):
        _label_keys(term, selector, causes, path)
    topology = term.get("topologyKey") or ""
    if not topology:
        causes.append(required(f"{path}.topologyKey", "can not be empty"))
    rules.name(causes, f"{path}.topologyKey", topology, names.label_key)


def _label_keys(term: Object, selector: Object | None, causes: Causes, path: str) -> None:
    """KEP-3633: keys whose value is the new pod's own, which the selector must not name as well."""
    same, other = term.get("matchLabelKeys") or [], term.get("mismatchLabelKeys") or []
    for field, keys in (("matchLabelKeys", same), ("mismatchLabelKeys", other)):
        if keys and selector is None:
            text = "must not be specified when labelSelector is not set"
            causes.append(forbidden_field(f"{path}.{field}", text))
        elif keys:
            for index, key in enumerate(keys):
                rules.name(causes, f"{path}.{field}[{index}]", key, names.label_key)
    # What the keys stand for has been merged into the selector: a key found twice was in it before.
    seen = set((selector or {}).get("matchLabels") or ())
    for item in (selector or {}).get("matchExpressions") or ():
        key = item.get("key")
        if key in same and key in seen:
            text = "exists in both matchLabelKeys and labelSelector"
            causes.append(invalid_value(f"{path}[{same.index(key)}]", key, text))
        seen.add(key)
    for index, key in enumerate(same):
        if key in other:
            text = "exists in both matchLabelKeys and mismatchLabelKeys"
            causes.append(invalid_value(f"{path}.matchLabelKeys[{index}]", key, text))


def tolerations(found: list[Object], causes: Causes, path: str) -> None:
    for index, item in enumerate(found):
        where = f"{path}[{index}]"
        key, operator = item.get("key") or "", item.get("operator") or ""
        value, effect = item.get("value") or "", item.get("effect") or ""
        if key:
            rules.name(causes, f"{where}.key", key, names.label_key)
        elif operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            causes.append(invalid_value(f"{where}.operator", operator, text))
        if item.get("tolerationSeconds") is not None and effect != "NoExecute":
            text = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            causes.append(invalid_value(f"{where}.effect", effect, text))
        match operator:
            case "Equal" | "":
                if reasons := names.label_value(value):
                    causes.append(invalid_value(f"{where}.operator", value, ";".join(reasons)))
            case "Exists":
                if value:
                    text = "value must be empty when `operator` is 'Exists'"
                    causes.append(invalid_value(f"{where}.operator", value, text))
            case _:
                # The two that compare numbers are known, and behind a gate that is off (KEP-5471).
                known = ("Equal", "Exists", "Lt", "Gt")
                allowed = known if operator in known else known[:2]
                causes.append(not_supported(f"{where}.operator", operator, allowed))
        if effect and effect not in EFFECTS:
            causes.append(not_supported(f"{where}.effect", effect, EFFECTS))


def taints(found: list[Object], causes: Causes, path: str) -> None:
    seen = set()
    for index, taint in enumerate(found):
        where = f"{path}[{index}]"
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        rules.name(causes, f"{where}.key", key, names.label_key)
        if reasons := names.label_value(taint.get("value") or ""):
            causes.append(invalid_value(f"{where}.value", taint["value"], ";".join(reasons)))
        rules.listed(causes, f"{where}.effect", effect, EFFECTS)
        if (key, effect) in seen:
            text = "taints must be unique by key and effect pair"
            causes.append(duplicate(where, taint, text))
        seen.add((key, effect))


def topology_spread(found: list[Object], causes: Causes, path: str) -> None:
    pairs = [(item.get("topologyKey") or "", item.get("whenUnsatisfiable") or "") for item in found]
    for index, item in enumerate(found):
        where = f"{path}[{index}]"
        topology, action = pairs[index]
        selector, keys = item.get("labelSelector"), item.get("matchLabelKeys") or []
        rules.positive(causes, f"{where}.maxSkew", item.get("maxSkew") or 0)
        if not topology:
            causes.append(required(f"{where}.topologyKey", "can not be empty"))
        if action not in _UNSATISFIABLE:
            allowed = sorted(_UNSATISFIABLE)
            causes.append(not_supported(f"{where}.whenUnsatisfiable", action, allowed))
        if pairs[index] in pairs[index + 1 :]:
            path_of_pair = f"{where}.{{topologyKey, whenUnsatisfiable}}"
            causes.append(duplicate(path_of_pair, f"{{{topology}, {action}}}"))
        if (domains := item.get("minDomains")) is not None:
            rules.positive(causes, f"{where}.minDomains", domains)
            if action != "DoNotSchedule":
                text = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                causes.append(invalid_value(f"{where}.minDomains", domains, text))
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            rules.optional_choice(causes, f"{where}.{field}", item.get(field), _HONOR)
        if keys and selector is None:
            text = "must not be specified when labelSelector is not set"
            causes.append(forbidden_field(f"{where}.matchLabelKeys", text))
        for at, key in enumerate(keys):
            rules.name(causes, f"{where}.matchLabelKeys[{at}]", key, names.label_key)
            if _selected_keys(selector).count(key) > 1:  # once is the strategy's own (KEP-3243)
                text = "exists in both matchLabelKeys and labelSelector"
                causes.append(invalid_value(f"{where}[{at}]", key, text))
        rules.label_selector(causes, f"{where}.labelSelector", selector)


def _selected_keys(selector: Object | None) -> list[str]:
    selector = selector or {}
    listed = [item.get("key") or "" for item in selector.get("matchExpressions") or ()]
    return [*listed, *(selector.get("matchLabels") or ())]
