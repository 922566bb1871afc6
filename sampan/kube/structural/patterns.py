"""A schema's patterns: many, small, and met again with every object, so they are kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from sampan.kube import patterns
from sampan.kube.patterns import PatternError

__all__ = ["PatternError", "compiled", "matches"]

MAX_MEMORY: Final = 8 << 20  # of one compiled pattern and its automaton


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """Raises PatternError."""
    return patterns.compiled(pattern, MAX_MEMORY)


def matches(pattern: str, text: str) -> bool:
    """Is there a match anywhere in the text?"""
    return compiled(pattern).search(text) is not None
