"""Regular expressions as schemas and CEL write them: RE2's, whose time is linear in the text whatever the pattern.

https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from typing import Any


class PatternError(ValueError):
    """No regular expression that RE2 takes; worded as Go's regexp/syntax."""


def compiled(pattern: str, memory: int) -> Any:
    """A pattern of RE2's that with its automaton takes no more than `memory` bytes. Raises PatternError."""
    import re2  # 3 MB: paid for by the first pattern

    options = re2.Options()
    options.log_errors = False
    options.max_mem = memory
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        detail = error.args[0] if error.args else ""
        text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise PatternError(f"error parsing regexp: {text}") from None
