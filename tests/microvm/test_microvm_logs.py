"""Logs that several runtimes write one after the other."""

from __future__ import annotations

from pathlib import Path

from sampan.runtime.microvm.log import Log


def texts(path: Path) -> list[str]:
    return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]


def test_a_killed_runtime_loses_no_line_and_doubles_none(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    output = b"".join(b"line %d\n" % number for number in range(50))
    log = Log(path, state)
    seen = log.write(0, output[:100])
    log.write(1, b"complaint\n")
    with path.open("ab") as file:  # written, and killed before it was noted how far
        file.write(b"2026-01-01T00:00:00Z stdout F line 12\n")
    again = Log(path, state)
    assert again.seen == [seen, 10]
    again.write(0, output[seen:])
    again.flush()
    found = [text for text in texts(path) if text != "complaint"]
    assert found == output.decode().splitlines()


def test_a_rotated_log_is_not_cut(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    log = Log(path, state)
    log.write(0, b"before\nbeg")
    path.rename(tmp_path / "log.1")
    path.write_text("2026-01-01T00:00:00Z stdout F somebody's\n")
    again = Log(path, state)
    again.write(0, b"un\nlast")
    again.flush()
    assert texts(path) == ["somebody's", "begun", "last"]
    assert path.read_text().splitlines()[-1].split(" ")[2] == "P"
