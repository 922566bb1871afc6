"""Cuts a byte stream into lines, for watches: one JSON object per line, whatever pieces it arrives in."""

from __future__ import annotations

LONGEST = (
    16 << 20
)  # far above what any server accepts for one object; beyond it the stream is not a watch


class LineSplitter:
    """`feed` returns the complete lines, without newline; what is left waits for the next piece."""

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest
        self._parts: list[bytes] = []  # joined only when the line ends: no quadratic copying
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Raises ValueError when a line is longer than `longest`."""
        end = piece.rfind(b"\n")
        if end < 0:
            self._keep(piece)
            return []
        head = piece[:end] if not self._parts else b"".join((*self._parts, piece[:end]))
        self._parts.clear()
        self._size = 0
        if end + 1 < len(piece):
            self._keep(piece[end + 1 :])
        return [line for line in head.split(b"\n") if line.strip()]

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.longest:
            raise ValueError(f"a line of more than {self.longest} bytes")
        self._parts.append(piece)
