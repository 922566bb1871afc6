"""ValidatingAdmissionPolicy: expressions that must be true of a request.

Each binding says what a failure does: deny the request, warn, or note it in the audit log. All that apply are evaluated; the
first denial is the answer. What cannot be evaluated counts as a failure unless `failurePolicy` is Ignore.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import orjson

from sampan.apiserver.admission.attributes import Attributes
from sampan.apiserver.admission.conditions import OUT_OF_BUDGET, Expression, affordable, hold
from sampan.apiserver.admission.invocations import Invocation, Policy, invocations
from sampan.apiserver.admission.measures import VALIDATE
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.admission.policies import Binding, Policies
from sampan.apiserver.call import Call
from sampan.kube import cel, errors
from sampan.kube.cel.cost import PER_REQUEST
from sampan.kube.cel.types import NULL, STRING
from sampan.kube.errors import ApiError

Object = dict[str, Any]

MAX_MESSAGE = 5 * 1024
MAX_ANNOTATION = 10 * 1024
MAX_FAILURES = 50  # told in one audit annotation
FAILURES = "validation.policy.admission.k8s.io/validation_failure"
_ERRORS = (("compilation", "compile_error"), (OUT_OF_BUDGET, "out_of_budget"))
CODES = {"Forbidden": 403, "Unauthorized": 401, "RequestEntityTooLarge": 413, "Invalid": 422}


class Failure:
    """One validation that did not hold, or could not be evaluated; `ignored` when that makes no difference."""

    __slots__ = ("error", "ignored", "index", "message", "reason", "seconds")

    def __init__(
        self,
        message: str,
        reason: str = "",
        index: int = 0,
        *,
        error: str = "no_error",
        ignored: bool = False,
    ) -> None:
        self.message = message
        self.reason = reason
        self.index = index
        self.error = error
        self.ignored = ignored
        self.seconds = 0.0


class Validation:
    def __init__(self, spec: Object, policy: Policy) -> None:
        self.text: str = (spec.get("expression") or "").strip()
        self.message: str = (spec.get("message") or "").strip()
        self.reason: str = spec.get("reason") or "Invalid"
        self.expression = Expression(spec["expression"], policy.variables)
        given = (spec.get("messageExpression") or "").strip()
        self.worded = Expression(given, policy.message_variables, "string") if given else None

    def told(self, values: Object, budget: cel.Budget) -> str:
        """What the user is told; raises EvaluationError only when the budget ran out."""
        found = ""
        if self.worded is not None:
            try:
                made = self.worded.evaluate(values, budget)
                found = made.strip() if isinstance(made, str) else ""
            except cel.EvaluationError as error:
                if str(error) == OUT_OF_BUDGET:
                    raise
            if len(found) > MAX_MESSAGE or "\n" in found:
                found = ""
        return found or self.message or f"failed expression: {self.text}"


class ValidatingPolicy(Policy):
    @cached_property
    def validations(self) -> list[Validation]:
        return [Validation(each, self) for each in self.spec.get("validations") or ()]

    @cached_property
    def annotations(self) -> list[tuple[str, Expression]]:
        return [
            (each["key"], Expression(each["valueExpression"], self.variables, (STRING, NULL)))
            for each in self.spec.get("auditAnnotations") or ()
        ]

    def expressions(self) -> list[Expression]:
        found = [each.expression for each in self.validations]
        found += [each.worded for each in self.validations if each.worded is not None]
        return found + [expression for _, expression in self.annotations]

    def judge(self, values: Object, budget: cel.Budget) -> tuple[list[Failure], dict[str, str]]:
        """(what failed, audit annotations) of a request that meets the conditions."""
        failures: list[Failure] = []
        for index, validation in enumerate(self.validations):
            started = time.perf_counter()
            try:
                if validation.expression.evaluate(values, budget) is True:
                    continue
                failure = Failure(validation.told(values, budget), validation.reason, index)
            except cel.EvaluationError as error:
                failure = self.faulty(error, index)
            failure.seconds = time.perf_counter() - started
            failures.append(failure)
        annotations: dict[str, str] = {}
        for key, expression in self.annotations:
            try:
                value = expression.evaluate(values, budget)
            except cel.EvaluationError as error:
                failures.append(self.faulty(error, len(self.validations)))
                continue
            if isinstance(value, str) and value.strip():
                annotations[key] = value.strip()[:MAX_ANNOTATION]
        return failures, annotations

    def faulty(self, error: cel.EvaluationError, index: int) -> Failure:
        text = str(error)
        kind = next((kind for start, kind in _ERRORS if text.startswith(start)), "invalid_error")
        return Failure(text, "", index, error=kind, ignored=self.ignores_failure)


async def judge(
    plugin: Policies, call: Call, operation: str, obj: Object | None, old: Object | None
) -> None:
    """Raises ApiError when a policy denies the request."""
    attributes = Attributes(call, operation, obj, old, plugin.lookup.table)
    denied: list[tuple[ValidatingPolicy, Binding | None, Failure]] = []
    noted: list[Object] = []
    annotations: dict[str, list[str]] = {}
    measures = plugin.lookup.measures
    async for found in invocations(plugin, attributes, ValidatingPolicy):
        if not isinstance(found, Invocation):
            policy, binding, why = found
            if not policy.ignores_failure:
                denied.append((policy, binding, Failure(why)))
            continue
        policy, binding = found.policy, found.binding
        failures, extra = await _judged(found, attributes, plugin.lookup)
        for key, value in extra.items():
            kept = annotations.setdefault(f"{policy.name}/{key}", [])
            if value not in kept:
                kept.append(value)
        for failure in failures:
            actions = ["Allow"] if failure.ignored else binding.actions
            for action in actions:
                labels = (policy.name, binding.name, failure.error, action.lower())
                measures.validating[labels].observe(failure.seconds)
            if "Deny" in actions:
                denied.append((policy, binding, failure))
            if "Audit" in actions:
                noted.append(_note(policy, binding, failure))
            if "Warn" in actions:
                call.warnings.append(
                    f"Validation failed for ValidatingAdmissionPolicy '{policy.name}' "
                    f"with binding '{binding.name}': {failure.message}"
                )
    for key, kept in annotations.items():
        plugin.lookup.annotate(call.request, key, ", ".join(kept))
    if noted:
        text = orjson.dumps(noted[:MAX_FAILURES]).decode()
        plugin.lookup.annotate(call.request, FAILURES, text)
    if denied:
        raise _refusal(attributes, *denied[0])


async def _judged(
    found: Invocation[ValidatingPolicy], attributes: Attributes, lookup: Lookup
) -> tuple[list[Failure], dict[str, str]]:
    policy = found.policy

    async def values(budget: cel.Budget) -> Object:
        return await found.values(attributes, lookup, budget)

    labels = (policy.name, "policy", VALIDATE, attributes.operation)
    try:
        if policy.conditions:
            if not await hold(policy.conditions, values, lookup.measures, labels):
                return [], {}
    except cel.EvaluationError as error:
        return [policy.faulty(error, 0)], {}
    return await affordable(policy.judge, values, PER_REQUEST)


def _note(policy: Policy, binding: Binding, failure: Failure) -> Object:
    return {
        "message": failure.message,
        "policy": policy.name,
        "binding": binding.name,
        "expressionIndex": failure.index,
        "validationActions": binding.actions,
    }


def _refusal(
    attributes: Attributes, policy: Policy, binding: Binding | None, failure: Failure
) -> ApiError:
    by = f" with binding '{binding.name}'" if binding is not None else ""
    message = f"ValidatingAdmissionPolicy '{policy.name}'{by} denied request: {failure.message}"
    error = forbidden(attributes, message)
    error.reason = failure.reason or "Invalid"
    error.code = CODES.get(error.reason, 422)
    error.details["causes"] = [{"message": message}]
    return error


def forbidden(attributes: Attributes, message: str) -> ApiError:
    """403 that names the object, though it may have no name yet."""
    metadata = (attributes.obj or {}).get("metadata") or {}
    name = attributes.name or metadata.get("name") or metadata.get("generateName") or "Unknown"
    row = attributes.row
    return errors.forbidden(row.name, name, message, row.group)
