"""What can go wrong with an expression.

CelError
├── CompileError       it does not parse or its types do not fit; worded and pointed at as cel-go does it
├── EvaluationError    this input has no answer: no such key, division by zero, no such overload …
└── BudgetExceeded     it would cost more than it may; never absorbed by `&&`, `||` or a macro
"""

from __future__ import annotations


class CelError(Exception):
    """Base of all; `str()` is the message that a user sees."""


class Issue:
    """One fault in the source, at a character offset."""

    __slots__ = ("message", "position")

    def __init__(self, position: int, message: str) -> None:
        self.position = position
        self.message = message


class CompileError(CelError):
    """Every fault found, in the order of the source."""

    def __init__(self, source: str, issues: list[Issue]) -> None:
        self.source = source
        self.issues = sorted(issues, key=lambda issue: issue.position)
        super().__init__("\n".join(pointed(source, issue) for issue in self.issues))


class EvaluationError(CelError):
    pass


class BudgetExceeded(CelError):
    def __init__(self, message: str = "operation cancelled: actual cost limit exceeded") -> None:
        super().__init__(message)


def pointed(source: str, issue: Issue) -> str:
    """`ERROR: <input>:1:6: …`, the line, and a caret under the place; -1 is no place, -2 no header either."""
    if issue.position == -2:
        return issue.message
    if issue.position < 0:
        return f"ERROR: <input>:-1:0: {issue.message}"
    before = source[: issue.position]
    line = before.count("\n") + 1
    column = issue.position - (before.rfind("\n") + 1)
    text = source.split("\n")[line - 1].replace("\t", " ")
    head = f"ERROR: <input>:{line}:{column + 1}: {issue.message}"
    return f"{head}\n | {text}\n | {'.' * column}^"


def no_overload() -> EvaluationError:
    return EvaluationError("no such overload")


def no_key(key: object) -> EvaluationError:
    return EvaluationError(f"no such key: {key}")
