"""Optional values: https://pkg.go.dev/github.com/google/cel-go/cel#OptionalTypes (the syntax is in the planner)."""

from __future__ import annotations

from typing import Any

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.library.standard import at_index, at_key
from sampan.kube.cel.types import BOOL, DYN, INT, list_of, map_of, optional_of, param
from sampan.kube.cel.values import NONE, Duration, Optional

V, K = param("V"), param("K")
OPTIONAL = optional_of(V)


def _is_zero(value: Any) -> bool:
    if isinstance(value, Duration):
        return value.nanos == 0
    return (
        value is None
        or value is False
        or (isinstance(value, int | float | str | bytes | list | dict) and not value)
    )


def _value(optional: Optional) -> Any:
    if not optional.present:
        raise EvaluationError("optional.none() dereference")
    return optional.value


def _present(items: list[Optional]) -> list[Any]:
    return [each.value for each in items if each.present]


def at_optional(holder: Any, index: Any) -> Optional:
    """`holder[?index]`, through an optional holder too."""
    if isinstance(holder, Optional):
        return at_optional(holder.value, index) if holder.present else NONE
    try:
        return Optional(
            at_index(holder, index) if isinstance(holder, list) else at_key(holder, index)
        )
    except EvaluationError:
        return NONE


FUNCTIONS: Library = {
    "optional.of": [function("optional_of", (V,), OPTIONAL, Optional)],
    "optional.none": [function("optional_none", (), OPTIONAL, lambda: NONE)],
    "optional.ofNonZeroValue": [
        function(
            "optional_ofNonZeroValue",
            (V,),
            OPTIONAL,
            lambda value: NONE if _is_zero(value) else Optional(value),
        )
    ],
    "optional.unwrap": [function("optional_unwrap", (list_of(OPTIONAL),), list_of(V), _present)],
    "unwrapOpt": [method("optional_unwrapOpt", (list_of(OPTIONAL),), list_of(V), _present)],
    "value": [method("optional_value", (OPTIONAL,), V, _value)],
    "hasValue": [method("optional_hasValue", (OPTIONAL,), BOOL, lambda a: a.present)],
    "or": [
        method(
            "optional_or_optional",
            (OPTIONAL, OPTIONAL),
            OPTIONAL,
            lambda a, b: a if a.present else b,
        )
    ],
    "orValue": [
        method("optional_orValue_value", (OPTIONAL, V), V, lambda a, b: a.value if a.present else b)
    ],
    "_[?_]": [
        function("list_optindex_optional_int", (list_of(V), INT), OPTIONAL, at_optional),
        function(
            "optional_list_optindex_optional_int",
            (optional_of(list_of(V)), INT),
            OPTIONAL,
            at_optional,
        ),
        function("map_optindex_optional_value", (map_of(K, V), K), OPTIONAL, at_optional),
        function(
            "optional_map_optindex_optional_value",
            (optional_of(map_of(K, V)), K),
            OPTIONAL,
            at_optional,
        ),
        function("dyn_optindex_optional_value", (DYN, DYN), optional_of(DYN), at_optional),
    ],
    # An index into an optional gives an optional.
    "_[_]": [
        function("optional_list_index_int", (optional_of(list_of(V)), INT), OPTIONAL, at_optional),
        function("optional_map_index_value", (optional_of(map_of(K, V)), K), OPTIONAL, at_optional),
    ],
}
