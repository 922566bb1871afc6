"""Trees of files: any shape is measured as `du` does and removed whole, however deep, and while somebody moves it about."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.linux import trees

DEEP = 3000  # beyond Python's recursion, and, with its names, beyond PATH_MAX


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: thousands of directories take a disk seconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def dig(top: Path, depth: int) -> None:
    """Directories in one another, each with a file of 4 KiB."""
    current = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=current)
        file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=current)
        os.write(file, bytes(4096))
        os.close(file)
        below = os.open("deeper", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)


def test_deeper_than_python_recurses(memory: Path) -> None:
    top = memory / "top"
    top.mkdir()
    dig(top, DEEP)
    assert trees.size(top) == DEEP * 4096
    assert sum(1 for _ in trees.walk(top)) == DEEP + 1
    trees.remove(top)
    assert list(memory.iterdir()) == []
    trees.remove(top)
    assert trees.size(top) == 0


def test_a_mount_stays_and_is_not_counted(memory: Path) -> None:
    """What is mounted in a tree is not the tree's."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = memory / "top" / "mounted"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    try:
        (place / "precious").write_bytes(bytes(1 << 20))
        assert trees.size(memory / "top") < 1 << 20
        with pytest.raises(OSError, match="busy"):
            trees.remove(memory / "top")
        trees.remove_quietly(memory / "top")
    finally:
        held = (place / "precious").stat().st_size
        subprocess.run(["umount", str(place)], check=True)
    assert held == 1 << 20


def test_who_moves_a_directory_away_neither_leads_out_nor_hides(memory: Path) -> None:
    """The directory that is being looked at is put elsewhere, so that its `..` is not where the walk came from."""
    top = memory / "top"
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "z").mkdir()
    (top / "z" / "hidden").write_bytes(bytes(8192))
    (memory / "outside").mkdir()
    (memory / "secret").write_bytes(bytes(1 << 20))
    seen: list[str] = []
    for directory, entries in trees.walk(top):
        seen += [entry.name for entry, _ in entries]
        if os.readlink(f"/proc/self/fd/{directory}").endswith("/b"):
            os.rename(top / "a" / "b", memory / "outside" / "b")
    assert "hidden" in seen
    assert "secret" not in seen


def test_closed_directories_go_too(memory: Path) -> None:
    """Images have directories that not even their owner may enter."""
    top = memory / "top"
    (top / "closed" / "within").mkdir(parents=True)
    (top / "closed" / "within" / "file").touch()
    program = (
        "import os, sys; from sampan.linux import trees; os.setgid(65534); os.setuid(65534); "
        "trees.remove(sys.argv[1])"
    )
    if os.geteuid() == 0:
        memory.chmod(0o777)
        for path in (top, *top.rglob("*")):
            os.chown(path, 65534, 65534)
    for path in (top / "closed" / "within", top / "closed"):
        path.chmod(0)
    if os.geteuid() == 0:
        import sys

        sys_path = {"PYTHONPATH": str(Path(trees.__file__).parents[2]), "PATH": os.environ["PATH"]}
        subprocess.run([sys.executable, "-c", program, str(top)], check=True, env=sys_path)
    else:
        trees.remove(top)
    assert not top.exists()


NAMES = st.sampled_from(["a", "b", "c", "ü", " ", "\udcff"])
SHAPES = st.lists(
    st.tuples(st.lists(NAMES, min_size=1, max_size=5), st.sampled_from("fdlh"), st.integers(0, 9999)),
    max_size=25,
)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(SHAPES)
def test_any_shape(shape: list[tuple[list[str], str, int]]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        outside = Path(name, "outside")
        outside.write_bytes(bytes(100_000))
        top = Path(name, "top")
        top.mkdir()
        for parts, kind, size in shape:
            path = top.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "f":
                    with path.open("xb") as file:
                        file.write(bytes(size))
                elif kind == "d":
                    path.mkdir()
                elif kind == "l":
                    path.symlink_to(outside if size % 2 else top)
                else:
                    os.link(outside, path)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        said = subprocess.run(
            ["du", "-sxB1", str(top)], check=True, capture_output=True, text=True
        ).stdout
        assert trees.size(top) == int(said.split()[0])
        trees.remove(top)
        assert os.listdir(name) == ["outside"]
        assert outside.stat().st_nlink == 1 and outside.stat().st_size == 100_000
