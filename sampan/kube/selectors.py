"""Label and field selectors: parsing, matching, and the text form.

`LabelSelector` is made from a query string, from a metav1.LabelSelector object or from a plain map, and then only
matches. A requirement that names an absent label fails, except `!=`, `notin` and `!key`, which it satisfies. Text that
is no selector raises ApiError 400. Grammar: apimachinery `labels/selector.go` and `fields/selector.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from sampan.kube import errors, names

IN: Final = "in"
NOT_IN: Final = "notin"
EXISTS: Final = "exists"
ABSENT: Final = "!"
GREATER: Final = ">"
LESS: Final = "<"

_OBJECT_OPERATORS = {
    "In": IN,
    "NotIn": NOT_IN,
    "Exists": EXISTS,
    "DoesNotExist": ABSENT,
    "Gt": GREATER,
    "Lt": LESS,
}


# Stricter than int(), which would also read "1_0" and " 1".
_is_integer = re.compile(r"[+-]?[0-9]{1,19}").fullmatch


class Requirement(NamedTuple):
    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.key)
        match self.operator:
            case "in":
                return found is not None and found in self.values
            case "notin":
                return found is None or found not in self.values
            case "exists":
                return found is not None
            case "!":
                return found is None
        return found is not None and self._compares(found)

    def _compares(self, found: str) -> bool:
        (bound,) = self.values
        if not _is_integer(found) or not _is_integer(bound):
            return False
        return int(found) > int(bound) if self.operator == GREATER else int(found) < int(bound)

    def __str__(self) -> str:
        if self.operator == EXISTS:
            return self.key
        if self.operator == ABSENT:
            return f"!{self.key}"
        if self.operator in (GREATER, LESS):
            (bound,) = self.values
            return f"{self.key}{self.operator}{bound}"
        if len(self.values) == 1:
            (value,) = self.values
            return f"{self.key}{'=' if self.operator == IN else '!='}{value}"
        return f"{self.key} {self.operator} ({','.join(sorted(self.values))})"


class LabelSelector:
    """All requirements must hold. `nothing` matches no object at all; no requirements match every one."""

    __slots__ = ("_equal", "_others", "nothing", "requirements")

    def __init__(self, requirements: Iterable[Requirement] = (), *, nothing: bool = False) -> None:
        self.requirements = tuple(sorted(requirements, key=lambda item: item.key))
        self.nothing = nothing
        # The usual selector is a few equalities: these are kept apart as plain pairs.
        self._equal = tuple(
            (item.key, next(iter(item.values)))
            for item in self.requirements
            if item.operator == IN and len(item.values) == 1
        )
        self._others = tuple(
            item for item in self.requirements if item.operator != IN or len(item.values) != 1
        )

    @property
    def empty(self) -> bool:
        """Everything matches."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        present = labels or {}
        for key, value in self._equal:
            if present.get(key) != value:
                return False
        return all(item.matches(present) for item in self._others)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))

    def __repr__(self) -> str:
        return f"LabelSelector({'nothing' if self.nothing else str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LabelSelector)
            and self.nothing == other.nothing
            and self.requirements == other.requirements
        )

    def __hash__(self) -> int:
        return hash((self.requirements, self.nothing))


EVERYTHING: Final = LabelSelector()
NOTHING: Final = LabelSelector(nothing=True)


def from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """Every pair must be there: a Service's or ReplicationController's selector. No pairs: everything."""
    return LabelSelector(
        Requirement(key, IN, frozenset((value,))) for key, value in (labels or {}).items()
    )


def from_object(selector: Mapping[str, Any] | None) -> LabelSelector:
    """metav1.LabelSelector: None matches nothing, `{}` everything."""
    if selector is None:
        return NOTHING
    requirements = [
        Requirement(key, IN, frozenset((value,)))
        for key, value in (selector.get("matchLabels") or {}).items()
    ]
    requirements += _expressions(selector.get("matchExpressions") or ())
    return LabelSelector(requirements)


def from_expressions(expressions: Iterable[Mapping[str, Any]]) -> LabelSelector:
    """The matchExpressions of a node selector term, which also know Gt and Lt."""
    return LabelSelector(_expressions(expressions))


def _expressions(expressions: Iterable[Mapping[str, Any]]) -> Iterator[Requirement]:
    for item in expressions:
        operator = _OBJECT_OPERATORS.get(item.get("operator") or "")
        if operator is None:
            text = f"{errors.quote(str(item.get('operator') or ''))} is not a valid label selector operator"
            raise errors.bad_request(text)
        yield _checked(item.get("key") or "", operator, item.get("values") or ())


def _checked(key: str, operator: str, values: Iterable[str]) -> Requirement:
    given = frozenset(values)
    if operator in (IN, NOT_IN) and not given:
        raise errors.bad_request(
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
        )
    if operator in (EXISTS, ABSENT) and given:
        raise errors.bad_request("values set must be empty for exists and does not exist")
    if operator in (GREATER, LESS) and len(given) != 1:
        raise errors.bad_request("for 'Gt', 'Lt' operators, exactly one value is required")
    return Requirement(key, operator, given)


# --- text -------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "<", ">", "(", ")", ","))


class _Tokens:
    def __init__(self, text: str) -> None:
        self.items = _TOKEN.findall(text)
        self.at = 0

    def peek(self) -> str:
        return self.items[self.at] if self.at < len(self.items) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token


def parse_labels(text: str) -> LabelSelector:
    """`a=b,c!=d,e in (f,g),h,!i,j>1`. The empty text matches everything."""
    tokens = _Tokens(text)
    requirements: list[Requirement] = []
    while tokens.peek():
        requirements.append(_requirement(tokens))
        token = tokens.take()
        if not token:
            break
        if token != ",":
            raise _unparsed(f"found '{token}', expected: ',' or 'end of string'")
        if not tokens.peek() or tokens.peek() == ",":
            raise _unparsed(f"found '{tokens.peek()}', expected: identifier after ','")
    return LabelSelector(requirements)


def _unparsed(detail: str) -> errors.ApiError:
    return errors.bad_request(f"unable to parse requirement: {detail}")


def _key(tokens: _Tokens) -> str:
    key = tokens.take()
    if key in _SYMBOLS or not key:
        raise _unparsed(f"found '{key}', expected: identifier")
    if reasons := names.label_key(key):
        raise _unparsed(f"key: Invalid value: {errors.quote(key)}: {'; '.join(reasons)}")
    return key


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.peek() == "!":
        tokens.take()
        return Requirement(_key(tokens), ABSENT)
    key = _key(tokens)
    operator = tokens.peek()
    if operator in ("", ","):
        return Requirement(key, EXISTS)
    tokens.take()
    match operator:
        case "=" | "==" | "!=":
            value = _value(tokens, key)
            return Requirement(key, NOT_IN if operator == "!=" else IN, frozenset((value,)))
        case "in" | "notin":
            return Requirement(key, operator, _value_set(tokens, key))
        case "<" | ">":
            value = _value(tokens, key)
            if not _is_integer(value):
                raise _unparsed(
                    f'values[0]: Invalid value: "{value}": '
                    "for 'Gt', 'Lt' operators, the value must be an integer"
                )
            return Requirement(key, operator, frozenset((value,)))
    raise _unparsed(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")


def _value(tokens: _Tokens, key: str) -> str:
    if tokens.peek() in ("", ",", ")"):
        return ""
    value = tokens.take()
    if value in _SYMBOLS:
        raise _unparsed(f"found '{value}', expected: identifier")
    if reasons := names.label_value(value):
        field = f"values[0][{key}]"
        raise _unparsed(f"{field}: Invalid value: {errors.quote(value)}: {'; '.join(reasons)}")
    return value


def _value_set(tokens: _Tokens, key: str) -> frozenset[str]:
    if (token := tokens.take()) != "(":
        raise _unparsed(f"found '{token}', expected: '('")
    values = [_value(tokens, key)]
    while (token := tokens.take()) == ",":
        values.append(_value(tokens, key))
    if token != ")":
        raise _unparsed(f"found '{token}', expected: ',' or ')'")
    return frozenset(values)


# --- fields -----------------------------------------------------------------------------------------


class FieldRequirement(NamedTuple):
    path: str
    operator: str  # "=" or "!="
    value: str


class FieldSelector:
    """All requirements must hold, over the strings that `get(path)` gives."""

    __slots__ = ("requirements",)

    def __init__(self, requirements: Iterable[FieldRequirement] = ()) -> None:
        self.requirements = list(requirements)

    @property
    def empty(self) -> bool:
        return not self.requirements

    def matches(self, get: Callable[[str], str]) -> bool:
        return all(
            (get(item.path) == item.value) == (item.operator == "=") for item in self.requirements
        )

    def required_value(self, path: str) -> str | None:
        """The one value that `path` must have, when the selector says so."""
        for item in self.requirements:
            if item.path == path and item.operator == "=":
                return item.value
        return None

    def __str__(self) -> str:
        return ",".join(
            f"{item.path}{item.operator}{_escape(item.value)}" for item in self.requirements
        )


_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)


def _escape(value: str) -> str:
    return re.sub(r"([\\,=])", r"\\\1", value)


def _unescape(value: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1] not in ("\\", ",", "=") or not match[1]:
            raise errors.bad_request(f"invalid field selector: invalid escape sequence: {match[0]}")
        return match[1]

    return _ESCAPED.sub(plain, value)


def parse_fields(text: str) -> FieldSelector:
    """`a.b=c,d!=e`; `\\`, `,` and `=` in a value are escaped with a backslash."""
    requirements: list[FieldRequirement] = []
    for term in _split_terms(text):
        match = re.search("!=|==|=", term)
        if match is None:
            raise errors.bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        operator = "!=" if match[0] == "!=" else "="
        requirements.append(
            FieldRequirement(term[: match.start()], operator, _unescape(term[match.end() :]))
        )
    return FieldSelector(requirements)


def _split_terms(text: str) -> Iterator[str]:
    term = ""
    escaped = False
    for char in text:
        if char == "," and not escaped:
            if term:
                yield term
            term = ""
            continue
        escaped = char == "\\" and not escaped
        term += char
    if term:
        yield term
