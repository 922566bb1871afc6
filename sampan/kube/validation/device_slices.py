"""ResourceSlice: the devices that a driver offers, where they are, and what they share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    required,
    too_long,
    too_many,
)
from sampan.kube.validation import placement, rules
from sampan.kube.validation.devices import (
    EFFECTS,
    GROUP,
    MAX_DOMAIN,
    MAX_ID,
    MAX_ITEMS,
    each,
    label,
    name_of,
    pool_name,
    qualified,
    unique_set,
)
from sampan.kube.validation.ratchet import in_place
from sampan.kube.validation.rules import Causes, Object, Rules
from sampan.kube.validation.volumes import driver_name

_MAX_DEVICES, _MAX_COUNTED_DEVICES = 128, 64
_MAX_ATTRIBUTES: Final = 32  # and capacities, of one device
_MAX_TAINTS: Final = 16
_MAX_CONDITIONS: Final = 4
_MAX_COUNTER_SETS: Final = 8
_MAX_CONSUMED_SETS: Final = 2
_MAX_TEXT: Final = 64
_ONE_NODE_CHOICE: Final = (
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
)
_ONE_DEVICE_CHOICE: Final = (
    "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when "
    "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
)
_TRUE_OR_NOTHING: Final = "must be either unset or set to true"
_is_version = re.compile(
    r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
).fullmatch


def _slice(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    driver_name(causes, "spec.driver", spec.get("driver") or "")
    pool = spec.get("pool") or {}
    pool_name(pool.get("name") or "", causes, "spec.pool.name")
    rules.positive(causes, "spec.pool.resourceSliceCount", pool.get("resourceSliceCount") or 0)
    if (generation := pool.get("generation") or 0) < 0:
        text = "must be greater than or equal to zero"
        causes.append(invalid_value("spec.pool.generation", generation, text))
    chosen = _chosen_nodes(
        spec, causes, "spec", "must be either unset or set to a non-empty string"
    )
    if (selector := spec.get("nodeSelector")) is not None:
        terms = selector.get("nodeSelectorTerms") or []
        if len(terms) != 1:
            text = "must have exactly one node selector term"
            causes.append(invalid_value("spec.nodeSelector.nodeSelectorTerms", terms, text))
    per_device = spec.get("perDeviceNodeSelection")
    if per_device:
        chosen.append("`perDeviceNodeSelection`")
    elif per_device is not None:
        causes.append(invalid_value("spec.perDeviceNodeSelection", False, _TRUE_OR_NOTHING))
    if not chosen:
        causes.append(required("spec", _ONE_NODE_CHOICE))
    elif len(chosen) > 1:
        text = f"{_ONE_NODE_CHOICE}, but multiple fields are set"
        causes.append(invalid_value("spec", f"{{{', '.join(chosen)}}}", text))
    devices, counters = spec.get("devices"), spec.get("sharedCounters")
    if counters is not None and devices is not None:
        text = "only one of `sharedCounters` or `devices` is allowed"
        causes.append(invalid_value("spec", "", text))
    counted = any(each.get("taints") or each.get("consumesCounters") for each in devices or ())

    def device(item: Object, causes: Causes, path: str) -> None:
        _device(item, causes, path, per_device=bool(per_device))

    most = _MAX_COUNTED_DEVICES if counted else _MAX_DEVICES
    unique_set(devices, most, device, causes, "spec.devices", name_of)
    unique_set(counters, _MAX_COUNTER_SETS, _counter_set, causes, "spec.sharedCounters", name_of)


def _chosen_nodes(found: Object, causes: Causes, path: str, empty: str) -> list[str]:
    """Which of the ways to say on which nodes a device is were taken."""
    chosen = []
    node, selector, every = (found.get(key) for key in ("nodeName", "nodeSelector", "allNodes"))
    if node:
        chosen.append("`nodeName`")
        rules.name(causes, f"{path}.nodeName", node, names.dns1123_subdomain)
    elif node is not None:
        causes.append(invalid_value(f"{path}.nodeName", node, empty))
    if selector is not None:
        chosen.append("`nodeSelector`")
        placement.node_selector(selector, causes, f"{path}.nodeSelector")
    if every:
        chosen.append("`allNodes`")
    elif every is not None:
        causes.append(invalid_value(f"{path}.allNodes", every, _TRUE_OR_NOTHING))
    return chosen


def _slice_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    pool, was = ((spec.get("pool") or {}).get("name") for spec in (after, before))
    rules.immutable(causes, "spec.pool.name", pool, was)
    for field in ("driver", "nodeName"):
        rules.immutable(causes, f"spec.{field}", after.get(field), before.get(field))


def _device(device: Object, causes: Causes, path: str, *, per_device: bool) -> None:
    label(causes, f"{path}.name", device.get("name"))
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > _MAX_ATTRIBUTES:
        text = f"the total number of attributes and capacities must not exceed {_MAX_ATTRIBUTES}"
        causes.append(invalid_value(path, len(attributes) + len(capacity), text))
    for name, value in attributes.items():
        where = f"{path}.attributes[{_short(name)}]"
        qualified(name, causes, f"{path}.attributes")  # Kubernetes' path of a key is its map's
        _attribute(value, causes, where)
    for name, amount in capacity.items():
        where = f"{path}.capacity[{_short(name)}]"
        qualified(name, causes, f"{path}.capacity")
        if amount.get("requestPolicy") is not None and not device.get("allowMultipleAllocations"):
            text = "allowMultipleAllocations must be true"
            causes.append(forbidden_field(f"{where}.requestPolicy", text))
    each(device.get("taints"), _MAX_TAINTS, _taint, causes, f"{path}.taints")
    unique_set(
        device.get("consumesCounters"),
        _MAX_CONSUMED_SETS,
        _consumption,
        causes,
        f"{path}.consumesCounters",
        lambda item: item.get("counterSet"),
    )
    if per_device:
        chosen = _chosen_nodes(device, causes, path, "must not be empty")
        if not chosen:
            causes.append(required(path, _ONE_DEVICE_CHOICE))
        elif len(chosen) > 1:
            causes.append(invalid_value(path, f"{{{', '.join(chosen)}}}", _ONE_DEVICE_CHOICE))
    elif any(device.get(key) is not None for key in ("nodeName", "nodeSelector", "allNodes")):
        text = (
            "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
            "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        )
        causes.append(invalid_value(path, None, text))
    _binding_conditions(device, causes, path)


def _short(key: str) -> str:
    most = MAX_DOMAIN + 1 + MAX_ID
    return key if len(key) <= most else f"{key[: most // 2 - 1]}...{key[-(most // 2 - 2) :]}"


def _attribute(value: Object, causes: Causes, path: str) -> None:
    given = [key for key in ("bool", "int", "string", "version") if value.get(key) is not None]
    for key in ("string", "version"):
        text = value.get(key)
        if key == "version" and text is not None and not _is_version(text):
            reason = "must be a string compatible with semver.org spec 2.0.0"
            causes.append(invalid_value(f"{path}.version", text, reason))
        if text is not None and len(text) > _MAX_TEXT:
            causes.append(too_long(f"{path}.{key}", "", _MAX_TEXT))
    if len(given) != 1:
        shown: Any = value if given else ""
        causes.append(invalid_value(path, shown, "exactly one value must be specified"))


def _taint(taint: Object, causes: Causes, path: str) -> None:
    rules.name(causes, f"{path}.key", taint.get("key") or "", names.label_key)
    rules.name(causes, f"{path}.value", taint.get("value") or "", names.label_value)
    rules.listed(causes, f"{path}.effect", taint.get("effect"), EFFECTS)


def _counter_set(found: Object, causes: Causes, path: str) -> None:
    rules.required_name(causes, f"{path}.name", found.get("name"), names.dns1123_label)
    _counters(found, causes, path)


def _consumption(found: Object, causes: Causes, path: str) -> None:
    name = found.get("counterSet")
    rules.required_name(causes, f"{path}.counterSet", name, names.dns1123_label)
    _counters(found, causes, path)


def _counters(found: Object, causes: Causes, path: str) -> None:
    counters: Iterable[str] = found.get("counters") or ()
    if not counters:
        causes.append(required(f"{path}.counters"))
    elif len(found["counters"]) > MAX_ITEMS:
        causes.append(too_many(f"{path}.counters", len(found["counters"]), MAX_ITEMS))
    else:
        for name in counters:
            label(causes, f"{path}.counters", name)


def _binding_conditions(device: Object, causes: Causes, path: str) -> None:
    """What must come true, or must not, before a pod may start with the device."""
    seen: set[str] = set()
    one, other = "bindingConditions", "bindingFailureConditions"
    for field in (one, other):
        mine: set[str] = set()
        if len(device.get(field) or ()) > _MAX_CONDITIONS:
            causes.append(too_many(f"{path}.{field}", len(device[field]), _MAX_CONDITIONS))
        for index, condition in enumerate(device.get(field) or ()):
            where = f"{path}.{field}[{index}]"
            rules.name(causes, where, condition, names.label_key)
            if condition in mine:
                causes.append(duplicate(where, condition))
            elif condition in seen:
                text = "bindingFailureConditions must not overlap with bindingConditions"
                causes.append(invalid_value(where, condition, text))
            mine.add(condition)
        seen |= mine
    for missing, given in ((one, other), (other, one)):
        if device.get(given) and not device.get(missing):
            text = f"{missing} are required to use {given}"
            causes.append(invalid_value(f"{path}.{missing}", device.get(missing), text))


_KEPT: Final = (in_place(r"spec\.devices\[\d+\]\.taints\[\d+\]\.effect$"),)

RULES = {(GROUP, "ResourceSlice"): Rules(_slice, _slice_update, namespaced=False, kept=_KEPT)}
