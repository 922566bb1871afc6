"""`.dockerignore`: which files of a build context do not exist for the build.

Rules (Docker's build-context reference): one pattern a line, `#` comments, a leading slash is of no account, `*` and `?` stay
within one path component, `**` spans any number, `!` makes an exception, the last matching line decides, and a pattern
that matches a directory holds for everything in it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass


def _expression(pattern: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            out, at = out + "(?:[^/]+/)*", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif char == "*":
            out, at = out + "[^/]*", at + 1
        elif char == "?":
            out, at = out + "[^/]", at + 1
        elif char == "[" and "]" in pattern[at + 1 :]:
            end = pattern.index("]", at + 1)
            body = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out, at = out + f"[{body}]", end + 1
        elif char == "\\" and at + 1 < len(pattern):
            out, at = out + re.escape(pattern[at + 1]), at + 2
        else:
            out, at = out + re.escape(char), at + 1
    return re.compile(f"{out}(?:/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    rules: tuple[tuple[re.Pattern[str], bool], ...] = ()  # pattern, excludes

    @classmethod
    def read(cls, text: str) -> IgnoreFile:
        """Raises ValueError for a pattern that is none."""
        rules = []
        for line in text.removeprefix("\ufeff").splitlines():
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            excludes = not pattern.startswith("!")
            pattern = os.path.normpath(pattern.removeprefix("!").strip()).lstrip("/")
            if pattern == ".":
                continue
            try:
                rules.append((_expression(pattern), excludes))
            except re.error as error:
                raise ValueError(f".dockerignore: invalid pattern {line!r}: {error}") from None
        return cls(tuple(rules))

    def excludes(self, path: str) -> bool:
        """`path` is relative to the context, with /."""
        for expression, excludes in reversed(self.rules):
            if expression.fullmatch(path):
                return excludes
        return False
