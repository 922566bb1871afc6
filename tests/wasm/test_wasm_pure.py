"""Decisions and formats without processes: modules of an image, HTTP and CGI bytes, log lines, cgroup settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasm_lab import LINE

from sampan.image import UnpackedImage
from sampan.runtime.sandbox import CannotStart, Resources
from sampan.runtime.wasm import exits, launch, modules, wire
from sampan.runtime.wasm.cgroups import settings
from sampan.runtime.wasm.log import Log


def image(*layers: Path, found: tuple[Path, ...] = ()) -> UnpackedImage:
    return UnpackedImage("id", "app:1", "wasip1", "wasm", layers, found, {})


def test_modules_are_found_in_layers_within_the_image(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for layer in (lower, upper):
        (layer / "lib").mkdir(parents=True)
    (tmp_path / "secret.wasm").write_bytes(b"host")
    (lower / "lib" / "a.wasm").write_bytes(b"lower")
    (lower / "b.wasm").write_bytes(b"lower")
    (upper / "lib" / "a.wasm").write_bytes(b"upper")
    (upper / "link").symlink_to("/lib/a.wasm")
    (upper / "dir").symlink_to("lib")
    (upper / "out").symlink_to("../../secret.wasm")
    (upper / "loop").symlink_to("loop")
    found = image(lower, upper)

    def content(path: str, cwd: str = "/") -> bytes | None:
        try:
            return modules.find(found, [path], cwd)[0].read_bytes()
        except CannotStart:
            return None

    assert content("/lib/a.wasm") == b"upper"
    assert content("a.wasm", "/lib") == b"upper"
    assert content("/link") == b"upper"
    assert content("/dir/a.wasm") == b"upper"
    assert content("/b.wasm") == b"lower"
    assert content("/lib/../b.wasm") == b"lower"
    for path in ("/out", "/loop", "/../secret.wasm", "/lib", "/none.wasm"):
        assert content(path) is None, path


def test_artifacts_run_their_entry_or_the_named_module(tmp_path: Path) -> None:
    entry, other = tmp_path / "entry.wasm", tmp_path / "other.wasm"
    found = image(found=(entry, other))
    assert modules.find(found, []) == (entry, ["entry.wasm"])
    assert modules.find(found, ["--flag", "x"]) == (entry, ["entry.wasm", "--flag", "x"])
    assert modules.find(found, ["/other.wasm", "x"]) == (other, ["/other.wasm", "x"])
    with pytest.raises(CannotStart, match="no entry point"):
        modules.find(image(), [])


@given(
    st.lists(
        st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.binary(max_size=40000)), max_size=8
    )
)
def test_log_keeps_every_byte(writes: list[tuple[bytes, bytes]]) -> None:
    fd = os.memfd_create("log")
    log = Log(os.dup(fd))
    expected = {b"stdout": b"", b"stderr": b""}
    for stream, data in writes:
        log.write(stream, data)
        expected[stream] += data
    log.flush()
    text = os.pread(fd, os.fstat(fd).st_size, 0)
    os.close(fd)
    log.reopen(-1)
    seen = {b"stdout": b"", b"stderr": b""}
    for line in text.split(b"\n")[:-1]:
        assert LINE.match(line.decode("latin-1"))
        _, stream, tag, content = line.split(b" ", 3)
        assert len(content) <= 16384
        seen[stream] += content + (b"\n" if tag == b"F" else b"")
    assert seen == expected


@given(st.lists(st.binary(max_size=50), max_size=6), st.binary(max_size=20), st.data())
def test_chunked_bodies_survive_any_split(
    chunks: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    wanted = b"".join(chunks)
    encoded = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks if c) + b"0\r\n\r\n"
    assert wire.take_chunked(bytearray(encoded + rest), 0, 10000) == (wanted, len(encoded))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert wire.take_chunked(bytearray(encoded[:cut]), 0, 10000) is None


@given(st.binary(max_size=300))
def test_parsers_only_raise_what_they_say(data: bytes) -> None:
    for head in (data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            request = wire.parse_head(head)
        except wire.Malformed as error:
            assert 400 <= error.status < 600
        else:
            wire.cgi_environment(request, b"127.0.0.1")
    try:
        status, lines, _ = wire.parse_cgi(data)
    except ValueError:
        return
    assert 200 <= status <= 599
    assert not any(b"\r" in line or b"\n" in line for line in lines)


def test_targets_and_names() -> None:
    def parse(target: str, host: str = "h:1") -> dict[bytes, bytes]:
        request = wire.parse_head(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nA_B: 1\r\nA-B: 2\r\na-b: 3\r\n\r\n".encode()
        )
        return wire.cgi_environment(request, b"127.0.0.1")

    assert parse("http://h:1/a%20b?q")[b"PATH_INFO"] == b"/a b"
    assert parse("http://h?q")[b"PATH_INFO"] == b"/"
    assert parse("http://h?q")[b"QUERY_STRING"] == b"q"
    assert parse("/", "[::1]")[b"SERVER_NAME"] == b"[::1]"
    assert parse("/", "name")[b"SERVER_NAME"] == b"name"
    assert parse("/")[b"HTTP_A_B"] == b"2, 3"


def test_cgroup_settings() -> None:
    wanted = Resources(cpu_shares=1024, cpu_quota=50000, cpu_period=100000, memory=1 << 20, pids=7)
    assert {name: value for _, name, value in settings(wanted, True)} == {
        "cpu.max": "50000 100000",
        "cpu.weight": "39",
        "memory.max": "1048576",
        "pids.max": "7",
    }
    assert ("memory", "memory.limit_in_bytes", "1048576") in settings(wanted, False)
    assert settings(Resources(), True) == settings(Resources(), False) == []


def test_exit_records(tmp_path: Path) -> None:
    assert exits.read(str(tmp_path)) is None
    fd = exits.create(str(tmp_path), os.getpid(), 17)
    assert exits.read(str(tmp_path)) is None, "a file without a record is a running container"
    known = os.getpid(), exits.start_ticks(os.getpid()), 17
    assert exits.identity(str(tmp_path)) == known
    exits.fill(fd, 3, "Error", "first\nsecond" + "x" * 10000)
    os.close(fd)
    record = exits.read(str(tmp_path))
    assert record is not None
    assert record[0] == 3 and record[2] == "Error" and record[3].startswith("first\nsecondx")


def test_a_launch_is_complete() -> None:
    what = dict.fromkeys(launch.FIELDS, "")
    sealed = launch.seal(what)
    assert launch.unseal(launch.read(sealed)) == what
    os.close(sealed)
    del what["uid"]
    with pytest.raises(ValueError, match="uid"):
        launch.seal(what)
