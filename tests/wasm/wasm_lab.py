"""A lab for the wasm kind: C and WAT sources compiled once, and pods of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sampan.image import UnpackedImage
from sampan.network.pods import Attachment
from sampan.runtime.sandbox import ContainerSpec, Mount, Resources, SandboxSpec, SecurityContext
from sampan.runtime.wasm.kind import WasmKind
from sampan.runtime.wasm.process import WasmProcess
from sampan.runtime.wasm.sandbox import WasmSandbox

SOURCES = Path(__file__).parent / "fixtures"
ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "wasm-fixtures"
EXAMPLE = ROOT / "examples" / "http-component"
WIT = EXAMPLE / "wit"
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)")


def compiled(name: str) -> Path:
    """The module made from `fixtures/<name>`, from the cache when its source has not changed."""
    source = SOURCES / name
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    target = CACHE / digest / f"{source.stem}.wasm"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        beside = target.with_name(f"{target.stem}.{os.getpid()}.wasm")
        if source.suffix == ".wat":
            from wasmtime import wat2wasm

            beside.write_bytes(wat2wasm(source.read_text()))
        else:
            command = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-Os", "-s"]
            subprocess.run([*command, str(source), "-o", str(beside)], check=True)
        beside.chmod(0o644)
        beside.rename(target)
    return target


def componentized(language: str, here: Path | None = None) -> Path:
    """The component of `fixtures/python`, `fixtures/js` or of a directory, from the cache likewise. Making one takes 15 s."""
    here = here or SOURCES / language
    sources = [path for path in sorted(here.iterdir()) if path.suffix in (".py", ".js")]
    content = b"".join(path.read_bytes() for path in (*sources, *sorted(WIT.rglob("*.wit"))))
    target = CACHE / hashlib.sha256(content).hexdigest()[:16] / f"{language}.wasm"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        beside = target.with_name(f"{language}.{os.getpid()}.wasm")
        {"python": _python_component, "js": _js_component}[language](here, beside)
        beside.chmod(0o644)
        beside.rename(target)
    return target


def _python_component(here: Path, target: Path) -> None:
    """By the command that the example's page shows."""
    line = re.search(r"^    (componentize-py .+)$", (EXAMPLE / "README.md").read_text(), re.M)
    assert line is not None
    program, *words = line[1].split()
    tool = Path(sys.executable).with_name(program)
    if not tool.exists():
        pytest.skip("componentize-py is not there: sh tools/setup.sh dev")
    places = {
        "examples/http-component/wit": str(WIT),
        "examples/http-component": str(here),
        "greeter.wasm": str(target),
    }
    _built([str(tool), *(places.get(word, word) for word in words)])


# What 0.2.10 of the interfaces has and 0.2.0 had not, where the JavaScript engine looks for it.
SINCE = (
    ("@0.2.0", "@0.2.10"),
    (
        "interface network {",
        "interface network {\n  use wasi:io/error@0.2.10.{error};\n"
        "  network-error-code: func(err: borrow<error>) -> option<error-code>;",
    ),
    ("  type field-key = string;", "  type field-name = string;\n  type field-key = field-name;"),
    ("name: field-key", "name: field-name"),
    ("tuple<field-key,", "tuple<field-name,"),
)


def _js_component(here: Path, target: Path) -> None:
    """By `jco componentize`, with the same WIT in the one version that its JavaScript engine is built for."""
    jco = CACHE.parent / "jco" / "node_modules" / ".bin" / "jco"
    if not (shutil.which("node") and jco.exists()):
        pytest.skip("jco is not there: with node and npm, sh tools/setup.sh dev")
    with tempfile.TemporaryDirectory() as scratch:
        wit = Path(scratch) / "wit"
        shutil.copytree(WIT, wit)
        for path in wit.rglob("*.wit"):
            text = path.read_text()
            for old, new in SINCE:
                text = text.replace(old, new)
            path.write_text(text)
        words = ["componentize", str(here / "app.js"), "--wit", str(wit), "--world-name", "proxy"]
        _built(["node", str(jco), *words, "-o", str(target)])


def _built(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def artifact(*modules: Path, labels: dict[str, str] | None = None) -> UnpackedImage:
    """A wasm artifact: modules and no file system."""
    config: dict[str, Any] = {"Labels": labels or {}}
    return UnpackedImage("sha256:test", "test:1", "wasip1", "wasm", (), modules, config)


class Lab:
    """A kind in a directory of its own, and pods in it that end with the test."""

    def __init__(self, directory: Path, shared: Path, run: Path) -> None:
        """`run`: where the zygote's socket is; labs with the same one share it."""
        self.directory = directory
        self.shared = shared  # compiled modules, kept from test to test
        self.run_directory = run
        self.zygote_log = run.parent / "data" / "zygote.log"
        self.kind = self.new_kind()
        self.sandboxes: list[WasmSandbox] = []
        self.count = 0

    def new_kind(self) -> WasmKind:
        kind = WasmKind(self.directory / "data", self.run_directory, "test")
        kind._cache.directory = self.shared
        return kind

    def pod_spec(self, **changes: Any) -> SandboxSpec:
        self.count += 1
        directory = self.directory / f"pod{self.count}"
        directory.mkdir(mode=0o700)
        values: dict[str, Any] = {
            "id": hashlib.sha256(str(directory).encode()).hexdigest(),
            "name": f"pod{self.count}",
            "namespace": "test",
            "uid": f"uid-{directory}",
            "attempt": 0,
            "hostname": f"pod{self.count}",
            "directory": directory,
            "log_directory": directory,
            "cgroup_parent": "",
            "network": Attachment(None, (f"127.91.{os.getpid() % 250}.{self.count}",)),
        }
        return SandboxSpec(**{**values, **changes})

    async def pod(self, **changes: Any) -> WasmSandbox:
        sandbox = await self.kind.create(self.pod_spec(**changes))
        self.sandboxes.append(sandbox)
        return sandbox

    def container(self, *args: str, **changes: Any) -> ContainerSpec:
        self.count += 1
        directory = self.directory / f"container{self.count}"
        directory.mkdir(mode=0o700)
        values: dict[str, Any] = {
            "id": hashlib.sha256(str(directory).encode()).hexdigest(),
            "name": "main",
            "attempt": 0,
            "args": args,
            "env": {},
            "cwd": "/",
            "directory": directory,
            "log_path": directory / "log",
        }
        return ContainerSpec(**{**values, **changes})

    async def run(
        self, image: UnpackedImage, *args: str, **changes: Any
    ) -> tuple[WasmSandbox, WasmProcess]:
        sandbox = await self.pod()
        return sandbox, await sandbox.start(self.container(*args, **changes), image)

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.stop(0)
        await self.kind.close()


@contextmanager
def warm_zygote(directory: Path) -> Iterator[Path]:
    """A run directory whose zygote stays while this lasts: it ends when nobody is connected."""

    async def connect() -> socket.socket:
        kind = WasmKind(directory / "data", directory / "run", "test")
        kind._prepare()
        await kind._link.connect()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        [path] = kind.run_directory.glob("zygote-*.sock")
        connection.connect(str(path))
        await kind.close()
        return connection

    directory.mkdir()
    with asyncio.run(connect()):
        yield directory / "run"


def workers_of(pid: int) -> set[int]:
    """The workers of the zygote that `pid` is a worker of; not its spare, which leads no session yet, and not the dead."""
    zygote = _stat(pid)[1]
    found = set()
    for child in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = _stat(int(child))[:4]
            if state != "Z" and session == child:
                found.add(int(child))
    return found


def _stat(pid: int) -> list[str]:
    """proc(5), stat: state, parent, process group, session …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def log_lines(process: WasmProcess) -> list[tuple[str, str, str]]:
    """(stream, tag, text) of each line of the container's log, whose form is checked."""
    path = process.spec.log_path
    assert path is not None
    lines = []
    for line in path.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        lines.append((match[2], match[3], match[4]))
    return lines


async def logged(process: WasmProcess, text: str, timeout: float = 10) -> None:
    """Wait until the log holds `text`; watched by its size, as the file has no other event here."""
    path = process.spec.log_path
    assert path is not None
    async with asyncio.timeout(timeout):
        while text not in path.read_text():
            await asyncio.sleep(0.005)


__all__ = [
    "CACHE",
    "EXAMPLE",
    "Lab",
    "Mount",
    "Resources",
    "SecurityContext",
    "artifact",
    "compiled",
    "componentized",
    "log_lines",
    "logged",
    "warm_zygote",
    "workers_of",
]
