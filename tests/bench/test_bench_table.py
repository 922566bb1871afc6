"""What `make bench` prints and writes. No figure is measured here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import report, table
from bench.__main__ import BENCHES
from bench.table import Figure, Section
from bench.why import WHY

ROOT = Path(__file__).resolve().parents[2]
FAST = Figure("creates", 8400, "/s", 4200)
SLOW = Figure("start", 0.9, "s", 0.6, False, note="best 0.8")


def section(*figures: Figure) -> Section:
    return Section("A part", figures, "2026-01-02 03:04", 3.4, ("A remark.",))


@pytest.mark.parametrize(
    ("figure", "ratio", "missed"),
    [
        (Figure("rate", 8400, "/s", 4200), "2.00×", False),
        (Figure("rate", 2100, "/s", 4200), "0.50×", True),
        (Figure("time", 0.3, "s", 0.6, False), "2.00×", False),
        (Figure("time", 1.2, "s", 0.6, False), "0.50×", True),
        (Figure("time", 0.6, "s", 0.6, False), "1.00×", False),
        (Figure("free", 5, "s"), "", False),
        (Figure("nothing", 0, "s", 1, False), "", False),
    ],
)
def test_a_ratio_above_one_is_better_whichever_way_the_figure_counts(
    figure: Figure, ratio: str, missed: bool
) -> None:
    assert figure.ratio(figure.budget) == ratio
    assert figure.missed is missed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567.8, "1,234,568"), (100, "100"), (99.96, "100"), (12.345, "12.3"), (0.01234, "0.0123"), (0, "0")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert table.number(value) == text


def test_columns_line_up_and_empty_ones_are_left_out() -> None:
    lines = table.table([FAST, SLOW]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "what", "measured", "budget", "to budget", "note",
    ]  # fmt: skip
    assert "≥ 4,200 /s" in lines[2]
    assert "≤ 0.6 s" in lines[3]
    assert "stock" in table.table([Figure("rate", 2, "/s", peer=1)]).splitlines()[0]


def test_what_is_shown_reaches_the_one_who_runs_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    monkeypatch.setenv(table.RESULTS, str(results))
    monkeypatch.setenv(table.BUSY, "12.5")
    table.show("A part", [FAST, SLOW], ["A remark."])
    table.show("Another", [FAST])
    first, second = map(Section.from_json, results.read_text().splitlines())
    assert first.figures == (FAST, SLOW)
    assert first.remarks == ("A remark.",)
    assert first.busy == 12.5
    assert second.title == "Another"
    printed = capsys.readouterr().out
    assert "### A part" in printed
    assert "A remark." in printed


def test_every_missed_budget_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WHY, ("part", "start"), "It waits for the disk.")
    stop, rate = Figure("stop", 2, "s", 1, False), Figure("rate", 300, "/s", 400)
    text = report.document({"part": [section(FAST, SLOW, stop, rate)]})
    assert "**Missed: start**, by 50 % (0.9 for 0.6 s). It waits for the disk." in text
    assert "**Missed: stop**, by 100 % (2 for 1 s). The reason is not known yet." in text
    assert "**Missed: rate**, by 25 % (300 for 400 /s)." in text
    assert "Missed: creates" not in text
    assert "**Budgets:** 1 of 4 kept." in text
    assert "2026-01-02 03:04; 3 % busy before" in text
    assert "A remark." in text
    assert table.machine() in text


def test_every_bench_is_registered_and_every_registered_bench_exists() -> None:
    found = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        if re.search(r"^from bench\.table import .*\bshow\b", path.read_text(), re.MULTILINE)
    }
    assert found == set(BENCHES)


def test_reasons_name_benches_that_exist() -> None:
    assert {bench for bench, _ in WHY} <= set(BENCHES)


def test_how_busy_the_processors_are_is_a_share() -> None:
    assert 0 <= table.busy(0.05) <= 100


def test_an_unknown_bench_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "speed"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no bench speed; there are store, " in done.stderr
