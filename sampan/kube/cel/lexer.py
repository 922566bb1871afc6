"""Text into tokens: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax (lexis)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sampan.kube.cel.errors import CompileError, Issue

MAX_LENGTH = 100_000  # characters of one expression, as in cel-go

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n\f]+|//[^\n]*)
  | (?P<string>[bB]?[rR]?(?:\"\"\"|'''|"|'))
  | (?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
  | (?P<uint>0x[0-9a-fA-F]+[uU]|\d+[uU])
  | (?P<int>0x[0-9a-fA-F]+|\d+)
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<quoted>`[A-Za-z0-9_.\-/ ]+`)
  | (?P<op>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    '"': '"',
    "'": "'",
    "\\": "\\",
    "?": "?",
    "`": "`",
}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\"'\\?`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"
)


_NO_ESCAPE = re.compile(r"\\(?:[xXuU][0-9a-fA-F]*)?.", re.DOTALL)


class Token(NamedTuple):
    kind: str  # op | word | quoted | int | uint | float | string | bytes | end
    value: Any
    position: int


def tokens(source: str) -> list[Token]:
    """Raises CompileError at the first character that starts no token."""
    if len(source) > MAX_LENGTH:
        message = (
            f"expression code point size exceeds limit: size: {len(source)}, limit {MAX_LENGTH}"
        )
        raise CompileError(source[:80], [Issue(-1, message)])
    found: list[Token] = []
    position, end = 0, len(source)
    while position < end:
        match = _TOKEN.match(source, position)
        if match is None:
            # Half an operator is refused with the character that should have been its other half.
            width = 2 if source[position] in "=&|" else 1
            text = source[position : position + width]
            raise CompileError(source, [Issue(position, _unrecognized(text))])
        kind = match.lastgroup
        text = match.group()
        if kind == "space":
            position = match.end()
            continue
        if kind == "string":
            token, position = _string(source, position, text)
            found.append(token)
            continue
        found.append(_plain(source, kind or "", text, position))
        position = match.end()
    found.append(Token("end", "<EOF>", end))
    return found


_SHOWN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _unrecognized(text: str) -> str:
    shown = "".join(_SHOWN.get(each, each) for each in text)
    return f"Syntax error: token recognition error at: '{shown}'"


def _plain(source: str, kind: str, text: str, position: int) -> Token:
    if kind == "int":
        return Token("int", int(text, 16 if text.startswith("0x") else 10), position)
    if kind == "uint":
        value = int(text[:-1], 16 if text.startswith("0x") else 10)
        if value >= 1 << 64:
            raise CompileError(source, [Issue(position, "invalid uint literal")])
        return Token("uint", value, position)
    if kind == "float":
        return Token("float", float(text), position)
    if kind == "quoted":
        return Token("quoted", text[1:-1], position)
    return Token(kind, text, position)


def _string(source: str, start: int, opening: str) -> tuple[Token, int]:
    """A literal that begins at `start`, and where it ends."""
    prefix = opening.rstrip("\"'").lower()
    quote = opening[len(prefix) :]
    raw = "r" in prefix
    position = start + len(opening)
    long = len(quote) == 3
    scan = position
    while True:
        at = source.find(quote, scan)
        if at < 0:
            until = re.compile(r"[^\n]*\n?").match(source, start)
            text = source[start:] if long or until is None else until.group()
            raise CompileError(source, [Issue(start, _unrecognized(text[:200]))])
        if raw or not _odd_backslashes(source, position, at):
            break
        scan = at + 1
    body = source[position:at]
    if not long and ("\n" in body or "\r" in body):
        stop = position + min(body.find(each) for each in "\n\r" if each in body)
        raise CompileError(source, [Issue(start, _unrecognized(source[start : stop + 1]))])
    if "b" in prefix:
        return Token(
            "bytes", body.encode() if raw else _bytes(source, body, position, start), start
        ), at + len(quote)
    value = body if raw or "\\" not in body else _text(source, body, position, start)
    return Token("string", value, start), at + len(quote)


def _odd_backslashes(source: str, start: int, at: int) -> bool:
    count = 0
    while at - count > start and source[at - count - 1] == "\\":
        count += 1
    return count % 2 == 1


def _text(source: str, body: str, offset: int, start: int) -> str:
    def value(match: re.Match[str]) -> str:
        simple, byte, four, eight, octal = match.groups()
        if simple:
            return _ESCAPES[simple]
        code = int(octal, 8) if octal else int(byte or four or eight, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise CompileError(
                source, [Issue(offset + match.start(), "invalid unicode code point")]
            )
        return chr(code)

    return _unescaped(source, body, offset, start, value)


def _bytes(source: str, body: str, offset: int, start: int) -> bytes:
    """In a bytes literal \\x and octal stand for bytes, anything else for its UTF-8."""

    def value(match: re.Match[str]) -> str:
        simple, byte, four, eight, octal = match.groups()
        if simple:
            return _ESCAPES[simple]
        if four or eight:
            raise CompileError(source, [Issue(offset + match.start(), "unable to unescape string")])
        return chr(0xDC00 + (int(octal, 8) if octal else int(byte, 16)))

    text = _unescaped(source, body, offset, start, value)
    # A byte travels as a lone surrogate until here, so that it cannot be taken for a character.
    return b"".join(
        bytes((ord(each) - 0xDC00,)) if 0xDC00 <= ord(each) <= 0xDCFF else each.encode()
        for each in text
    )


def _unescaped(source: str, body: str, offset: int, start: int, value: Any) -> str:
    parts, last = [], 0
    while (at := body.find("\\", last)) >= 0:
        match = _ESCAPE.match(body, at)
        if match is None:
            wrong = _NO_ESCAPE.match(source, offset + at)
            until = wrong.end() if wrong is not None else len(source)
            raise CompileError(source, [Issue(start, _unrecognized(source[start:until]))])
        parts += [body[last:at], value(match)]
        last = match.end()
    return "".join(parts) + body[last:]
