"""Compile one module and put the result into the cache; a process of its own, see aot.py."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from sampan.runtime.wasm.engine import Engine, EngineError


def write(compiled: bytes, path: Path) -> None:
    """The digest first, then the code: a crash between the two leaves an entry that is made again."""
    digest = hashlib.sha256(compiled).hexdigest().encode()
    for target, data in ((path.with_suffix(".sha256"), digest), (path, compiled)):
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        os.rename(beside, target)


def main(library: str, module: str, target: str) -> None:
    os.umask(0o077)
    try:
        write(Engine(library, compiler=True).compile(Path(module).read_bytes()), Path(target))
    except (EngineError, OSError) as error:
        sys.exit(str(error))
