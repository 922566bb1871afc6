"""`x-kubernetes-validations`: rules in CEL on parts of an object, compiled once per version of a definition.

A rule sees `self` and, when the object is replaced, `oldSelf`: the old value of the same part, as far as the two can be
matched (fields by name, items of lists of type map by their keys). A rule that reads `oldSelf` is skipped where there is none,
unless it asked for it as an optional. What a rule finds wrong with a part that did not change is forgiven (ratcheting,
KEP-4008). All rules on one object share a budget, and each has a limit of its own. Wording: apiextensions
`schema/cel/validation.go`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sampan.kube import cel, errors
from sampan.kube.errors import Cause
from sampan.kube.structural import fieldpath
from sampan.kube.structural.node import Node, Raw, structural_parts
from sampan.kube.structural.values import MISSING, NOWHERE, correlated_items, equal

Causes = list[Cause]
Pair = tuple[Any, Any]  # a value and the old one that it replaces

MAX_MESSAGE: Final = 5 * 1024  # bytes of an evaluated messageExpression
_OUT_OF_BUDGET: Final = (
    "validation failed due to running out of cost budget, no further validation rules will be run"
)
_REASONS: Final = {
    "FieldValueForbidden": errors.forbidden_field,
    "FieldValueRequired": errors.required,
}


class Exhausted(Exception):
    """No further rules are run; the reason is among the causes already."""


class Rule:
    """One rule, compiled. `problem` is what is wrong with it."""

    def __init__(self, spec: Raw, raw: Raw, type_: cel.Type) -> None:
        self.spec = spec
        self.text: str = (spec.get("rule") or "").strip()
        self.message: str = (spec.get("message") or "").strip()
        self.optional_old = bool(spec.get("optionalOldSelf"))
        self.problem = ""
        self.message_problem = ""
        self.program: cel.Program | None = None
        self.message_program: cel.Program | None = None
        old = cel.optional_of(type_) if self.optional_old else type_
        variables = {"self": type_, "oldSelf": old}
        try:
            self.program = cel.compile(self.text, variables)
            if self.program.type != cel.BOOL:
                self.problem = "cel expression must evaluate to a bool"
        except cel.CompileError as error:
            self.problem = f"compilation failed: {error}"
        self.uses_old = self.program is not None and "oldSelf" in self.program.uses
        self._compile_message(variables)
        self.path = ""
        if spec.get("fieldPath"):
            try:
                self.path, _ = fieldpath.resolve(spec["fieldPath"], raw)
            except fieldpath.PathError:
                self.path = ""

    def _compile_message(self, variables: dict[str, cel.Type]) -> None:
        expression = (self.spec.get("messageExpression") or "").strip()
        if not expression:
            return
        try:
            self.message_program = cel.compile(expression, variables)
            if self.message_program.type != cel.STRING:
                self.message_problem = "messageExpression must evaluate to a string"
        except cel.CompileError as error:
            self.message_problem = f"messageExpression compilation failed: {error}"

    @property
    def shown(self) -> str:
        """What error messages call the rule."""
        return self.message or self.text


class Validator:
    """The rules of a schema node and of all below it. Made by `compiled`."""

    def __init__(self, node: Node, *, root: bool) -> None:
        self.node = node
        self.kind = node.type or ("object" if root else "")
        self.rules: list[Rule] = []
        if node.rules:
            type_ = cel.from_schema(node.raw, root=root)
            self.rules = [Rule(each, node.raw, type_) for each in node.rules]
        self.items = compiled(node.items)
        self.additional = compiled(node.additional)
        self.properties = {
            name: found
            for name, raw in node.properties_raw.items()
            if has_rules(raw) and (found := compiled(node.declared(name))) is not None
        }

    def validate(
        self,
        value: Any,
        old: Any,
        path: str = "",
        *,
        ratchet: bool = False,
        budget: cel.Budget | None = None,
    ) -> Causes:
        """What the rules find. `old` is None when there is nothing to compare with."""
        run = _Run(budget or cel.Budget())
        pair = (value, old) if ratchet else None
        try:
            run.visit(self, value, old, path, pair, None)
        except Exhausted:
            pass
        return run.causes


class _Run:
    def __init__(self, budget: cel.Budget) -> None:
        self.causes: Causes = []
        self.budget = budget

    def visit(
        self, at: Validator, value: Any, old: Any, path: str, pair: Pair | None, near: Pair | None
    ) -> None:
        """`pair` is this part and its old value when the two are known to correspond, `near` that of the part around it."""
        if value is None:
            return
        for rule in at.rules:
            self._check(rule, at, value, old, path, pair or near)
        if isinstance(value, list):
            if at.items is not None:
                self._visit_items(at, at.items, value, old, path, pair, near)
        elif isinstance(value, dict):
            self._visit_fields(at, value, old, path, pair, near)

    def _visit_items(
        self,
        at: Validator,
        items: Validator,
        value: list[Any],
        old: Any,
        path: str,
        pair: Pair | None,
        near: Pair | None,
    ) -> None:
        matched = correlated_items(value, at.node, old)
        for index, entry in enumerate(value):
            before = MISSING if matched is None else matched[index]
            known = before is not MISSING
            inner = (entry, before) if known and pair is not None else None
            where = f"{path}[{index}]"
            around = near if pair is None else pair
            self.visit(items, entry, before if known else None, where, inner, around)

    def _visit_fields(
        self,
        at: Validator,
        value: dict[str, Any],
        old: Any,
        path: str,
        pair: Pair | None,
        near: Pair | None,
    ) -> None:
        if not at.properties and at.additional is None:
            return
        before = old if isinstance(old, dict) else {}
        top = near is None and not path
        for key, entry in value.items():
            found = at.properties.get(key)
            where = f"{path}.{key}" if path else key
            if found is None:
                if at.additional is None or key in at.node.properties_raw:
                    continue
                found, where = at.additional, f"{path}[{key}]"
            inner = (entry, before[key]) if pair is not None and key in before else None
            around = near if pair is None else pair
            if top and key in ("apiVersion", "kind"):
                inner = around = None
            self.visit(found, entry, before.get(key), where, inner, around)

    def _check(
        self, rule: Rule, at: Validator, value: Any, old: Any, path: str, pair: Pair | None
    ) -> None:
        if rule.problem:
            self._invalid(path, at.kind, f"rule compile error: {rule.problem}")
            return
        if rule.program is None or (rule.uses_old and old is None and not rule.optional_old):
            return
        if self.budget.left <= 0:
            self._invalid(path, at.kind, _OUT_OF_BUDGET)
            raise Exhausted
        bindings = bound(rule, value, old)
        try:
            holds = rule.program.evaluate(bindings, self.budget)
        except cel.BudgetExceeded as error:
            text = _OUT_OF_BUDGET
            if self.budget.left > 0:
                text = f"'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {rule.shown}"
            self._invalid(path, at.kind, text)
            raise Exhausted from None
        except cel.EvaluationError as error:
            text = f"{error} evaluating rule: {rule.shown}"
            if str(error).startswith("no such overload"):
                text = f"'{error}': call arguments did not match a supported operator, function or macro signature for rule: {rule.shown}"
            self._invalid(path, at.kind, text)
            return
        if holds is True or (not rule.uses_old and pair is not None and equal(*pair)):
            return
        self._complain(rule, at, value, path, bindings)

    def _invalid(self, path: str, kind: str, text: str) -> None:
        self.causes.append(errors.invalid_value(path or NOWHERE, kind, text))

    def _complain(
        self, rule: Rule, at: Validator, value: Any, path: str, bindings: dict[str, Any]
    ) -> None:
        if rule.path:
            joined = rule.path if rule.path.startswith("[") or not path else f".{rule.path}"
            path += joined
        detail = self._message(rule, at, path, bindings) or rule.message
        detail = detail or f"failed rule: {rule.shown}"
        where, reason = path or NOWHERE, rule.spec.get("reason")
        make = _REASONS.get(reason or "")
        whole = at.kind in ("object", "array")  # too much to show
        if make is not None:
            self.causes.append(make(where, detail))
        elif reason == "FieldValueDuplicate":
            found = errors.duplicate(where, value)
            self.causes.append(found._replace(message="Duplicate value") if whole else found)
        elif whole:
            self.causes.append(Cause(where, "FieldValueInvalid", f"Invalid value: {detail}"))
        else:
            self.causes.append(errors.invalid_value(where, value, detail))

    def _message(
        self, rule: Rule, at: Validator, path: str, bindings: dict[str, Any]
    ) -> str | None:
        """The evaluated messageExpression; None when it gives nothing that can be shown."""
        if rule.message_program is None or rule.message_problem:
            return None
        try:
            text = rule.message_program.evaluate(bindings, self.budget)
        except cel.BudgetExceeded:
            expression = rule.spec.get("messageExpression") or ""
            words = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
            if self.budget.left > 0:
                words = f"no further validation rules will be run due to call cost exceeds limit for messageExpression: {errors.quote(expression)}"
            self._invalid(path, at.kind, words)
            raise Exhausted from None
        except cel.EvaluationError:
            return None
        shown = text.strip() if isinstance(text, str) else ""
        fits = len(shown.encode("utf-8", "surrogatepass")) <= MAX_MESSAGE and "\n" not in shown
        return shown if fits and shown else None


def bound(rule: Rule, value: Any, old: Any) -> dict[str, Any]:
    """The variables as the rule reads them."""
    if not rule.uses_old:
        return {"self": value}
    if not rule.optional_old:
        return {"self": value, "oldSelf": old}
    from sampan.kube.cel.schema import typed
    from sampan.kube.cel.values import NONE, Optional

    if old is None:
        return {"self": value, "oldSelf": NONE}
    assert rule.program is not None
    type_ = next((each for name, _, each in rule.program._variables if name == "oldSelf"), None)
    inner = type_.params[0] if type_ is not None else cel.DYN
    return {"self": value, "oldSelf": Optional(typed(old, inner))}


def has_rules(raw: Raw) -> bool:
    return any(each.get("x-kubernetes-validations") for each in structural_parts(raw))


def compiled(node: Node | None, *, root: bool = False) -> Validator | None:
    """The rules of the node and below; None when there are none."""
    if node is None or not has_rules(node.raw):
        return None
    return Validator(node, root=root or node.embedded)


# --- the definition's side ----------------------------------------------------------------------------


def check(raw: Raw, path: str) -> Causes:
    """What is wrong with the rules of a structural schema: they compile, and read `oldSelf` only where it can be known."""
    causes: Causes = []
    for found, where, uncorrelated in _places(compiled(Node(raw), root=True), path, ""):
        for index, rule in enumerate(found.rules):
            place = f"{where}.x-kubernetes-validations[{index}]"
            if rule.problem:
                causes.append(errors.invalid_value(f"{place}.rule", rule.spec, rule.problem))
            if rule.message_problem:
                causes.append(
                    errors.invalid_value(
                        f"{place}.messageExpression", rule.spec, rule.message_problem
                    )
                )
            if rule.uses_old and uncorrelated:
                text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {uncorrelated}"
                causes.append(errors.invalid_value(f"{place}.rule", rule.spec["rule"], text))
            elif not rule.uses_old and rule.spec.get("optionalOldSelf") is not None:
                text = "may not be set if oldSelf is not used in rule"
                given = rule.spec["optionalOldSelf"]
                causes.append(errors.invalid_value(f"{place}.optionalOldSelf", given, text))
    return causes


def _places(
    at: Validator | None, path: str, uncorrelated: str
) -> Iterator[tuple[Validator, str, str]]:
    """(validator, its path in the schema, the path of a list around it whose items have no identity or "")."""
    if at is None:
        return
    yield at, path, uncorrelated
    if at.items is not None:
        inner = uncorrelated or ("" if at.node.list_type == "map" else path)
        yield from _places(at.items, f"{path}.items", inner)
    yield from _places(at.additional, f"{path}.additionalProperties", uncorrelated)
    for name, each in at.properties.items():
        yield from _places(each, f"{path}.properties[{name}]", uncorrelated)
