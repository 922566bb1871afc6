"""Values against the validating keywords of a schema: type, bounds, enum, pattern, required, allOf …

Order and wording are those of kube-openapi's validator as apiextensions reports them, because users search for these
sentences: `spec.replicas in body should be less than or equal to 10`. A node's keywords are gathered into `Checks` when the
first value meets it. On an update an error in a part that did not change is forgiven (ratcheting, KEP-4008): the old value
travels beside the new one as far as the two can be matched, and `MISSING` stands for "no old value to compare with".
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sampan.kube import errors
from sampan.kube.errors import Cause
from sampan.kube.structural import formats, patterns
from sampan.kube.structural.node import Node, Raw

MISSING: Final = object()
INT32: Final = 2**31
NOWHERE: Final = "<nil>"  # the path of errors that Kubernetes reports without one
Causes = list[Cause]


class Checks:
    """The validating keywords of one schema."""

    __slots__ = (
        "all_of",
        "any_of",
        "bounded",
        "enum",
        "exclusive_maximum",
        "exclusive_minimum",
        "forbids_others",
        "format",
        "format_check",
        "limits",
        "maximum",
        "minimum",
        "multiple_of",
        "negated",
        "one_of",
        "pattern",
        "required",
        "texts",
        "types",
        "unique",
    )

    def __init__(self, raw: Raw) -> None:
        kind = raw.get("type")
        self.types: tuple[str, ...] = (kind,) if kind else ()
        if raw.get("x-kubernetes-int-or-string"):
            self.types = ("integer", "string")
        name = raw.get("format") or ""
        self.format = name if formats.recognized(kind or "", name) else ""
        self.format_check = formats.check(self.format) if self.format else None
        self.enum: list[Any] | None = raw.get("enum") or None
        self.maximum = raw.get("maximum")
        self.minimum = raw.get("minimum")
        self.exclusive_maximum = bool(raw.get("exclusiveMaximum"))
        self.exclusive_minimum = bool(raw.get("exclusiveMinimum"))
        self.multiple_of = raw.get("multipleOf")
        self.bounded = (
            self.maximum is not None
            or self.minimum is not None
            or self.multiple_of is not None
            or self.format == "int32"
        )
        self.pattern: str = raw.get("pattern") or ""
        # minLength, maxLength, minItems, maxItems, minProperties, maxProperties
        self.limits = tuple(
            raw.get(f"{side}{what}")
            for what in ("Length", "Items", "Properties")
            for side in ("min", "max")
        )
        self.texts = bool(self.limits[0] is not None or self.limits[1] is not None or self.pattern)
        self.unique = bool(raw.get("uniqueItems"))
        self.required: list[str] = raw.get("required") or []
        self.forbids_others = raw.get("additionalProperties") is False
        self.all_of = [Node(each) for each in raw.get("allOf") or ()]
        self.any_of = [Node(each) for each in raw.get("anyOf") or ()]
        self.one_of = [Node(each) for each in raw.get("oneOf") or ()]
        negated = raw.get("not")
        self.negated = Node(negated) if isinstance(negated, dict) else None


def checks_of(node: Node) -> Checks:
    found: Checks | None = node.checks
    if found is None:
        found = node.checks = Checks(node.raw)
    return found


def validate(value: Any, node: Node, *, old: Any = MISSING, field: str = "") -> Causes:
    """Everything wrong with the value. `field` is put before every path, as for a status checked on its own."""
    causes: Causes = []
    if old is MISSING:
        _validate(value, node, "", causes, MISSING, True)
    else:
        _ratcheted(value, node, "", causes, old, True)
    if not field:
        return causes
    return [
        each._replace(field=field if each.field == NOWHERE else _joined(field, each.field))
        for each in causes
    ]


def _joined(prefix: str, path: str) -> str:
    return prefix + path if path.startswith("[") else f"{prefix}.{path}"


def equal(one: Any, other: Any) -> bool:
    """Equal as JSON; Python alone takes 1, 1.0 and true for the same."""
    if one != other:
        return False
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        other, option=orjson.OPT_SORT_KEYS
    )


def _ratcheted(value: Any, node: Node, path: str, causes: Causes, old: Any, root: bool) -> int:
    before = len(causes)
    count = _validate(value, node, path, causes, old, root)
    if len(causes) > before and equal(value, old):
        del causes[before:]
    return count


# --- one value ----------------------------------------------------------------------------------------


def kind_of(value: Any) -> str:
    """The JSON type of a value, numbers told apart as Go does."""
    kind = type(value)
    if kind is str:
        return "string"
    if kind is bool:
        return "boolean"
    if kind is int:
        return "integer"
    if kind is dict:
        return "object"
    if kind is list:
        return "array"
    return "number" if kind is float else "null"


def _validate(value: Any, node: Node, path: str, causes: Causes, old: Any, root: bool) -> int:
    """Appends what is wrong; returns how far the schema fitted, by which anyOf chooses the alternative to complain about."""
    checks = checks_of(node)
    kind = kind_of(value)
    score = 1
    if checks.types:
        if _fits(value, kind, checks, node.nullable):
            score += 2
        else:
            wanted = ",".join(checks.types)
            shown = errors.quote(kind)
            text = f"{path} in body must be of type {wanted}: {shown}"
            causes.append(errors.type_invalid(_field(path), kind, text))
            score += 1
    if value is None:
        if checks.enum is not None:
            _enum(value, checks.enum, path, causes)
        return score
    if checks.any_of or checks.all_of or checks.one_of or checks.negated is not None:
        score += _junctors(value, checks, path, causes, old)
    if kind == "string":
        if checks.texts:
            _text(value, checks, path, causes)
        if checks.format_check is not None and not checks.format_check(value):
            text = f"{path} in body must be of type {checks.format}: {errors.quote(value)}"
            causes.append(errors.type_invalid(_field(path), value, text))
        score += 1
    elif kind in ("integer", "number"):
        if checks.bounded:
            _number(value, kind, checks, path, causes)
        score += 1
    elif kind == "array":
        score += 1 + _items(value, node, checks, path, causes, old)
    if checks.enum is not None:
        _enum(value, checks.enum, path, causes)
    if kind == "object":
        score += 1 + _fields(value, node, checks, path, causes, old, root)
    return score


def _field(path: str) -> str:
    return path.removeprefix(".") or NOWHERE


def _fits(value: Any, kind: str, checks: Checks, nullable: bool) -> bool:
    types = checks.types
    if kind == "null":
        return nullable
    if kind in types:
        return True
    if kind == "integer":
        return "number" in types
    return kind == "number" and "integer" in types and value.is_integer() and abs(value) < 2**53


def _enum(value: Any, allowed: list[Any], path: str, causes: Causes) -> None:
    if value is not None and any(_same(value, each) for each in allowed):
        return
    texts = [each if isinstance(each, str) else orjson.dumps(each).decode() for each in allowed]
    shown = "null" if value is None else value
    causes.append(errors.not_supported(_field(path), shown, texts))


def _same(value: Any, other: Any) -> bool:
    """Go converts a number to the enum's type before it compares."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other
    return equal(value, other)


def _invalid(path: str, value: Any, text: str) -> Cause:
    detail = f"{path} in body {text}"
    if isinstance(value, float):
        shown = f"Invalid value: {go_number(value)}: {detail}"
        return Cause(_field(path), "FieldValueInvalid", shown)
    return errors.invalid_value(_field(path), value, detail)


def _text(value: str, checks: Checks, path: str, causes: Causes) -> None:
    shortest, longest = checks.limits[0], checks.limits[1]
    if longest is not None and len(value) > longest:
        causes.append(errors.too_long(_field(path), "", int(longest)))
    elif shortest is not None and len(value) < shortest:
        causes.append(_invalid(path, value, f"should be at least {int(shortest)} chars long"))
    elif checks.pattern:
        try:
            if not patterns.matches(checks.pattern, value):
                causes.append(_invalid(path, value, f"should match '{checks.pattern}'"))
        except patterns.PatternError as error:
            text = f"should match '{checks.pattern}, but pattern is invalid: {error}'"
            causes.append(_invalid(path, value, text))


def _number(value: float, kind: str, checks: Checks, path: str, causes: Causes) -> None:
    if checks.format == "int32" and not -INT32 <= value < INT32:
        text = f"Checked value must be of type integer with format int32 in {path}"
        causes.append(errors.invalid_value(NOWHERE, "", text))
    # A bound is compared as the value's own kind of number, as kube-openapi does.
    own: Any = int if kind == "integer" else float
    factor = checks.multiple_of
    if factor is not None:
        factor = own(factor)
        if factor <= 0:
            text = f"factor MultipleOf declared for {path} must be positive: {go_number(factor)}"
            causes.append(errors.invalid_value(_field(path), factor, text))
        elif not _is_multiple(value, factor):
            causes.append(_invalid(path, value, f"should be a multiple of {go_number(factor)}"))
    low = checks.minimum
    if low is not None:
        low = own(low)
        if value < low or (checks.exclusive_minimum and value == low):
            words = "than" if checks.exclusive_minimum else "than or equal to"
            causes.append(_invalid(path, value, f"should be greater {words} {go_number(low)}"))
    high = checks.maximum
    if high is not None:
        high = own(high)
        if value > high or (checks.exclusive_maximum and value == high):
            words = "than" if checks.exclusive_maximum else "than or equal to"
            causes.append(_invalid(path, value, f"should be less {words} {go_number(high)}"))


def _is_multiple(value: float, factor: float) -> bool:
    if isinstance(value, int) and isinstance(factor, int):
        return value % factor == 0
    times = value / factor if factor >= 1 else 1 / factor * value
    return abs(times - round(times)) < 1e-9


def go_number(value: float) -> str:
    """A number as Go's %v shows it: floats with an exponent from a million on."""
    if isinstance(value, int):
        return str(value)
    digits, _, power = f"{value:.16e}".partition("e")
    exponent = int(power)
    if -4 <= exponent < 6:
        return repr(value).removesuffix(".0")
    for size in range(17):
        digits, _, power = f"{value:.{size}e}".partition("e")
        if float(f"{digits}e{power}") == value:
            break
    exponent = int(power)
    return f"{digits}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


# --- lists and objects --------------------------------------------------------------------------------


def _items(
    value: list[Any], node: Node, checks: Checks, path: str, causes: Causes, old: Any
) -> int:
    score = 0
    item = node.items
    if item is not None:
        matched = correlated_items(value, node, old)
        for index, entry in enumerate(value):
            where = f"{path}[{index}]"
            before = MISSING if matched is None else matched[index]
            if before is MISSING:
                score += _validate(entry, item, where, causes, MISSING, False)
            else:
                score += _ratcheted(entry, item, where, causes, before, False)
    fewest, most = checks.limits[2], checks.limits[3]
    size = len(value)
    if fewest is not None and size < fewest:
        causes.append(_invalid(path, size, f"should have at least {int(fewest)} items"))
    if most is not None and size > most:
        causes.append(errors.too_many(_field(path), size, int(most)))
    if checks.unique and _has_twice(value):
        causes.append(_invalid(path, "", "shouldn't contain duplicates"))
    return score


def correlated_items(value: list[Any], node: Node, old: Any) -> list[Any] | None:
    """For each item of a list of type map, the old item with the same keys; None when items cannot be matched."""
    if old is MISSING or not isinstance(old, list) or node.list_type != "map":
        return None
    keys = node.list_keys
    known: dict[bytes, Any] = {}
    for each in old:
        if isinstance(each, dict):
            known.setdefault(orjson.dumps([each.get(key) for key in keys]), each)
    return [
        known.get(orjson.dumps([each.get(key) for key in keys]), MISSING)
        if isinstance(each, dict)
        else MISSING
        for each in value
    ]


def _has_twice(value: list[Any]) -> bool:
    seen = [orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in value]
    return len(set(seen)) < len(seen)


def _fields(
    value: dict[str, Any],
    node: Node,
    checks: Checks,
    path: str,
    causes: Causes,
    old: Any,
    root: bool,
) -> int:
    fewest, most = checks.limits[4], checks.limits[5]
    size = len(value)
    if fewest is not None and size < fewest:
        causes.append(_invalid(path, size, f"should have at least {int(fewest)} properties"))
    if most is not None and size > most:
        causes.append(errors.too_many(_field(path), size, int(most)))
    known = node.properties_raw
    score = 0
    matched = isinstance(old, dict)
    for key, entry in value.items():
        if key in known:
            inner = node.declared(key)
            where = f"{path}.{key}" if path else key
        elif checks.forbids_others:
            text = f"{path}.{key} in body is a forbidden property"
            causes.append(errors.invalid_value(_field(path), key, text))
            continue
        else:
            inner = node.additional
            where = f"{path}.{key}"
        if inner is None:
            continue
        if not matched or key not in old or (root and key in ("kind", "apiVersion")):
            score += _validate(entry, inner, where, causes, MISSING, False)
        else:
            score += _ratcheted(entry, inner, where, causes, old[key], False)
    for key in checks.required:
        if key not in value:
            causes.append(errors.required(_field(f"{path}.{key}")))
    return score


# --- allOf, anyOf, oneOf, not -------------------------------------------------------------------------


def _junctors(value: Any, checks: Checks, path: str, causes: Causes, old: Any) -> int:
    score = 1
    name = errors.quote(path)
    if checks.any_of:
        best, valid = _alternatives(value, checks.any_of, path, old, stop=True)
        if not valid:
            _complain(causes, f"{name} must validate at least one schema (anyOf)")
            causes.extend(best)
    if checks.one_of:
        best, valid = _alternatives(value, checks.one_of, path, old, stop=False)
        if valid != 1:
            found = f"Found {valid} valid alternatives" if valid else "Found none valid"
            _complain(causes, f"{name} must validate one and only one schema (oneOf). {found}")
            if not valid:
                causes.extend(best)
    if checks.all_of:
        valid = 0
        for each in checks.all_of:
            found_causes: Causes = []
            score += _validate(value, each, path, found_causes, old, False)
            valid += not found_causes
            causes.extend(found_causes)
        if valid != len(checks.all_of):
            none = "" if valid else ". None validated"
            _complain(causes, f"{name} must validate all the schemas (allOf){none}")
    if checks.negated is not None:
        refused: Causes = []
        _validate(value, checks.negated, path, refused, old, False)
        if not refused:
            _complain(causes, f"{name} must not validate the schema (not)")
    return score


def _complain(causes: Causes, text: str) -> None:
    causes.append(errors.invalid_value(NOWHERE, "", text))


def _alternatives(
    value: Any, nodes: list[Node], path: str, old: Any, *, stop: bool
) -> tuple[Causes, int]:
    """(what is wrong by the schema that came nearest, how many are valid); with `stop` one valid schema is enough."""
    best: Causes = []
    nearest, valid = -1, 0
    for each in nodes:
        found: Causes = []
        score = _validate(value, each, path, found, old, False)
        if not found:
            valid += 1
            if stop:
                break
        elif score > nearest:
            nearest, best = score, found
    return best, valid
