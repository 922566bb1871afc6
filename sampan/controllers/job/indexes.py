"""Sets of completion indexes as text, `0,2-4`, and the index of a pod."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan.kube import objects

INDEX = "batch.kubernetes.io/job-completion-index"


def parse(text: str | None, limit: int) -> set[int]:
    """The indexes below `limit` that a text names. What cannot be read is left out: the pods tell it again."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), min(int(last or first), limit - 1) + 1))
    return {index for index in found if index < limit}


def render(indexes: Iterable[int]) -> str:
    """Ascending; three or more in a row are written as a range."""
    parts: list[str] = []
    ordered = sorted(indexes)
    start = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or ordered[end] != ordered[end - 1] + 1:
            first, last = ordered[start], ordered[end - 1]
            parts.append(
                f"{first}-{last}" if last - first > 1 else ",".join(map(str, ordered[start:end]))
            )
            start = end
    return ",".join(parts)


def of_pod(pod: dict[str, Any]) -> int | None:
    text = objects.annotations(pod).get(INDEX, "")
    return int(text) if text.isdigit() else None
