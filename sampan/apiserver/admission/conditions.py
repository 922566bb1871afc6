"""The variables that expressions of admission see, and `matchConditions`.

Expressions are compiled once for an object's revision, at the first request that needs them; a fault found then counts as a fault
of evaluating (an object that was stored was checked when it was written).
https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#validation-expression
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.apiserver.admission.attributes import Attributes
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.expressions import allowance, aside
from sampan.apiserver.rbac import Attributes as Asked
from sampan.apiserver.resources import Resource
from sampan.client.transport import User
from sampan.kube import cel
from sampan.kube.cel.admission import declared
from sampan.kube.cel.cost import PER_MATCH
from sampan.kube.cel.types import Type

if TYPE_CHECKING:
    from sampan.apiserver.admission.measures import Measures
    from sampan.kube.cel.library.authorizer import Decision, Question

Object = dict[str, Any]

OUT_OF_BUDGET = (
    "validation failed due to running out of cost budget, no further validation rules will be run"
)


async def bindings(
    attributes: Attributes, row: Resource, lookup: Lookup, used: frozenset[str]
) -> Object:
    """The values of those variables that are used. Raises ApiError 404 for a namespace that is gone."""
    found: Object = {}
    if "object" in used:
        found["object"] = await attributes.show(row)
    if "oldObject" in used:
        found["oldObject"] = await attributes.show(row, old=True)
    if "request" in used:
        found["request"] = attributes.request(row)
    if "namespaceObject" in used:
        found["namespaceObject"] = await namespace_object(attributes, lookup)
    if "authorizer" in used or "authorizer.requestResource" in used:
        found |= await _authorizers(attributes, lookup)
    return found


async def namespace_object(attributes: Attributes, lookup: Lookup) -> Object | None:
    """The namespace of the request; null for what has none, and for a Namespace itself."""
    if not attributes.namespace or attributes.row.storage == "core/namespaces":
        return None
    entry = await lookup.entry("", "v1", "namespaces", "", attributes.namespace)
    if entry is None:
        from sampan.kube import errors

        raise errors.not_found("namespaces", attributes.namespace)
    namespace = entry.object()
    metadata = namespace["metadata"]
    if "uid" in metadata:
        metadata["UID"] = metadata.pop("uid")
    return namespace


async def _authorizers(attributes: Attributes, lookup: Lookup) -> Object:
    from sampan.kube.cel.library.authorizer import Question, authorizer, resource_check

    access = lookup.access
    if access is not None and access.stale:
        await access.load()
    user = attributes.call.user

    def check(question: Question) -> Decision:
        return _decided(lookup, user, question)

    row = attributes.row
    question = Question(
        group=row.group,
        resource=row.name,
        subresource=attributes.subresource,
        namespace=attributes.call.info.namespace,
        name=attributes.name,
    )
    return {
        "authorizer": authorizer(check),
        "authorizer.requestResource": resource_check(check, question),
    }


def _decided(lookup: Lookup, user: User, question: Question) -> Decision:
    from sampan.kube.cel.library.authorizer import Decision

    access = lookup.access
    if access is None or not access.enforce:
        return Decision(True)
    if question.account is not None:
        namespace, name = question.account
        groups = (
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        )
        user = User(f"system:serviceaccount:{namespace}:{name}", groups)
    if question.path:
        asked = Asked(user, question.verb, path=question.path)
    else:
        asked = Asked(
            user,
            question.verb,
            question.group,
            "*",
            question.resource,
            question.subresource,
            question.namespace,
            question.name,
            field_selector=question.field_selector,
        )
    found = access.authorizer.authorize(asked)
    return Decision(found.allowed, found.reason)


class Expression:
    """One expression, compiled at its first use."""

    __slots__ = ("_failed", "_program", "objects", "results", "source", "variables")

    def __init__(
        self,
        source: str,
        variables: Mapping[str, Type],
        results: str | tuple[Type, ...] = "bool",
        objects: Any = None,
    ) -> None:
        self.source = source
        self.variables = variables
        self.results = results
        self.objects = objects
        self._program: cel.Program | None = None
        self._failed: cel.CompileError | None = None

    def program(self) -> cel.Program:
        """Raises CompileError, every time alike."""
        if self._failed is not None:
            raise self._failed
        if self._program is None:
            try:
                self._program = cel.compile(
                    self.source, self.variables, result=self.results, objects=self.objects
                )
            except cel.CompileError as error:
                self._failed = error
                raise
        return self._program

    @property
    def uses(self) -> frozenset[str]:
        """The variables that it reads; none when it is faulty."""
        try:
            return self.program().uses
        except cel.CompileError:
            return frozenset()

    def evaluate(self, values: Object, budget: cel.Budget) -> Any:
        """Raises EvaluationError worded as Kubernetes words it."""
        try:
            return self.program().evaluate(values, budget)
        except cel.CompileError as error:
            raise cel.EvaluationError(f"compilation error: compilation failed: {error}") from error
        except cel.BudgetExceeded as error:
            raise cel.EvaluationError(OUT_OF_BUDGET) from error
        except cel.EvaluationError as error:
            text = f"expression '{self.source}' resulted in error: {error}"
            raise cel.EvaluationError(text) from error


T = TypeVar("T")


async def affordable(
    work: Callable[[Object, cel.Budget], T],
    values: Callable[[cel.Budget], Awaitable[Object]],
    total: int,
) -> T:
    """`work(values, budget)` within `total` units, at once when it is cheap, as it nearly always is.

    What is not is done again in a thread. Who asks for authorization stays here, where the authorizer's index does not
    change meanwhile; those checks are few.
    """
    budget = allowance()
    found = await values(budget)
    if "authorizer" in found:
        budget = cel.Budget(total)
        return work(await values(budget), budget)
    try:
        result = work(found, budget)
    except cel.EvaluationError:
        if budget.left:
            raise
    else:
        if budget.left:
            return result
    budget = cel.Budget(total)
    return await aside(work, await values(budget), budget)


class Conditions:
    """`matchConditions`: all must be true; one that is false decides, whatever the others would say."""

    def __init__(
        self, given: list[Object] | None, variables: Mapping[str, Type] | None = None
    ) -> None:
        known = declared() if variables is None else variables
        self.expressions = [Expression(each["expression"], known) for each in given or ()]

    def __bool__(self) -> bool:
        return bool(self.expressions)

    @cached_property
    def uses(self) -> frozenset[str]:
        return frozenset().union(*(each.uses for each in self.expressions))

    def hold(self, values: Object, budget: cel.Budget) -> bool:
        """Raises EvaluationError with all that went wrong, unless one was false."""
        failed: list[str] = []
        for expression in self.expressions:
            try:
                if expression.evaluate(values, budget) is False:
                    return False
            except cel.EvaluationError as error:
                failed.append(str(error))
        if failed:
            raise ConditionsFailed(failed)
        return True


class ConditionsFailed(cel.EvaluationError):
    def __init__(self, reasons: list[str]) -> None:
        unique = list(dict.fromkeys(reasons))
        super().__init__(unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]")
        self.count = len(reasons)


async def hold(
    conditions: Conditions,
    values: Callable[[cel.Budget], Awaitable[Object]],
    measures: Measures,
    labels: tuple[str, str, str, str],
) -> bool:
    """Are the conditions met? Counted under `labels`: name, kind, type, operation. Raises EvaluationError."""
    started, holds, failed = time.perf_counter(), True, 0
    try:
        holds = await affordable(conditions.hold, values, PER_MATCH)
        return holds
    except ConditionsFailed as error:
        failed = error.count
        raise
    finally:
        elapsed = time.perf_counter() - started
        measures.condition(labels, elapsed, errors=failed, excluded=not holds)
