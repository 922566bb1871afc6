"""What the runtime knows of its sandboxes and containers, and how it is kept on disk.

One JSON file each, written whole and moved into place, in the thing's own directory:

    sandboxes/<id>/sandbox.json     containers/<id>/container.json

The messages that kubelet sent are kept as they came (protobuf, base64), so that a field which this version does not know
is there for the next. After a restart everything else is rebuilt from these files and from what the kinds find.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cri import api_pb2 as pb
from sampan.network.pods import Attachment
from sampan.runtime import files
from sampan.runtime.sandbox import ContainerSpec, Exit, Process, Sandbox

if TYPE_CHECKING:
    import asyncio

    from sampan.image import UnpackedImage

LOG = logging.getLogger(__name__)

RECORD = "container.json"
PLACE = "moment"  # stands for the number while the document is made
PLACES = 20  # digits of a moment in ns


@dataclass(slots=True, eq=False)
class SandboxEntry:
    id: str
    directory: Path
    config: Any  # PodSandboxConfig
    handler: str  # as asked, "" when none was
    kind: str
    created_at: int  # ns
    network: Attachment
    ready: bool = True
    started: bool = False  # a container was started in it: its kind is settled
    sandbox: Sandbox | None = None  # None once it was stopped
    attendant: asyncio.Task[None] | None = None  # waits for an end that nobody asked for

    def save(self) -> None:
        document = {
            "id": self.id,
            "handler": self.handler,
            "kind": self.kind,
            "created_at": self.created_at,
            "ready": self.ready,
            "network": asdict(self.network),
            "config": encode(self.config),
        }
        write(self.directory / "sandbox.json", document)

    @classmethod
    def load(cls, directory: Path) -> SandboxEntry:
        document = json.loads((directory / "sandbox.json").read_bytes())
        network = document["network"]
        return cls(
            id=document["id"],
            directory=directory,
            config=pb.PodSandboxConfig.FromString(base64.b64decode(document["config"])),
            handler=document["handler"],
            kind=document["kind"],
            created_at=document["created_at"],
            network=Attachment(
                network["namespace"], tuple(network["addresses"]), network["interface"]
            ),
            ready=document["ready"],
        )


@dataclass(slots=True, eq=False)
class ContainerEntry:
    id: str
    sandbox_id: str
    directory: Path
    config: Any  # ContainerConfig
    image_id: str
    image_reference: str
    image_config: dict[str, Any]
    created_at: int
    started_at: int = 0
    exit: Exit | None = None
    image: UnpackedImage | None = (
        None  # until it is started, as is `spec`: made by the same process, not made twice
    )
    spec: ContainerSpec | None = None
    process: Process | None = None
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def state(self) -> int:
        if self.exit is not None:
            return int(pb.CONTAINER_EXITED)
        return int(pb.CONTAINER_RUNNING if self.started_at else pb.CONTAINER_CREATED)

    def save(self) -> None:
        document = {
            "started_at": PLACE,
            "id": self.id,
            "sandbox": self.sandbox_id,
            "image": self.image_id,
            "image_reference": self.image_reference,
            "image_config": self.image_config,
            "created_at": self.created_at,
            "exit": asdict(self.exit) if self.exit else None,
            "config": encode(self.config),
        }
        text = json.dumps(document).replace(f'"{PLACE}"', self._moment(), 1)
        files.replace(self.directory / RECORD, text)

    def save_start(self) -> None:
        """Note `started_at` in the record, where there is room for it: a record that is written anew gives the old one's
        block back, and a disk that is mounted with `discard` has the writer wait for that.
        """
        files.overwrite(self.directory / RECORD, len('{"started_at": '), self._moment())

    def _moment(self) -> str:
        return f"{self.started_at:>{PLACES}}"

    @classmethod
    def load(cls, directory: Path) -> ContainerEntry:
        document = json.loads((directory / RECORD).read_bytes())
        return cls(
            id=document["id"],
            sandbox_id=document["sandbox"],
            directory=directory,
            config=pb.ContainerConfig.FromString(base64.b64decode(document["config"])),
            image_id=document["image"],
            image_reference=document["image_reference"],
            image_config=document["image_config"],
            created_at=document["created_at"],
            started_at=document["started_at"],
            exit=Exit(**document["exit"]) if document["exit"] else None,
        )


def encode(message: Any) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


def write(path: Path, document: dict[str, Any]) -> None:
    files.replace(path, json.dumps(document))


def load_all(directory: Path, load: Any) -> tuple[list[Any], list[Path]]:
    """Every entry below `directory`, and the directories without a readable record (a crash before it was written)."""
    entries, broken = [], []
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            entries.append(load(path))
        except FileNotFoundError:
            broken.append(path)
        except (OSError, ValueError, KeyError, TypeError):
            LOG.exception("unreadable record in %s", path)
            broken.append(path)
    return entries, broken
