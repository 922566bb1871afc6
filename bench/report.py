"""docs/benchmarks.md: the machine, the peers that were there, every table, and a reason for every budget that is missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import peers
from bench.table import Figure, Section, machine, number, table
from bench.why import WHY

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

Written by `make bench`: do not edit, except the reasons, which are in `bench/why.py`. A ratio above 1 is better than the
budget (or than the stock system on the same machine), whichever way the figure counts. Load is the machine's average
over the minute before the table: on {cores} cores, above 1 means that something else ran too and that figures are worse
than the code is. Times are medians unless said otherwise; memory is PSS, which counts shared pages once.

**Machine:** {machine}

**Peers on this machine:** {peers}
"""


def write(sections: Mapping[str, Sequence[Section]], to: Path = DOCUMENT) -> None:
    to.write_text(document(sections))


def document(sections: Mapping[str, Sequence[Section]]) -> str:
    """`sections`: what each bench showed, by its name."""
    line = machine()
    cores = line.split(" · ")[1].split()[0]
    parts = [HEAD.format(machine=line, cores=cores, peers=peers.describe())]
    budgeted = [
        f for found in sections.values() for section in found for f in section.figures if f.budget
    ]
    if budgeted:
        missed = sum(figure.missed for figure in budgeted)
        parts.append(f"**Budgets:** {len(budgeted) - missed} of {len(budgeted)} kept.\n")
    for name, found in sections.items():
        for section in found:
            parts += [f"## {section.title}\n", f"{section.date}, load {section.load:.1f}\n"]
            parts.append(table(section.figures) + "\n")
            parts += [f"{remark}\n" for remark in section.remarks]
            parts += [miss(name, figure) + "\n" for figure in section.figures if figure.missed]
    return "\n".join(parts)


def miss(bench: str, figure: Figure) -> str:
    """A budget that was missed: by how much, and why."""
    assert figure.budget is not None
    low, high = sorted((figure.value, figure.budget))
    reason = WHY.get((bench, figure.name), "The reason is not known yet.")
    return (
        f"**Missed: {figure.name}**, by {(high / low - 1) * 100:.0f} % "
        f"({number(figure.value)} for {number(figure.budget)} {figure.unit}). {reason}"
    )
