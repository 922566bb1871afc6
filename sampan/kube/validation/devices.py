"""resource.k8s.io (KEP-4381): claims of devices, and the classes that they name. What drivers publish: `device_slices`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from sampan.kube import names
from sampan.kube.errors import (
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
)
from sampan.kube.validation import expressions, placement, resources, rules
from sampan.kube.validation.rules import Causes, Object, Rules
from sampan.kube.validation.volumes import driver_name

GROUP: Final = "resource.k8s.io"
MAX_ITEMS: Final = 32  # requests, constraints, configurations, selectors, results
_MAX_CHOICES: Final = 8  # firstAvailable
_MAX_RESERVED: Final = 256
_MAX_EXPRESSION: Final = 10 * 1024
_MAX_PARAMETERS: Final = 10 * 1024
_MAX_POOL: Final = 253
MAX_DOMAIN, MAX_ID = 63, 32
_MODES: Final = ("All", "ExactCount")
EFFECTS: Final = ("NoExecute", "NoSchedule", "None")
_OPERATORS: Final = ("Equal", "Exists")
_ONE_REQUEST: Final = "exactly one of `exactly` or `firstAvailable` is required"
_REFERENCE: Final = (
    "must be the name of a request in the claim or the name of a request and a subrequest "
    "separated by '/'"
)
_ONE_ATTRIBUTE: Final = (
    'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are '
    "set"
)
Check = Callable[[Any, Causes, str], None]


def each(items: list[Any] | None, most: int, check: Check, causes: Causes, path: str) -> bool:
    """Check every item unless there are too many, which is then all that is said."""
    if items and len(items) > most:
        causes.append(too_many(path, len(items), most))
        return False
    for index, item in enumerate(items or ()):
        check(item, causes, f"{path}[{index}]")
    return True


def unique_set(
    items: list[Any] | None,
    most: int,
    check: Check,
    causes: Causes,
    path: str,
    key: Callable[[Any], Any],
) -> None:
    if each(items, most, check, causes, path):
        rules.unique(causes, path, [key(item) for item in items or ()])


def name_of(item: Object) -> str:
    return item.get("name") or ""


def _itself(item: Any) -> Any:
    return item


def label(causes: Causes, path: str, value: Any) -> None:
    rules.name(causes, path, value or "", names.dns1123_label)


# --- names ------------------------------------------------------------------------------------------


def pool_name(name: str, causes: Causes, path: str) -> None:
    if not name:
        causes.append(required(path))
        return
    if len(name) > _MAX_POOL:
        causes.append(too_long(path, "", _MAX_POOL))
    for part in name.split("/"):
        rules.name(causes, path, part, names.dns1123_subdomain)


def qualified(name: str, causes: Causes, path: str) -> None:
    """`domain/identifier`, or an identifier in the driver's own domain."""
    parts = name.split("/")
    if len(parts) == 1:
        _identifier(name, causes, path)
    elif len(parts) == 2:
        domain, identifier = parts
        if not domain:
            causes.append(invalid_value(path, "", "the domain must not be empty"))
        else:
            if len(domain) > MAX_DOMAIN:
                causes.append(too_long(path, "", MAX_DOMAIN))
            rules.name(causes, path, domain, names.dns1123_subdomain)
        if not identifier:
            causes.append(invalid_value(path, "", "the name must not be empty"))
        else:
            _identifier(identifier, causes, path)


def _identifier(text: str, causes: Causes, path: str) -> None:
    if len(text) > MAX_ID:
        causes.append(too_long(path, "", MAX_ID))
    rules.name(causes, path, text, names.c_identifier)


def _fully_qualified(name: str, causes: Causes, path: str) -> None:
    qualified(name, causes, path)
    if "/" not in name:
        text = "a fully qualified name must be a domain and a name separated by a slash"
        causes.append(invalid_value(path, name, text))


# --- claims -----------------------------------------------------------------------------------------

Requests = dict[str, frozenset[str]]


def _requests(spec: Object) -> Requests:
    """The names of requests, and of the choices in them."""
    return {
        name_of(request): frozenset(map(name_of, request.get("firstAvailable") or ()))
        for request in (spec.get("devices") or {}).get("requests") or ()
    }


def _claim(claim: Object, causes: Causes) -> None:
    _claim_spec(claim.get("spec") or {}, causes, "spec")


def _template(template: Object, causes: Causes) -> None:
    spec = template.get("spec") or {}
    metadata = spec.get("metadata") or {}
    rules.annotations(causes, "spec.metadata.annotations", metadata.get("annotations"))
    rules.labels(causes, "spec.metadata.labels", metadata.get("labels"))
    _claim_spec(spec.get("spec") or {}, causes, "spec.spec")


def _immutable_spec(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "spec", new.get("spec"), old.get("spec"))


def _claim_spec(spec: Object, causes: Causes, path: str) -> None:
    devices, known = spec.get("devices") or {}, _requests(spec)
    path += ".devices"
    unique_set(devices.get("requests"), MAX_ITEMS, _request, causes, f"{path}.requests", name_of)

    def constraint(item: Object, causes: Causes, path: str) -> None:
        _references(item.get("requests"), known, causes, f"{path}.requests")
        same, distinct = item.get("matchAttribute"), item.get("distinctAttribute")
        if same is not None:
            _fully_qualified(same, causes, f"{path}.matchAttribute")
        elif distinct is not None:
            _fully_qualified(distinct, causes, f"{path}.distinctAttribute")
        else:
            causes.append(required(path, _ONE_ATTRIBUTE))

    def config(item: Object, causes: Causes, path: str) -> None:
        _references(item.get("requests"), known, causes, f"{path}.requests")
        _configuration(item, causes, path)

    each(devices.get("constraints"), MAX_ITEMS, constraint, causes, f"{path}.constraints")
    each(devices.get("config"), MAX_ITEMS, config, causes, f"{path}.config")


def _references(given: list[str] | None, known: Requests, causes: Causes, path: str) -> None:
    def check(name: str, causes: Causes, path: str) -> None:
        _reference(name, known, causes, path)

    unique_set(given, MAX_ITEMS, check, causes, path, _itself)


def _reference(name: str, known: Requests, causes: Causes, path: str) -> None:
    parts = name.split("/")
    if len(parts) > 2:
        causes.append(invalid_value(path, name, _REFERENCE))
        return
    for part in parts:
        label(causes, path, part)
    choices = known.get(parts[0])
    if choices is None or (len(parts) == 2 and parts[1] not in choices):
        causes.append(invalid_value(path, name, _REFERENCE))


def _request(request: Object, causes: Causes, path: str) -> None:
    label(causes, f"{path}.name", request.get("name"))
    exactly, choices = request.get("exactly"), request.get("firstAvailable")
    if exactly is None and not choices:
        causes.append(required(path, _ONE_REQUEST))
    elif exactly is not None and choices:
        text = f"{_ONE_REQUEST}, but multiple fields are set"
        causes.append(invalid_value(path, None, text))
    elif exactly is not None:
        _device_request(exactly, causes, f"{path}.exactly")
    else:
        where = f"{path}.firstAvailable"
        unique_set(choices, _MAX_CHOICES, _choice, causes, where, name_of)


def _choice(request: Object, causes: Causes, path: str) -> None:
    label(causes, f"{path}.name", request.get("name"))
    _device_request(request, causes, path)


def _device_request(request: Object, causes: Causes, path: str) -> None:
    class_name = request.get("deviceClassName")
    rules.required_name(causes, f"{path}.deviceClassName", class_name, names.dns1123_subdomain)
    each(request.get("selectors"), MAX_ITEMS, _selector, causes, f"{path}.selectors")
    mode, count = request.get("allocationMode") or "", request.get("count") or 0
    if mode == "All":
        if count:
            text = "must not be specified when allocationMode is 'All'"
            causes.append(invalid_value(f"{path}.count", count, text))
    elif mode == "ExactCount":
        if count <= 0:
            causes.append(invalid_value(f"{path}.count", count, "must be greater than zero"))
    else:
        causes.append(not_supported(f"{path}.allocationMode", mode, _MODES))
    for index, toleration in enumerate(request.get("tolerations") or ()):
        _toleration(toleration, causes, f"{path}.tolerations[{index}]")


def _toleration(toleration: Object, causes: Causes, path: str) -> None:
    if key := toleration.get("key"):
        rules.name(causes, f"{path}.key", key, names.label_key)
    operator, value = toleration.get("operator") or "", toleration.get("value") or ""
    if operator == "Exists":
        if value:
            text = "must be empty for operator `Exists`"
            causes.append(invalid_value(f"{path}.value", value, text))
    elif operator == "Equal":
        rules.name(causes, f"{path}.value", value, names.label_value)
    else:
        rules.listed(causes, f"{path}.operator", operator, _OPERATORS)
    if effect := toleration.get("effect"):
        rules.listed(causes, f"{path}.effect", effect, EFFECTS)


def _selector(selector: Object, causes: Causes, path: str) -> None:
    cel = selector.get("cel")
    if cel is None:
        causes.append(required(f"{path}.cel"))
        return
    expression = cel.get("expression") or ""
    if len(expression) > _MAX_EXPRESSION:
        causes.append(too_long(f"{path}.cel.expression", "", _MAX_EXPRESSION))
        return
    from sampan.kube.cel.types import DYN  # brings the language, which few processes need

    expressions.compiles(causes, f"{path}.cel.expression", expression, {"device": DYN}, "bool")


def _configuration(config: Object, causes: Causes, path: str) -> None:
    opaque, where = config.get("opaque"), f"{path}.opaque"
    if opaque is None:
        causes.append(required(where))
        return
    driver_name(causes, f"{where}.driver", opaque.get("driver") or "")
    _raw(opaque.get("parameters"), _MAX_PARAMETERS, causes, f"{where}.parameters")


def _raw(value: Any, most: int, causes: Causes, path: str) -> None:
    """An object that only a driver understands."""
    if value is None:
        causes.append(required(path))
    elif len(orjson.dumps(value)) > most:
        causes.append(too_long(path, "", most))
    elif not isinstance(value, dict):
        causes.append(invalid_value(path, "<value omitted>", "must be a valid JSON object"))


# --- what was allocated -----------------------------------------------------------------------------


def _claim_status(new: Object, old: Object, causes: Causes) -> None:
    status, before = new.get("status") or {}, old.get("status") or {}
    reserved, path = status.get("reservedFor") or [], "status.reservedFor"
    unique_set(reserved, _MAX_RESERVED, _consumer, causes, path, lambda item: item.get("uid"))
    allocation, was = status.get("allocation"), before.get("allocation")
    given = ((allocation or {}).get("devices") or {}).get("results") or []
    allocated = {_device_id(result) for result in given}

    def device(item: Object, causes: Causes, path: str) -> None:
        driver_name(causes, f"{path}.driver", item.get("driver") or "")
        pool_name(item.get("pool") or "", causes, f"{path}.pool")
        label(causes, f"{path}.device", item.get("device"))
        if _device_id(item) not in allocated:
            text = "must be an allocated device in the claim"
            causes.append(invalid_value(path, "/".join(_device_id(item)), text))

    devices = status.get("devices") or []
    unique_set(devices, len(devices), device, causes, "status.devices", _device_id)
    if reserved and allocation is None:
        text = "may not be specified when `allocated` is not set"
        causes.append(forbidden_field(path, text))
    elif reserved and "deletionTimestamp" in (new.get("metadata") or {}):
        if any(item not in (before.get("reservedFor") or ()) for item in reserved):
            text = (
                "new entries may not be added while `deallocationRequested` or "
                "`deletionTimestamp` are set"
            )
            causes.append(forbidden_field(path, text))
    if allocation is not None and was is not None:
        rules.immutable(causes, "status.allocation", allocation, was)
    elif allocation is not None:
        _allocation(allocation, _requests(new.get("spec") or {}), causes, "status.allocation")


def _device_id(item: Object) -> tuple[str, ...]:
    share = item.get("shareID")
    found = (item.get("driver") or "", item.get("pool") or "", item.get("device") or "")
    return (*found, share) if share else found


def _consumer(item: Object, causes: Causes, path: str) -> None:
    for field in ("resource", "name", "uid"):
        if not item.get(field):
            causes.append(required(f"{path}.{field}"))


def _allocation(allocation: Object, known: Requests, causes: Causes, path: str) -> None:
    def result(item: Object, causes: Causes, path: str) -> None:
        _reference(item.get("request") or "", known, causes, f"{path}.request")
        driver_name(causes, f"{path}.driver", item.get("driver") or "")
        pool_name(item.get("pool") or "", causes, f"{path}.pool")
        label(causes, f"{path}.device", item.get("device"))

    def config(item: Object, causes: Causes, path: str) -> None:
        source = item.get("source") or ""
        rules.listed(causes, f"{path}.source", source, ("FromClaim", "FromClass"))
        _references(item.get("requests"), known, causes, f"{path}.requests")
        _configuration(item, causes, path)

    devices, where = allocation.get("devices") or {}, f"{path}.devices"
    each(devices.get("results"), MAX_ITEMS, result, causes, f"{where}.results")
    each(devices.get("config"), 2 * MAX_ITEMS, config, causes, f"{where}.config")
    if (selector := allocation.get("nodeSelector")) is not None:
        placement.node_selector(selector, causes, f"{path}.nodeSelector")


# --- classes ----------------------------------------------------------------------------------------


def _class(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    each(spec.get("selectors"), MAX_ITEMS, _selector, causes, "spec.selectors")
    each(spec.get("config"), MAX_ITEMS, _configuration, causes, "spec.config")
    name = spec.get("extendedResourceName")
    if name is not None and not resources.is_extended(name):
        text = "must be a valid extended resource name"
        causes.append(invalid_value("spec.extendedResourceName", name, text))


RULES = {
    (GROUP, "ResourceClaim"): Rules(None, _immutable_spec, first=_claim, status=_claim_status),
    (GROUP, "ResourceClaimTemplate"): Rules(None, _immutable_spec, first=_template),
    (GROUP, "DeviceClass"): Rules(_class, namespaced=False),
}
