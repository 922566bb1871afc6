"""One evaluation: the variables, what was spent, what may be spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.kube.cel.errors import BudgetExceeded


class Frame:
    __slots__ = ("cost", "limit", "slots")

    def __init__(self, slots: list[Any], limit: int) -> None:
        self.slots = slots
        self.cost = 0
        self.limit = limit

    def charge(self, units: int) -> None:
        self.cost += units
        if self.cost > self.limit:
            raise BudgetExceeded


Step = Callable[[Frame], Any]
