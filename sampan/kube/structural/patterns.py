"""Regular expressions as schemas write them: Go's RE2 syntax, run by Python's `re`.

What RE2 has and Python spells differently is translated; what Python has and RE2 refuses (look-around, back-references)
is refused, so that a definition accepted here is accepted by Kubernetes too. https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7F",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1F\\x7F",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
# \d, \s and \w are ASCII in RE2.
_CLASSES: Final = {"d": "0-9", "s": "\\t\\n\\f\\r ", "w": "0-9A-Za-z_"}
_ESCAPES: Final = "AabBfnrtvx0"  # letters and digits that stand for something after a backslash
_PERL_GROUPS: Final = ("?=", "?!", "?<=", "?<!", "?>", "?#", "?(")


class PatternError(ValueError):
    """No regular expression that RE2 would take."""


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> re.Pattern[str]:
    """Raises PatternError, worded as Go's regexp/syntax."""
    try:
        return re.compile(_translated(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"error parsing regexp: {error}: `{pattern}`") from None


def matches(pattern: str, text: str) -> bool:
    """Is there a match anywhere in the text?"""
    return compiled(pattern).search(text) is not None


def _translated(pattern: str) -> str:
    out: list[str] = []
    at, size = 0, len(pattern)
    multiline = False
    while at < size:
        char = pattern[at]
        if char == "\\":
            piece, at = _escape(pattern, at, inside=False)
            out.append(piece)
        elif char == "[":
            piece, at = _class(pattern, at)
            out.append(piece)
        elif char == "$":
            out.append("$" if multiline else "\\Z")
            at += 1
        elif char == "(" and pattern.startswith("(?", at):
            opening = pattern[at + 1 : at + 4]
            if opening.startswith(_PERL_GROUPS) or opening in ("?P=", "?P>"):
                raise PatternError(
                    "error parsing regexp: invalid or unsupported Perl syntax: "
                    f"`{pattern[at : at + 3]}`"
                )
            flags = re.match(r"\(\?([imsU]*)(?:-([imsU]+))?([:)])", pattern[at:])
            if flags:
                multiline = "m" in flags[1] or (multiline and "m" not in (flags[2] or ""))
                out.append(_flags(flags, at == 0))
                at += flags.end()
            elif opening.startswith("?<"):
                out.append("(?P<")
                at += 3
            else:
                out.append("(?")
                at += 2
        elif char in "*+?" and pattern[at + 1 : at + 2] == "+":
            raise PatternError(
                "error parsing regexp: invalid nested repetition operator: "
                f"`{pattern[at : at + 2]}`"
            )
        else:
            out.append(char)
            at += 1
    return "".join(out)


def _flags(found: re.Match[str], first: bool) -> str:
    on, off, end = found[1].replace("U", ""), (found[2] or "").replace("U", ""), found[3]
    if end == ":":
        return f"(?{on}-{off}:" if off else f"(?{on}:"
    # Python has flags for the whole pattern only at its start.
    return f"(?{on})" if on and first else ""


def _escape(pattern: str, at: int, *, inside: bool) -> tuple[str, int]:
    """The translation of the escape that starts at `at`, and where it ends."""
    if at + 1 >= len(pattern):
        raise PatternError("error parsing regexp: trailing backslash at end of expression: ``")
    char = pattern[at + 1]
    if char == "Q" and not inside:
        end = pattern.find("\\E", at + 2)
        text = pattern[at + 2 : end if end >= 0 else len(pattern)]
        return re.escape(text), (end + 2 if end >= 0 else len(pattern))
    if char == "z":
        return "\\Z", at + 2
    if char == "x" and pattern[at + 2 : at + 3] == "{":
        end = pattern.find("}", at)
        digits = pattern[at + 3 : end]
        try:
            return re.escape(chr(int(digits, 16))), end + 1
        except (ValueError, OverflowError):
            raise PatternError(
                f"error parsing regexp: invalid escape sequence: `{pattern[at : end + 1]}`"
            ) from None
    if char in _CLASSES:
        return (_CLASSES[char] if inside else f"[{_CLASSES[char]}]"), at + 2
    if char.lower() in _CLASSES:
        if inside:
            return f"\\{char}", at + 2
        return f"[^{_CLASSES[char.lower()]}]", at + 2
    if char in "pP":
        return _unicode(pattern, at, inside)
    if char.isalnum() and char not in _ESCAPES:
        raise PatternError(f"error parsing regexp: invalid escape sequence: `\\{char}`")
    return f"\\{char}", at + 2


# General categories that patterns in schemas use, as Python's `re` can say them.
_CATEGORIES: Final = {
    "L": ("[^\\W\\d_]", "[\\W\\d_]"),
    "N": ("\\d", "\\D"),
    "Nd": ("\\d", "\\D"),
    "Z": ("\\s", "\\S"),
    "Zs": ("\\s", "\\S"),
    "Lu": ("[A-Z\u00c0-\u00d6\u00d8-\u00de]", "[^A-Z\u00c0-\u00d6\u00d8-\u00de]"),
    "Ll": ("[a-z\u00df-\u00f6\u00f8-\u00ff]", "[^a-z\u00df-\u00f6\u00f8-\u00ff]"),
}


def _unicode(pattern: str, at: int, inside: bool) -> tuple[str, int]:
    if pattern[at + 2 : at + 3] == "{":
        end = pattern.find("}", at)
        name, after = pattern[at + 3 : end], end + 1
    else:
        name, after = pattern[at + 2 : at + 3], at + 3
    found = _CATEGORIES.get(name)
    if found is None or inside:
        shown = pattern[at:after]
        raise PatternError(f"error parsing regexp: invalid character class range: `{shown}`")
    return found[pattern[at + 1] == "P"], after


def _class(pattern: str, at: int) -> tuple[str, int]:
    """A bracket expression, its POSIX classes spelt out."""
    start, out = at, ["["]
    at += 1
    if pattern.startswith("^", at):
        out.append("^")
        at += 1
    first = True
    while at < len(pattern):
        char = pattern[at]
        if char == "]" and not first:
            return "".join(out) + "]", at + 1
        first = False
        if char == "[" and pattern.startswith("[:", at):
            end = pattern.find(":]", at)
            name = pattern[at + 2 : end]
            if end < 0 or name.lstrip("^") not in _POSIX or name.startswith("^"):
                raise PatternError(
                    "error parsing regexp: invalid character class range: "
                    f"`{pattern[at : end + 2]}`"
                )
            out.append(_POSIX[name])
            at = end + 2
        elif char == "\\":
            piece, at = _escape(pattern, at, inside=True)
            out.append(piece)
        else:
            out.append("\\" + char if char in "[]&~|" else char)
            at += 1
    raise PatternError(f"error parsing regexp: missing closing ]: `{pattern[start:]}`")
