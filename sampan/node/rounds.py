"""Which containers were ended so that all of their pod's begin anew (KEP-5532, `RestartAllContainers`).

One that was made between a round's beginning and its being seen is younger than the round, and yet not of it: nothing but this
record tells so, and without it its end would count as its own. It is on disk before the container is ended, so that an agent
that takes over counts as the one before; it goes with the pod's files.
"""

from __future__ import annotations

import os
from collections.abc import Container
from functools import cached_property
from pathlib import Path

RECORD = "rounds"


class Rounds:
    def __init__(self, directory: Path) -> None:
        self._record = directory / RECORD

    @cached_property
    def ended(self) -> set[str]:
        """Ids of containers."""
        try:
            return set(self._record.read_text().split())
        except FileNotFoundError:
            return set()

    def end(self, container_id: str, known: Container[str]) -> None:
        """This container is being ended; of others only the known ones are still of interest."""
        self.ended.difference_update([each for each in self.ended if each not in known])
        self.ended.add(container_id)
        self._record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._record.with_name(f"{RECORD}.new")
        beside.write_text("\n".join(sorted(self.ended)))
        os.replace(beside, self._record)
