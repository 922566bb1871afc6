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
budget (or than the stock system on the same machine), whichever way the figure counts. Under each title stands how busy
other things kept the processors just before: on a busy machine figures are worse than the code is. Times are medians
unless said otherwise; memory is PSS, which counts shared pages once; load and what is measured share the processors.

**Machine:** {machine}

**Peers on this machine:** {peers}
"""


def write(sections: Mapping[str, Sequence[Section]], to: Path = DOCUMENT) -> None:
    to.write_text(document(sections))


def document(sections: Mapping[str, Sequence[Section]]) -> str:
    """`sections`: what each bench showed, by its name."""
    parts = [HEAD.format(machine=machine(), peers=peers.describe())]
    budgeted = [
        f for found in sections.values() for section in found for f in section.figures if f.budget
    ]
    if budgeted:
        missed = sum(figure.missed for figure in budgeted)
        parts.append(f"**Budgets:** {len(budgeted) - missed} of {len(budgeted)} kept.\n")
    for name, found in sections.items():
        for section in found:
            parts += [
                f"## {section.title}\n",
                f"{section.date}; {section.busy:.0f} % busy before\n",
            ]
            parts.append(table(section.figures) + "\n")
            parts += [f"{remark}\n" for remark in section.remarks]
            parts += [miss(name, figure) + "\n" for figure in section.figures if figure.missed]
    return "\n".join(parts)


def miss(bench: str, figure: Figure) -> str:
    """A budget that was missed: by how much, and why."""
    assert figure.budget is not None
    share = abs(figure.value / figure.budget - 1) * 100
    reason = WHY.get((bench, figure.name), "The reason is not known yet.")
    return (
        f"**Missed: {figure.name}**, by {share:.0f} % "
        f"({number(figure.value)} for {number(figure.budget)} {figure.unit}). {reason}"
    )
