"""What is kept on disk of a pod's machine, `<sandbox>/machine.json`: enough to go on after a restart of the runtime."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sampan.runtime import files

RECORD = "machine.json"


@dataclass(slots=True)
class Facts:
    directory: str  # the machine's own
    memory: int  # MiB
    cpus: int
    slots: list[str] = field(default_factory=list)  # keys of the images in the drives
    channels: dict[str, int] = field(default_factory=dict)  # by container id
    started: dict[str, int] = field(default_factory=dict)  # ns since the epoch
    users: dict[str, list[Any]] = field(default_factory=dict)  # uid, gid, groups, home
    sharing: bool = False  # its guest can have directories of the host
    jailed: bool = False  # its VMM has a user of its own
    shares: list[list[Any]] = field(default_factory=list)  # [path, read-only], by number
    disks: list[str] = field(default_factory=list)  # what is in the writable drives
    driver: str = "qemu"
    edition: str = ""  # of the driver, when the machine was started
    inits: dict[str, str] = field(default_factory=dict)  # by container id, of those that are one
    present: list[str] = field(default_factory=list)  # guest paths of volumes
    # Of a container that has gone on from a snapshot: its volumes' guest paths, by target.
    places: dict[str, dict[str, str]] = field(default_factory=dict)

    def save(self, sandbox: Path) -> None:
        files.replace(sandbox / RECORD, json.dumps(asdict(self)))

    @classmethod
    def load(cls, sandbox: Path) -> Facts:
        """Raises OSError, ValueError, TypeError when there is none, or something else."""
        return cls(**json.loads((sandbox / RECORD).read_bytes()))
