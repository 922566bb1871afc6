"""Objects come in crowds: a thousand pods of one template differ in their names and in nothing else.

What is a pure function of a large part of an object (is this pod spec valid? who owns which of its fields?) is worked out
once and remembered by the part's bytes. Encoding a pod spec costs two microseconds; the answers cost a hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import orjson

T = TypeVar("T")

REMEMBERED = 256  # parts
LARGEST = 8 * 1024  # bytes of one that is remembered


class Crowd(Generic[T]):
    """`work`, for parts that come again. What it gives is shared, so nobody may change it."""

    def __init__(self, work: Callable[[Any], T]) -> None:
        self._work = work
        self._known: dict[bytes, T] = {}

    def __call__(self, part: Any) -> T:
        """`part` is of JSON's types."""
        try:
            text = orjson.dumps(part)
        except TypeError:  # nested deeper than can be encoded
            return self._work(part)
        known = self._known
        try:
            return known[text]
        except KeyError:
            found = self._work(part)
        if len(text) <= LARGEST:
            if len(known) >= REMEMBERED:
                known.clear()
            known[text] = found
        return found
