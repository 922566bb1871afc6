"""CEL, the expression language of CRD rules, admission policies and match conditions, with Kubernetes' libraries.

    program = cel.compile("self.replicas <= self.maximum", {"self": cel.from_schema(schema)}, result="bool")
    budget = cel.Budget()                              # for all rules on one object
    program.evaluate({"self": value}, budget)          # True, False, or EvaluationError, BudgetExceeded

Compiling checks every type; messages are cel-go's. Evaluating is bounded: every step is charged before it is done, in
Kubernetes' units, and patterns are matched by RE2. Nothing here does I/O. The work is done by the modules beside this one,
which are imported at the first expression: lexer → parser → checker → planner (closures), `library/` for the functions.

Why not a library: docs/dependencies.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sampan.kube.cel.errors import (
    BudgetExceeded,
    CelError,
    CompileError,
    EvaluationError,
    Issue,
)
from sampan.kube.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    ObjectType,
    Type,
    list_of,
    map_of,
    optional_of,
    record,
)

if TYPE_CHECKING:
    from sampan.kube.cel.program import Budget, Program

_RESULTS = {"bool": BOOL, "string": STRING, "int": INT, "null": NULL}
_LAZY = {
    "Budget": "program",
    "Program": "program",
    "from_schema": "schema",
    "typed": "schema",
    "to_json": "schema",
    "estimate": "estimate",
}


def compile(
    expression: str,
    variables: Mapping[str, Type | Mapping[str, Any]],
    *,
    result: str | Type | tuple[Type, ...] = "any",
    objects: Callable[[str], Type | None] | None = None,
) -> Program:
    """The program for an expression over these variables: types, or structural schemas. Raises CompileError.

    `result` is what it must give: "bool", "string", "int", "any", a type, or several. `objects` gives the types of
    object literals (`Object.spec{…}`) by name.
    """
    from sampan.kube.cel.checker import no_objects
    from sampan.kube.cel.program import build
    from sampan.kube.cel.schema import from_schema

    declared = {
        name: each if isinstance(each, Type) else from_schema(each)
        for name, each in variables.items()
    }
    if isinstance(result, str):
        results: tuple[Type, ...] = (_RESULTS[result],) if result != "any" else ()
    else:
        results = (result,) if isinstance(result, Type) else result
    return build(expression, declared, results, objects or no_objects)


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{module}"), name)


__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "NULL",
    "STRING",
    "TIMESTAMP",
    "Budget",
    "BudgetExceeded",
    "CelError",
    "CompileError",
    "EvaluationError",
    "Issue",
    "ObjectType",
    "Program",
    "Type",
    "compile",
    "list_of",
    "map_of",
    "optional_of",
    "record",
]
