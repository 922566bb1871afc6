"""Regular expressions as schemas write them: RE2's, whose time is linear in the text whatever the pattern.

https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

MAX_MEMORY: Final = 8 << 20  # of one compiled pattern and its automaton


class PatternError(ValueError):
    """No regular expression that RE2 takes; worded as Go's regexp/syntax."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """Raises PatternError."""
    import re2  # 3 MB: paid for by the first schema with a pattern

    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        detail = error.args[0] if error.args else ""
        text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise PatternError(f"error parsing regexp: {text}") from None


def matches(pattern: str, text: str) -> bool:
    """Is there a match anywhere in the text?"""
    return compiled(pattern).search(text) is not None
