"""Answers of the image index that are good as long as nobody writes to it: a pod's start asks for its image, and to open a
database and ask takes thirty times as long as to see that it is still the one that was asked before.

SQLite counts the commits of a database in its header (file format, section 1.3.6), in any journal mode but WAL, which the
index does not use. An answer is kept under the count only if that was the same before and after the question: then
no commit was under way, nor one that a crash had left to be rolled back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
LIMIT = 256  # answers
_COUNT_AT, _COUNT_SIZE = 24, 4


class Remembered(Generic[Answer]):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = b""
        self._answers: dict[str, Answer] = {}

    def count(self) -> bytes:
        """The database's commits, and which file it is: b"" when there is none."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(fd, _COUNT_SIZE, _COUNT_AT) + os.fstat(fd).st_ino.to_bytes(8, "big")
        finally:
            os.close(fd)

    def get(self, count: bytes, question: str) -> Answer | None:
        if count != self._count:
            self._answers.clear()
            self._count = count
        return self._answers.get(question)

    def put(self, count: bytes, question: str, answer: Answer) -> None:
        """`count`: as it was before the question was put to the database."""
        if not count or count != self._count or count != self.count():
            return
        if len(self._answers) >= LIMIT:
            self._answers.clear()
        self._answers[question] = answer
