"""An expression, compiled once and evaluated often."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sampan.kube.cel.checker import Checker, ObjectTypes, no_objects
from sampan.kube.cel.cost import PER_CALL, PER_REQUEST
from sampan.kube.cel.errors import CompileError, EvaluationError, Issue
from sampan.kube.cel.frame import Frame
from sampan.kube.cel.parser import parse
from sampan.kube.cel.planner import UNBOUND, Planner
from sampan.kube.cel.schema import typed
from sampan.kube.cel.types import Type


class Budget:
    """What all expressions on one object may cost together; each also has a limit of its own."""

    __slots__ = ("left", "per_call")

    def __init__(self, total: int = PER_REQUEST, per_call: int = PER_CALL) -> None:
        self.left = total
        self.per_call = per_call


class Program:
    """`type` is what it gives; `uses` the variables that it reads."""

    def __init__(
        self, source: str, variables: Mapping[str, Type], objects: ObjectTypes = no_objects
    ) -> None:
        self.source = source
        self.root = parse(source)
        checker = Checker(source, variables, objects)
        self.type: Type = checker.run(self.root)
        self.uses = frozenset(checker.used)
        self._size = checker.slots
        self._slot_of = checker.slot_of
        self._variables = [
            (name, slot, variables[name])
            for name, slot in checker.slot_of.items()
            if name in checker.used
        ]

    @cached_property
    def _step(self) -> Any:
        return Planner(self._slot_of).plan(self.root)

    def evaluate(self, bindings: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """The value for these variables, which are JSON or values. Raises EvaluationError, BudgetExceeded.

        A variable that is not given is an error only where it is read.
        """
        allowance = budget or Budget()
        slots: list[Any] = [UNBOUND] * self._size
        frame = Frame(slots, min(allowance.left, allowance.per_call))
        try:
            for name, slot, type_ in self._variables:
                if name in bindings:
                    value = bindings[name]
                    slots[slot] = value if type_.plain else typed(value, type_)
            return self._step(frame)
        except RecursionError:
            raise EvaluationError("expression is nested too deeply") from None
        except (TypeError, AttributeError, ValueError, OverflowError, KeyError) as error:
            # A value that is not of its declared type, which its schema's validation reports.
            raise EvaluationError(f"no such overload: {error}") from None
        finally:
            allowance.left -= frame.cost
            allowance.left = max(allowance.left, 0)


def build(
    source: str, variables: Mapping[str, Type], results: tuple[Type, ...], objects: ObjectTypes
) -> Program:
    program = Program(source, variables, objects)
    if results and program.type not in results:
        wanted = (
            f"must evaluate to {results[0]} but got {program.type}"
            if len(results) == 1
            else f"must evaluate to one of [{' '.join(str(each) for each in results)}] "
            f"but got {program.type}"
        )
        raise CompileError(source, [Issue(-2, wanted)])
    return program
