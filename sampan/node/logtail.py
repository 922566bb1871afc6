"""The last lines of a container's log as plain text: what FallbackToLogsOnError shows of a container that failed."""

from __future__ import annotations

from pathlib import Path

LINES = 80
BYTES = 2048
_READ = 64 * 1024


def tail(path: Path, lines: int = LINES, limit: int = BYTES) -> str:
    """Empty when there is no log. Lines are in CRI's log format: time, stream, tag, text."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            begin = max(0, file.tell() - _READ)
            file.seek(begin)
            rows = file.read().split(b"\n")
    except OSError:
        return ""
    if begin:
        rows = rows[1:]
    texts = []
    for row in rows:
        parts = row.split(b" ", 3)
        if len(parts) == 4:
            texts.append(parts[3] + (b"" if parts[2].startswith(b"P") else b"\n"))
    return b"".join(texts[-lines:])[-limit:].decode("utf-8", "replace")
