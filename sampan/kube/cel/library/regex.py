"""`matches`, `find`, `findAll`: RE2, whose time is linear in the text whatever the pattern (ReDoS is not possible)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sampan.kube import patterns
from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.types import BOOL, INT, STRING, list_of

MAX_MEMORY = 2 << 20  # of one compiled pattern and its automaton
KEPT = 64


@lru_cache(maxsize=KEPT)
def compiled(pattern: str) -> Any:
    """Raises EvaluationError for what is not RE2 syntax, or too large."""
    try:
        return patterns.compiled(pattern, MAX_MEMORY)
    except patterns.PatternError as error:
        raise EvaluationError(str(error)) from None


# Text goes in as bytes: for a str the binding reckons each match's place from the start again.


def matches(text: str, pattern: str) -> bool:
    return compiled(pattern).search(text.encode()) is not None


def _find(text: str, pattern: str) -> str:
    found = compiled(pattern).search(text.encode())
    return "" if found is None else str(found.group(0).decode("utf-8", "replace"))


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found: list[str] = []
    for match in compiled(pattern).finditer(text.encode()):
        if 0 <= limit <= len(found):
            break
        found.append(match.group(0).decode("utf-8", "replace"))
    return found


FUNCTIONS: Library = {
    "matches": [
        function("matches", (STRING, STRING), BOOL, matches),
        method("matches_string", (STRING, STRING), BOOL, matches),
    ],
    "find": [method("string_find_string", (STRING, STRING), STRING, _find)],
    "findAll": [
        method("string_find_all_string", (STRING, STRING), list_of(STRING), _find_all),
        method("string_find_all_string_int", (STRING, STRING, INT), list_of(STRING), _find_all),
    ],
}
