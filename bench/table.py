"""Tables of measured figures: what was measured, the budget beside it, their ratio, and the machine that it was measured on.

Nothing here judges: a ratio below 1.00 is shown, never asserted, since machines differ and timed tests lie. What is shown is
also handed to `python -m bench`, when that runs the bench, as one JSON line in the file that `RESULTS` names.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Environment variables that `python -m bench` sets.
RESULTS = "SAMPAN_BENCH_RESULTS"  # a file to append sections to
BUSY = "SAMPAN_BENCH_BUSY"  # how busy the processors were before, in percent


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

    @property
    def missed(self) -> bool:
        if self.budget is None:
            return False
        return self.value < self.budget if self.least else self.value > self.budget


@dataclass(frozen=True, slots=True)
class Section:
    """What one `show` showed. `busy`: percent of the processors that something else took just before the bench began."""

    title: str
    figures: tuple[Figure, ...]
    date: str
    busy: float
    remarks: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Section:
        fields: dict[str, Any] = json.loads(text)
        fields["figures"] = tuple(Figure(**figure) for figure in fields["figures"])
        fields["remarks"] = tuple(fields["remarks"])
        return cls(**fields)


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
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table whose columns also line up in a terminal; columns without content are left out."""
    rows = [HEADS, *(cells(figure) for figure in figures)]
    used = [column for column in range(len(HEADS)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    lines = ["| " + " | ".join(row[c].ljust(widths[c]) for c in used) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * widths[c] for c in used) + " |")
    return "\n".join(lines)


def render(title: str, figures: Iterable[Figure]) -> str:
    return "\n".join((f"### {title}", "", f"{machine()} · load {load():.1f}", "", table(figures)))


def machine() -> str:
    """One line: processor, cores that may be used, memory, kernel, Python."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{_processor()} · {cores} cores · {memory:.1f} GiB · Linux {platform.release()} · "
        f"Python {platform.python_version()}"
    )


def load() -> float:
    return os.getloadavg()[0]


def busy(seconds: float = 1.0) -> float:
    """Percent of all processors' time that is taken now, measured over `seconds`."""

    def times() -> list[int]:
        with open("/proc/stat") as file:
            return [int(word) for word in file.readline().split()[1:9]]

    before = times()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(times(), before, strict=True)]
    idle = spent[3] + spent[4]  # idle and iowait, proc(5)
    return 100 * (1 - idle / max(1, sum(spent)))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def show(title: str, figures: Iterable[Figure], remarks: Iterable[str] = ()) -> None:
    """Print the table; `remarks` are sentences under it."""
    date, before = time.strftime("%Y-%m-%d %H:%M"), float(os.environ.get(BUSY, "0"))
    section = Section(title, tuple(figures), date, before, tuple(remarks))
    sys.stdout.write(render(title, section.figures) + "\n")
    for remark in section.remarks:
        sys.stdout.write(f"\n{remark}\n")
    sys.stdout.flush()
    if where := os.environ.get(RESULTS):
        with Path(where).open("a") as file:
            file.write(section.to_json() + "\n")


def progress(text: str) -> None:
    """What is being measured now, for whoever waits: on standard error."""
    sys.stderr.write(f"  … {text}\n")
    sys.stderr.flush()
