"""How far a pull or push is: one line that is drawn over itself on a terminal, a line for each blob elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

REDRAW = 0.1  # seconds
WIDTH = 24


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


class Bar:
    """A `Progress` (image/registry.py). `close` leaves the terminal on a line of its own."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = out or sys.stderr
        self.live = self.out.isatty()
        self.sizes: dict[str, int] = {}
        self.passed: dict[str, int] = {}
        self.finished: set[str] = set()
        self._began = time.monotonic()
        self._drawn = 0.0

    def begin(self, digest: str, size: int) -> None:
        self.sizes[digest], self.passed[digest] = size, 0
        self._draw()

    def advance(self, digest: str, count: int) -> None:
        self.passed[digest] += count
        if time.monotonic() - self._drawn >= REDRAW:
            self._draw()

    def end(self, digest: str, how: str) -> None:
        self.finished.add(digest)
        if how != "failed":
            self.passed[digest] = self.sizes[digest]
        if self.live:
            self._draw()
        else:
            short = digest.partition(":")[2][:12]
            self.out.write(f"{short}  {size(self.sizes[digest])}  {how}\n")

    def line(self) -> str:
        total, passed = sum(self.sizes.values()), sum(self.passed.values())
        share = passed / total if total else 1.0
        filled = int(share * WIDTH)
        speed = passed / max(time.monotonic() - self._began, 0.001)
        return (
            f"[{'#' * filled}{'-' * (WIDTH - filled)}] {share:4.0%}  {size(passed)} of {size(total)}  "
            f"{len(self.finished)}/{len(self.sizes)} blobs  {size(speed)}/s"
        )

    def _draw(self) -> None:
        if self.live:
            self._drawn = time.monotonic()
            self.out.write(f"\r\x1b[K{self.line()}")
            self.out.flush()

    def close(self) -> None:
        if self.live and self.sizes:
            self._draw()
            self.out.write("\n")
