"""Dockerfiles, read: text becomes a list of instructions with their line numbers, variables resolved. No I/O.

The subset is what needs no running container: everything that `build.py` executes. For each other instruction `REFUSED`
says what to do instead. Rules for comments, continuation, the escape directive, JSON forms and `${name:-word}` follow
Docker's Dockerfile reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.image.errors import BuildError

KNOWN = frozenset(
    [
        "FROM",
        "COPY",
        "ENV",
        "WORKDIR",
        "USER",
        "EXPOSE",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
        "ARG",
        "STOPSIGNAL",
        "VOLUME",
    ]
)
REFUSED = {
    "RUN": "RUN needs a running container; build in the base image (FROM) or beforehand, then COPY the result",
    "ADD": "ADD fetches and unpacks by guesswork; use COPY with files of the build context",
    "HEALTHCHECK": "HEALTHCHECK has no effect in Kubernetes; use a livenessProbe in the pod",
    "ONBUILD": "ONBUILD is not supported; put the instruction in the Dockerfile that needs it",
    "SHELL": "SHELL is not supported; use the JSON form of ENTRYPOINT and CMD",
    "MAINTAINER": 'MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors="…"',
}
SHELL = ["/bin/sh", "-c"]
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z]+)\s*=\s*(.*?)\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    text: str  # after flags, unexpanded
    flags: Mapping[str, str]
    line: int


def parse(text: str, file: str = "Dockerfile") -> tuple[list[Instruction], str]:
    """The instructions and the escape character. Raises BuildError naming the line."""
    escape, directives = "\\", True
    found: list[Instruction] = []
    pending, start = "", 0
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if directives:
            match = _DIRECTIVE.fullmatch(line)
            if match and match[1].lower() == "escape":
                escape = match[2]
                if escape not in ("\\", "`"):
                    raise BuildError(f"invalid escape directive {escape!r}", file, number)
            directives = match is not None
        if line.startswith("#") or not line:  # also between the lines of a continued instruction
            continue
        if not pending:
            start = number
        body = raw.rstrip() if pending else line
        if body.endswith(escape):
            pending += body[:-1]
            continue
        found.append(_instruction(pending + body, file, start))
        pending = ""
    if pending:
        found.append(_instruction(pending, file, start))
    if not found:
        raise BuildError("no instructions", file)
    return found, escape


def _instruction(text: str, file: str, line: int) -> Instruction:
    word, _, rest = text.strip().partition(" ")
    if "\t" in word:
        word, _, rest = text.strip().partition("\t")
    name, rest = word.upper(), rest.strip()
    if name in REFUSED:
        raise BuildError(REFUSED[name], file, line)
    if name not in KNOWN:
        raise BuildError(f"unknown instruction: {word}", file, line)
    if not rest:
        raise BuildError(f"{name} requires at least one argument", file, line)
    flags: dict[str, str] = {}
    if name in ("COPY", "FROM"):
        while match := _FLAG.match(rest):
            flags[match[1]] = match[2] or ""
            rest = rest[match.end() :]
    if name == "COPY" and "<<" in rest:
        raise BuildError("here-documents are not supported; COPY a file instead", file, line)
    return Instruction(name, rest, flags, line)


def json_form(text: str) -> list[str] | None:
    """The list of an exec form, None when the text is not one."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    return None


def command(text: str) -> list[str]:
    """Of ENTRYPOINT and CMD: the exec form as it is, anything else through the shell."""
    words = json_form(text)
    return [*SHELL, text] if words is None else words


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """$name, ${name}, ${name:-word}, ${name:+word}; nothing within single quotes. Quotes stay. Raises ValueError."""
    out: list[str] = []
    at, single = 0, False
    while at < len(text):
        char = text[at]
        if char == "'":
            single = not single
        if single or char not in ("$", escape):
            out.append(char)
            at += 1
        elif char == escape:
            if text[at + 1 : at + 2] == "$":
                out.append("$")
            else:
                out.append(text[at : at + 2])
            at += 2
        else:
            value, at = _variable(text, at + 1, values, escape)
            out.append(value)
    return "".join(out)


def _variable(text: str, at: int, values: Mapping[str, str], escape: str) -> tuple[str, int]:
    if text[at : at + 1] != "{":
        match = _NAME.match(text, at)
        if match is None:
            return "$", at
        return values.get(match[0], ""), match.end()
    match = _NAME.match(text, at + 1)
    if match is None:
        raise ValueError(f"bad substitution in {text!r}")
    depth, end = 1, match.end()
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    if depth:
        raise ValueError(f"unclosed substitution in {text!r}")
    modifier, value = text[match.end() : end - 1], values.get(match[0])
    if not modifier:
        return value or "", end
    word = expand(modifier[2:], values, escape)
    if modifier.startswith(":-"):
        return value or word, end
    if modifier.startswith(":+"):
        return word if value else "", end
    if modifier.startswith(":?"):
        if not value:
            raise ValueError(f"{match[0]}: {word or 'is not set'}")
        return value, end
    raise ValueError(f"unsupported modifier {modifier[:2]!r} in substitution")


def words(text: str, escape: str = "\\") -> list[str]:
    """Split at blanks outside quotes; quotes and escapes are removed. Raises ValueError."""
    found: list[str] = []
    word, started, quote = "", False, ""
    at = 0
    while at < len(text):
        char = text[at]
        if quote:
            if char == quote:
                quote = ""
            elif char == escape and quote == '"' and text[at + 1 : at + 2] in (quote, escape, "$"):
                at += 1
                word += text[at]
            else:
                word += char
        elif char in "\"'":
            quote, started = char, True
        elif char == escape and at + 1 < len(text):
            at += 1
            word, started = word + text[at], True
        elif char.isspace():
            if started or word:
                found.append(word)
            word, started = "", False
        else:
            word += char
        at += 1
    if quote:
        raise ValueError(f"unclosed quote in {text!r}")
    if started or word:
        found.append(word)
    return found


def pairs(text: str, escape: str = "\\", *, legacy: bool = True) -> list[tuple[str, str]]:
    """key=value words of ENV and LABEL; or the old form `KEY the rest of the line`. Raises ValueError."""
    first = text.split(None, 1)
    if legacy and "=" not in first[0]:
        if len(first) < 2:
            raise ValueError(f"{first[0]} has no value")
        return [(first[0], first[1].strip())]
    found = []
    for word in words(text, escape):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"syntax error: {word!r} is not key=value")
        found.append((key, value))
    return found
