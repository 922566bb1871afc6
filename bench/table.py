"""Tables of measured figures: what was measured, the budget beside it, their ratio, and the machine that it was measured on.

Nothing here judges: a ratio below 1.00 is shown, never asserted, since machines differ and timed tests lie.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. `budget` None: there is none. `least`: more is better (rates); else less is (times, sizes)."""

    name: str
    value: float
    unit: str
    budget: float | None = None
    least: bool = True
    peer: float | None = None  # the same, measured on a stock system on this machine
    note: str = ""

    def ratio(self, to: float | None) -> str:
        """How many times better than `to`; above 1 is better whichever way the figure counts."""
        if not to or not self.value:
            return ""
        return f"{self.value / to if self.least else to / self.value:.2f}×"


HEADS = ("what", "measured", "budget", "to budget", "stock", "to stock", "note")


def cells(figure: Figure) -> tuple[str, ...]:
    bound = "≥" if figure.least else "≤"
    return (
        figure.name,
        f"{number(figure.value)} {figure.unit}",
        f"{bound} {number(figure.budget)} {figure.unit}" if figure.budget is not None else "",
        figure.ratio(figure.budget),
        f"{number(figure.peer)} {figure.unit}" if figure.peer is not None else "",
        figure.ratio(figure.peer),
        figure.note,
    )


def number(value: float) -> str:
    """Three significant digits, thousands grouped."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def render(title: str, figures: Iterable[Figure]) -> str:
    """A Markdown table whose columns also line up in a terminal; columns without content are left out."""
    rows = [HEADS, *(cells(figure) for figure in figures)]
    used = [column for column in range(len(HEADS)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    lines = [f"### {title}", "", machine(), ""]
    for index, row in enumerate(rows):
        lines.append("| " + " | ".join(row[c].ljust(widths[c]) for c in used) + " |")
        if index == 0:
            lines.append("| " + " | ".join("-" * widths[c] for c in used) + " |")
    return "\n".join(lines)


def machine() -> str:
    """One line: processor, cores that may be used, memory, kernel, Python, and how busy it was."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = os.getloadavg()[0]
    return (
        f"{_processor()} · {cores} cores · {memory:.1f} GiB · Linux {platform.release()} · "
        f"Python {platform.python_version()} · load {load:.1f}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def show(title: str, figures: Iterable[Figure]) -> None:
    sys.stdout.write(render(title, figures) + "\n")
