"""One version of a custom resource: everything that its schema means for an object, compiled once and used for every write.

    fit               decoding: unknown fields go (and are named), nulls go, defaults are filled in
    validate_create   metadata is checked elsewhere; here the OpenAPI keywords, embedded objects, lists of type set and map
    validate_update   and the scale subresource's fields, in the order in which Kubernetes reports them
    validate_status
    check_rules       the CEL rules, which come last and may take long

A schema that is absent keeps every field and checks none.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from sampan.kube import cel, errors
from sampan.kube.errors import Cause
from sampan.kube.structural import embedded, fit, lists, rules, values
from sampan.kube.structural.node import Node, Raw

Object = dict[str, Any]
Causes = list[Cause]

MAX_INT32: Final = 2**31 - 1
# After one of these the rules in CEL could meet values that their types do not allow.
_BLOCKING: Final = frozenset(
    {
        "FieldValueNotSupported",
        "FieldValueRequired",
        "FieldValueTooLong",
        "FieldValueTooMany",
        "FieldValueTypeInvalid",
    }
)
_NOT_CHECKED: Final = Cause(
    values.NOWHERE,
    "FieldValueInvalid",
    'Invalid value: "null": some validation rules were not checked because the object was invalid; '
    "correct the existing errors to complete validation",
)


class ResourceSchema:
    """`raw` is the version's openAPIV3Schema, `scale` its scale subresource. Neither is changed."""

    def __init__(self, raw: Raw | None, scale: Object | None = None) -> None:
        self.given = raw
        raw = raw or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        self.node = Node(raw)
        self.scale = scale
        self._embeds = embedded.present(raw)

    @cached_property
    def _rules(self) -> rules.Validator | None:
        return rules.compiled(self.node, root=True)

    @property
    def ready(self) -> bool:
        """The rules are compiled, or there are none."""
        return "_rules" in self.__dict__ or not rules.has_rules(self.node.raw)

    # Decoding

    def fit(self, obj: Object, unknown: list[str] | None = None) -> None:
        """Make the object what the schema can say, in place. Raises embedded.Malformed."""
        fit.prune(obj, self.node, unknown, root=True)
        fit.drop_nulls(obj, self.node)
        if self._embeds:
            embedded.coerce(obj, self.node, unknown=unknown)
        fit.default(obj, self.node)

    # Validation

    def validate_create(self, obj: Object) -> Causes:
        causes = values.validate(obj, self.node)
        causes += self._scale_spec(obj)
        causes += self._scale_status(obj)
        if self._embeds:
            causes += embedded.validate(obj, self.node)
        return causes + lists.validate(obj, self.node)

    def validate_update(self, new: Object, old: Object) -> Causes:
        causes = values.validate(new, self.node, old=old)
        causes += self._scale_spec(new)
        causes += self._scale_status(new)
        if self._embeds:
            causes += embedded.validate(new, self.node)
        return causes + self._lists(new, old)

    def validate_status(self, new: Object, old: Object) -> Causes:
        """A write of the status subresource: the status alone. Its rules are those of the whole."""
        causes: Causes = []
        status = self.node.declared("status")
        if "status" in new and status is not None:
            before = old.get("status", values.MISSING)
            causes += values.validate(new["status"], status, old=before, field="status")
        causes += self._scale_status(new)
        return causes + self._lists(new, old)

    def _lists(self, new: Object, old: Object) -> Causes:
        """Objects that already broke the rule before it was made may go on doing so."""
        causes = lists.validate(new, self.node)
        return causes if causes and not lists.validate(old, self.node) else []

    def check_rules(
        self, new: Object, old: Object | None, causes: Causes, budget: cel.Budget | None = None
    ) -> Causes:
        """What the rules find wrong with an object of which `causes` are known."""
        if self._rules is None:
            return []
        if any(each.reason in _BLOCKING for each in causes):
            return [_NOT_CHECKED]
        return self._rules.validate(new, old, ratchet=old is not None, budget=budget)

    # The scale subresource's fields

    def _scale_spec(self, obj: Object) -> Causes:
        return [] if self.scale is None else _replicas(obj, self.scale.get("specReplicasPath", ""))

    def _scale_status(self, obj: Object) -> Causes:
        if self.scale is None:
            return []
        causes = _replicas(obj, self.scale.get("statusReplicasPath", ""))
        path = self.scale.get("labelSelectorPath")
        if path:
            try:
                nested(obj, path, str)
            except WrongType as error:
                causes.append(errors.invalid_value(path, "", str(error)))
        return causes


class WrongType(ValueError):
    """A field on or at the end of the path has another type."""


_GO_TYPES: Final = {
    str: "string",
    bool: "bool",
    int: "int64",
    float: "float64",
    dict: "map[string]interface {}",
    list: "[]interface {}",
    type(None): "<nil>",
}


def nested(obj: Any, path: str, wanted: type) -> Any:
    """The value at `.spec.replicas`, None when it is not there. Raises WrongType, worded as apimachinery's helpers."""
    keys = path.removeprefix(".").split(".")
    value = obj
    for index, key in enumerate(keys):
        if value is None:
            return None
        if not isinstance(value, dict):
            kind = _GO_TYPES[type(value)]
            shown = ".".join(keys[:index])
            raise WrongType(
                f".{shown} accessor error: {value} is of the type {kind}, expected map[string]interface{{}}"
            )
        if key not in value:
            return None
        value = value[key]
    if type(value) is not wanted:
        kind = _GO_TYPES[type(value)]
        raise WrongType(
            f"{path} accessor error: {_shown(value)} is of the type {kind}, expected {_GO_TYPES[wanted]}"
        )
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "<nil>" if value is None else str(value)


def _replicas(obj: Object, path: str) -> Causes:
    try:
        found = nested(obj, path, int) or 0
    except WrongType as error:
        return [errors.invalid_value(path, 0, str(error))]
    if found < 0:
        return [errors.invalid_value(path, found, "should be a non-negative integer")]
    if found > MAX_INT32:
        return [errors.invalid_value(path, found, f"should be less than or equal to {MAX_INT32}")]
    return []
