"""What a user may choose about microVMs: `<data>/runtime/microvm/settings.json`; without the file, the defaults.

{"driver": "auto", "accelerator": "auto", "memory": 256, "cpus": 1, "pool": 1, "live": true, "kernel": "/path/to/vmlinux"}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sampan.runtime import files
from sampan.runtime.microvm.errors import BadArtifact

NAME = "settings.json"
CHOICES = {
    "driver": ("auto", "qemu", "cloud-hypervisor", "firecracker"),
    "accelerator": ("auto", "kvm", "tcg"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    driver: str = "auto"
    accelerator: str = "auto"
    memory: int = 256  # MiB of a pod that has no limit
    cpus: int = 1
    pool: int = 1  # machines kept ready once microVMs are in use; 0: none
    live: bool = True  # keep a template running once microVMs are in use, to copy machines from it
    kernel: str = ""  # directory of a kernel, "": the newest found

    @classmethod
    def load(cls, directory: Path) -> Settings:
        """Raises BadArtifact naming what is wrong."""
        path = directory / NAME
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            raise BadArtifact(path, str(error)) from error
        return cls.of(document, path)

    @classmethod
    def of(cls, document: Any, path: Path) -> Settings:
        """Raises BadArtifact naming what is wrong; `path` is where it was said."""
        known = {each.name: type(each.default) for each in fields(cls)}
        for name, value in document.items() if isinstance(document, dict) else ():
            if name not in known:
                raise BadArtifact(path, f"unknown setting {name!r}: one of {', '.join(known)}")
            if type(value) is not known[name]:
                raise BadArtifact(path, f"{name}: {value!r} is not a {known[name].__name__}")
            if name in CHOICES and value not in CHOICES[name]:
                raise BadArtifact(
                    path, f"{name}: {value!r} is not one of {', '.join(CHOICES[name])}"
                )
        return cls(**document)

    @classmethod
    def change(cls, directory: Path, **values: Any) -> Settings:
        """Written: the runtime goes by them from its next start on. Raises BadArtifact; nothing is changed then."""
        path = directory / NAME
        cls.load(directory)
        said = json.loads(path.read_bytes()) if path.exists() else {}
        changed = cls.of({**said, **values}, path)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(path, json.dumps({**said, **values}, indent=2) + "\n")
        return changed
