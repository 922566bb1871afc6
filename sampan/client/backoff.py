"""Backoff: growing pauses with jitter, so that many clients of a server that comes back do not all come at once."""

from __future__ import annotations

import random


class Backoff:
    """`next()` doubles from `first` to `longest` seconds; each pause is shortened by up to half at random."""

    def __init__(self, first: float, longest: float, chance: random.Random | None = None) -> None:
        self.first = first
        self.longest = longest
        self._chance = chance or random.Random()
        self._pause = first

    def next(self) -> float:
        pause = self._pause
        self._pause = min(pause * 2, self.longest)
        return pause * (1 - self._chance.random() / 2)

    def reset(self) -> None:
        self._pause = self.first
