"""Property names as identifiers of the language: `x-y` is written `x__dash__y`, `namespace` is `__namespace__`.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#escaping
"""

from __future__ import annotations

import re

RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_BACK = {"underscores": "__", "dot": ".", "dash": "-", "slash": "/"}
_ESCAPED = re.compile(r"__|[.\-/]")
_ALLOWED = re.compile(r"[A-Za-z_.\-/][A-Za-z0-9_.\-/]*\Z")
_SEQUENCE = re.compile(r"__([^_]+)__")


def escape(name: str) -> str | None:
    """The identifier for a property; None when expressions cannot reach it."""
    if name in RESERVED:
        return f"__{name}__"
    if not _ALLOWED.match(name):
        return None
    return _ESCAPED.sub(lambda found: _ESCAPES[found.group()], name)


def unescape(name: str) -> str:
    """The property that an identifier stands for; the identifier itself when it is no valid escape."""

    def back(found: re.Match[str]) -> str:
        word = found.group(1)
        if word in _BACK:
            return _BACK[word]
        return word if word in RESERVED and found.group() == name else found.group()

    return _SEQUENCE.sub(back, name) if "__" in name else name
