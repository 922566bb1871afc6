"""Compiled modules, cached: native code by content of the module, wasmtime's version and the CPU.

Loading compiled code runs it, so a cache entry is believed only when it is a plain file of ours that nobody else can
write and its digest is the one noted when it was made; anything else is made again. A new entry is written beside the
old one and renamed, because running workers have the old file mapped.

Compilation happens in a process of its own (compiler.py): it uses threads, which the zygote must not have, and the
memory that it takes is given back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from pathlib import Path

from sampan.runtime.sandbox import CannotStart
from sampan.runtime.wasm import capi
from sampan.runtime.wasm.component.preamble import serves
from sampan.runtime.wasm.engine import EngineError, is_component
from sampan.runtime.wasm.python import python

CONFIGURATION = 2  # counts changes of Engine's configuration that make old code unusable
TIMEOUT = 300.0
LIMIT = 256 << 20  # bytes of a module


class Compiled:
    __slots__ = ("component", "handler", "path")

    def __init__(self, path: Path, component: bool, handler: bool) -> None:
        self.path = path
        self.component = component
        self.handler = handler  # it exports wasi:http/incoming-handler


class Cache:
    """One directory of compiled modules; any number of calls at once compile a module once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._digests: dict[tuple[str, int, int, int], tuple[str, bool, bool]] = {}
        self._verified: dict[str, tuple[int, int, int]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._suffix = _target()

    async def get(self, module: Path) -> Compiled:
        """The module, compiled. Raises CannotStart with the compiler's reasons."""
        try:
            digest, component, handler = self._identify(module)
        except (OSError, EngineError) as error:
            raise CannotStart(f"{module.name}: {_reason(error)}") from error
        path = self.directory / f"{digest[:40]}-{self._suffix}.cwasm"
        if not self._usable(path):
            async with self._locks.setdefault(digest, asyncio.Lock()):
                if not self._usable(path):
                    await self._compile(module, path)
            self._locks.pop(digest, None)
        return Compiled(path, component, handler)

    def _identify(self, module: Path) -> tuple[str, bool, bool]:
        """Digest of the content, whether it is a component, and one that serves; remembered while the file does not change."""
        with module.open("rb") as file:
            status = os.fstat(file.fileno())
            key = (str(module), status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._digests.get(key)
            if known is None:
                if status.st_size > LIMIT:
                    raise EngineError(f"the module is larger than {LIMIT >> 20} MiB")
                component = is_component(file.read(8))
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                known = digest, component, component and serves(file)
                self._digests[key] = known
            return known

    def _usable(self, path: Path) -> bool:
        """Ours alone, and as it was written. A file already checked is only looked at again when it changes."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(file.fileno())
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_uid != os.geteuid()
                or status.st_mode & 0o077
            ):
                return False
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._verified.get(path.name) == seen:
                return True
            try:
                noted = path.with_suffix(".sha256").read_text().strip()
            except OSError:
                return False
            if hashlib.file_digest(file, "sha256").hexdigest() != noted:
                return False
            self._verified[path.name] = seen
            return True

    async def _compile(self, module: Path, path: Path) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        process = await asyncio.create_subprocess_exec(
            *python("from sampan.runtime.wasm.compiler import main; main(*sys.argv[1:])"),
            *(capi.library_path(), str(module), str(path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
        except TimeoutError:
            raise CannotStart(
                f"{module.name}: compiling took longer than {TIMEOUT:.0f} s"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            text = (
                errors.decode("utf-8", "replace").strip()
                or f"the compiler ended with {process.returncode}"
            )
            raise CannotStart(f"{module.name}: {text}")
        if not self._usable(path):
            raise CannotStart(f"{module.name}: the compiled module {path} cannot be read back")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _target() -> str:
    """Names the code generator and the machine: compiled code is good for exactly these."""
    features = ""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                features = " ".join(sorted(line.split(":", 1)[1].split()))
                break
    text = f"{capi.version()} {CONFIGURATION} {os.uname().machine} {features}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
