"""What the validators are written with: small checks that append causes to a list.

Every function takes the list, the field's path and the value. A path is text (`spec.containers[0].name`), built where it
is needed, because building it costs less than carrying a structure.
"""

# No `from __future__ import annotations` here: it would take the name of `annotations` below.
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sampan.kube import names, quantity
from sampan.kube.errors import (
    Cause,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
)
from sampan.kube.validation.ratchet import Kept

Object = dict[str, Any]
Causes = list[Cause]

NOT_NEGATIVE: Final = "must be greater than or equal to 0"
IMMUTABLE: Final = "field is immutable"
NO_FIELD: Final = "[]"  # as Kubernetes prints the path to a whole object
ANNOTATIONS_MAX: Final = 256 * 1024
_SELECTOR_VALUES = "must be specified when `operator` is 'In' or 'NotIn'"
_SELECTOR_NO_VALUES = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"


@dataclass(frozen=True, slots=True)
class Rules:
    """How one kind is validated. `create` also holds for updates; `update` adds what may not change."""

    create: Callable[[Object, Causes], None] | None = None
    update: Callable[[Object, Object, Causes], None] | None = None
    name: Callable[[str], list[str]] = names.dns1123_subdomain
    namespaced: bool = True
    # Status updates: what the status subresource checks beyond metadata.
    status: Callable[[Object, Object, Causes], None] | None = None
    # Checked of a new object only: what was written before the rule may stay.
    first: Callable[[Object, Causes], None] | None = None
    # `update` checks all that there is: `create` does not hold for what was valid once.
    update_is_whole: bool = False
    # What may stay as it was, though it is wrong now.
    kept: tuple[Kept, ...] = ()


def name(causes: Causes, path: str, value: Any, rule: Callable[[Any], list[str]]) -> None:
    causes.extend(invalid_value(path, value, reason) for reason in rule(value))


def required_name(
    causes: Causes, path: str, value: Any, rule: Callable[[Any], list[str]], detail: str = ""
) -> None:
    if not value:
        causes.append(required(path, detail))
    elif reasons := rule(value):
        causes.extend(invalid_value(path, value, reason) for reason in reasons)


def choice(causes: Causes, path: str, value: Any, allowed: Collection[str]) -> None:
    """An enum that must be there."""
    if not value:
        causes.append(required(path))
    elif value not in allowed:
        causes.append(not_supported(path, value, sorted(allowed)))


def listed(causes: Causes, path: str, value: Any, allowed: tuple[str, ...]) -> None:
    """As `choice`, with the values named in their own order."""
    if not value:
        causes.append(required(path))
    elif value not in allowed:
        causes.append(not_supported(path, value, allowed))


def optional_choice(causes: Causes, path: str, value: Any, allowed: Collection[str]) -> None:
    if value and value not in allowed:
        causes.append(not_supported(path, value, sorted(allowed)))


def not_negative(causes: Causes, path: str, value: int | None) -> None:
    if value is not None and value < 0:
        causes.append(invalid_value(path, value, NOT_NEGATIVE))


def positive(causes: Causes, path: str, value: int | None) -> None:
    if value is not None and value <= 0:
        causes.append(invalid_value(path, value, "must be greater than zero"))


def between(causes: Causes, path: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        causes.append(invalid_value(path, value, names.in_range(low, high)))


def port_or_name(causes: Causes, path: str, value: Any) -> None:
    if isinstance(value, str):
        name(causes, path, value, names.port_name)
    else:
        name(causes, path, value or 0, names.port_number)


def int_or_percent(causes: Causes, path: str, value: Any) -> None:
    """A count or "25%": not negative."""
    if isinstance(value, str):
        name(causes, path, value, names.percent)
    else:
        not_negative(causes, path, value)


def percent_of(value: Any) -> int | None:
    """25 for "25%"; None for a count."""
    is_percent = isinstance(value, str) and value.endswith("%") and value[:-1].isdecimal()
    return int(value[:-1]) if is_percent else None


def at_most_hundred_percent(causes: Causes, path: str, value: Any) -> None:
    share = percent_of(value)
    if share is not None and share > 100:
        causes.append(invalid_value(path, value, "must not be greater than 100%"))


def unique(causes: Causes, path: str, values: Iterable[Any]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            causes.append(duplicate(f"{path}[{index}]", value))
        seen.add(value)


def immutable(causes: Causes, path: str, new: Any, old: Any, detail: str = IMMUTABLE) -> None:
    if new != old:
        causes.append(invalid_value(path, new, detail))


def labels(causes: Causes, path: str, values: Mapping[str, str] | None) -> None:
    for key, value in (values or {}).items():
        if reasons := names.label_key(key):
            causes.extend(invalid_value(path, key, reason) for reason in reasons)
        if reasons := names.label_value(value):
            causes.extend(invalid_value(path, value, reason) for reason in reasons)


def annotations(causes: Causes, path: str, values: Mapping[str, str] | None) -> None:
    size = 0
    for key, value in (values or {}).items():
        if reasons := names.annotation_key(key):
            causes.extend(invalid_value(path, key, reason) for reason in reasons)
        size += utf8_size(key) + utf8_size(value)
    if size > ANNOTATIONS_MAX:
        causes.append(too_long(path, "", ANNOTATIONS_MAX))


def utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def label_selector(causes: Causes, path: str, selector: Object | None) -> None:
    if not selector:
        return
    labels(causes, f"{path}.matchLabels", selector.get("matchLabels"))
    for index, item in enumerate(selector.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        values = item.get("values") or []
        operator = item.get("operator") or ""
        if operator in ("In", "NotIn"):
            if not values:
                causes.append(required(f"{where}.values", _SELECTOR_VALUES))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                causes.append(forbidden_field(f"{where}.values", _SELECTOR_NO_VALUES))
        else:
            causes.append(
                invalid_value(f"{where}.operator", operator, "not a valid selector operator")
            )
        name(causes, f"{where}.key", item.get("key") or "", names.label_key)
        for at, value in enumerate(values):
            name(causes, f"{where}.values[{at}]", value, names.label_value)


def is_empty_selector(selector: Object | None) -> bool:
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))


def parsed(amount: Any) -> quantity.Quantity:
    """Quantities have passed decoding; what an in-process caller got wrong counts as zero."""
    try:
        return quantity.parse(amount)
    except ValueError:
        return quantity.Quantity()
