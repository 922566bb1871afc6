"""What an update of a CustomResourceDefinition is not refused for, because the definition that it replaces was no better.

Rules have become stricter over the years. apiextensions looks for each of these whether the old definition breaks it, and
then does not ask it of the new one either. A row of the table is one such rule: how its causes look, and, where being
broken before is not enough, what must have stayed as it was. Only a definition that would be refused gets here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sampan.kube.errors import Cause

Object = dict[str, Any]
Causes = list[Cause]

_SCHEMA: Final = "openAPIV3Schema"
_VERSION: Final = re.compile(r"spec\.versions\[(\d+)\]")


class _Rule(NamedTuple):
    """`stays` takes the new definition, the old one, and what the cause's version is called."""

    broken: Callable[[Cause], bool]
    stays: Callable[[Object, Object, str], bool] | None = None


def _by_version(crd: Object, name: str) -> Object:
    for version in (crd.get("spec") or {}).get("versions") or ():
        if version.get("name") == name:
            found: Object = version
            return found
    return {}


def _same(key: str) -> Callable[[Object, Object, str], bool]:
    return lambda new, old, name: _by_version(new, name).get(key) == _by_version(old, name).get(key)


def _keeps_unknown(new: Object, old: Object, name: str) -> bool:
    return bool((new.get("spec") or {}).get("preserveUnknownFields"))


def _says(*texts: str) -> Callable[[Cause], bool]:
    return lambda cause: _SCHEMA in cause.field and any(text in cause.message for text in texts)


_RULES: Final = (
    _Rule(lambda cause: _SCHEMA in cause.field and cause.field.endswith(".type")
          and cause.reason == "FieldValueNotSupported"),
    _Rule(_says("must be atomic as item of a list with x-kubernetes-list-type=set")),
    _Rule(_says("this property is in x-kubernetes-list-map-keys",
                "cannot be nullable when x-kubernetes-list-type is ")),
    _Rule(_says("must not have unknown fields")),
    _Rule(lambda cause: cause.field == "spec.conversion.conversionReviewVersions"
          and "must include at least one of" in cause.message),
    _Rule(lambda cause: cause.field == "spec.preserveUnknownFields"),
    _Rule(lambda cause: cause.field.endswith(f".schema.{_SCHEMA}")
          and cause.reason == "FieldValueRequired", _keeps_unknown),
    _Rule(lambda cause: cause.field.endswith("selectableFields")
          and cause.reason == "FieldValueTooMany", _same("selectableFields")),
    _Rule(_says("estimated rule cost exceeds", "estimated messageExpression cost exceeds"),
          _same("schema")),
)  # fmt: skip


def forgive(causes: Causes, new: Object, old: Object, before: Callable[[], Causes]) -> Causes:
    """The causes that count. `before` tells what is wrong with the old definition."""
    if not any(rule.broken(cause) for cause in causes for rule in _RULES):
        return causes
    was = before()
    rules = [rule for rule in _RULES if any(rule.broken(cause) for cause in was)]
    return [cause for cause in causes if not _forgiven(cause, rules, new, old)]


def _forgiven(cause: Cause, rules: list[_Rule], new: Object, old: Object) -> bool:
    versions = (new.get("spec") or {}).get("versions") or [{}]
    found = _VERSION.match(cause.field)
    name = versions[int(found[1]) if found else 0].get("name") or ""
    return any(
        rule.broken(cause) and (rule.stays is None or rule.stays(new, old, name)) for rule in rules
    )
