"""The cache of compiled modules: what is believed, what is made again, and that running code is never overwritten."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from sampan.runtime.sandbox import CannotStart
from sampan.runtime.wasm import capi
from sampan.runtime.wasm.aot import Cache
from sampan.runtime.wasm.kind import SMALLEST


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "module.wasm"
    path.write_bytes(SMALLEST)
    return path


def inode(path: Path) -> int:
    return path.stat().st_ino


async def test_compiled_once_and_found_again(tmp_path: Path, module: Path) -> None:
    cache = Cache(tmp_path / "aot")
    first, *others = await asyncio.gather(*(cache.get(module) for _ in range(5)))
    assert {other.path for other in others} == {first.path}
    assert not first.component
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.suffix for path in (tmp_path / "aot").iterdir()) == [".cwasm", ".sha256"]
    before = inode(first.path)
    assert inode((await Cache(tmp_path / "aot").get(module)).path) == before


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def shorten(path: Path) -> None:
    os.truncate(path, 100)


def open_up(path: Path) -> None:
    path.chmod(0o644)


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def forget_digest(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [corrupt, shorten, open_up, link, forget_digest])
async def test_a_doubtful_entry_is_made_again(tmp_path: Path, module: Path, damage) -> None:
    path = (await Cache(tmp_path / "aot").get(module)).path
    good, old = path.read_bytes(), os.open(path, os.O_RDONLY)
    damage(path)
    damaged = os.pread(old, 1 << 20, 0)
    again = (await Cache(tmp_path / "aot").get(module)).path
    assert again == path
    assert not path.is_symlink()
    assert path.read_bytes() == good
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.pread(old, 1 << 20, 0) == damaged, "the file that workers have mapped was written to"
    os.close(old)


async def test_code_of_another_engine_or_machine_is_not_used(
    tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry says whose it is by its name: after an upgrade, or on a disk that moved, it is passed over."""
    own = (await Cache(tmp_path / "aot").get(module)).path
    monkeypatch.setattr(capi, "version", lambda: "1.0.0")
    foreign = (await Cache(tmp_path / "aot").get(module)).path
    assert foreign != own
    foreign.write_bytes(b"what another engine made")
    monkeypatch.undo()
    assert (await Cache(tmp_path / "aot").get(module)).path == own


async def test_a_live_cache_sees_damage(tmp_path: Path, module: Path) -> None:
    cache = Cache(tmp_path / "aot")
    path = (await cache.get(module)).path
    good = path.read_bytes()
    corrupt(path)
    assert (await cache.get(module)).path.read_bytes() == good


async def test_a_changed_module_is_another_entry(tmp_path: Path, module: Path) -> None:
    cache = Cache(tmp_path / "aot")
    first = await cache.get(module)
    module.write_bytes(SMALLEST + b"\x00\x02\x01x")  # a custom section
    assert (await cache.get(module)).path != first.path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a WebAssembly module"),
        (b"\0asm\x07\0\0\0", "unknown WebAssembly version"),
        (b"\0asm\x01\0\0\0\xff\xff", "malformed section id"),
    ],
)
async def test_what_does_not_compile_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    bad = tmp_path / "bad.wasm"
    bad.write_bytes(content)
    with pytest.raises(CannotStart, match=message):
        await Cache(tmp_path / "aot").get(bad)
    assert not list((tmp_path / "aot").glob("*.cwasm"))
    with pytest.raises(CannotStart, match="No such file"):
        await Cache(tmp_path / "aot").get(tmp_path / "missing.wasm")
