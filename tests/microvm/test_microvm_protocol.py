"""The guest protocol: both parsers, fed with what they made themselves and with anything else."""

from __future__ import annotations

import platform
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.runtime.microvm import protocol
from sampan.runtime.microvm.protocol import FRAME_MAX, Frame, FrameReader, Malformed
from sampan.runtime.microvm.requests import limits
from sampan.runtime.sandbox import Resources

NATIVE = Path(__file__).resolve().parents[2] / "native"
sys.path.insert(0, str(NATIVE))
import build  # noqa: E402  found by the line above

frames = st.builds(
    Frame,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
    st.binary(max_size=300),
)
values = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=80), st.text(max_size=40))
fields = st.lists(st.tuples(st.integers(0, 0xFFFF), values), max_size=20)


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_frames_come_through_in_pieces_of_any_size(sent: list[Frame], sizes: list[int]) -> None:
    data = b"".join(frame.encode() for frame in sent)
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        got += list(reader.feed(data[at : at + size]))
        at, turn = at + size, turn + 1
    assert got == sent


@given(st.binary(max_size=400))
def test_anything_is_frames_or_malformed(data: bytes) -> None:
    reader = FrameReader()
    try:
        for frame in reader.feed(data):
            assert len(frame.payload) <= FRAME_MAX
    except Malformed:
        assert any(
            struct.unpack_from("<I", data, at)[0] > FRAME_MAX
            for at in range(max(0, len(data) - 11))
        )


@given(fields)
def test_fields_come_through(sent: list[tuple[int, int | bytes | str]]) -> None:
    got = list(protocol.fields(protocol.encode(sent)))
    assert [key for key, _ in got] == [key for key, _ in sent]
    for (_, raw), (_, value) in zip(got, sent, strict=True):
        if isinstance(value, int):
            assert protocol.number(raw) == value
        else:
            assert raw == (value.encode() if isinstance(value, str) else value)


@given(st.binary(max_size=200))
def test_anything_is_fields_or_malformed(data: bytes) -> None:
    try:
        found = list(protocol.fields(data))
    except Malformed:
        return
    assert sum(protocol.FIELD.size + len(value) for _, value in found) == len(data)


def test_a_long_message_is_cut_into_frames_and_one_too_long_refused() -> None:
    message = bytes(FRAME_MAX * 2 + 5)
    made = list(protocol.frames(4, 7, message))
    assert [len(frame.payload) for frame in made] == [FRAME_MAX, FRAME_MAX, 5]
    assert [frame.flags for frame in made] == [protocol.MORE, protocol.MORE, 0]
    with pytest.raises(Malformed, match="at most"):
        list(protocol.frames(4, 7, bytes(protocol.MESSAGE_MAX + 1)))


def test_both_sides_agree_on_every_number() -> None:
    """wire.h and protocol.py are two texts of one table."""
    text = (NATIVE / "wire.h").read_text()
    for name, enum, prefix in (("type", protocol.Type, ""), ("key", protocol.Key, "K_")):
        body = text.partition(f"enum {name} {{")[2].partition("}")[0]
        number, found = -1, {}
        for item in filter(None, map(str.strip, body.split(","))):
            word, _, value = item.partition(" = ")
            number = int(value) if value else number + 1
            found[word.removeprefix(prefix)] = number
        assert found == {member.name: member.value for member in enum}


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's own parser as a program for this host."""
    if platform.machine() not in build.ARCHITECTURES:
        pytest.skip(f"the agent is not built for {platform.machine()}")
    target = tmp_path_factory.mktemp("parser") / "parse"
    sources = [NATIVE / "wire.c", NATIVE / "sys.c", NATIVE / "fuzz" / "parse.c"]
    build.compile_program(platform.machine(), sources, target)
    return target


def expected(case: bytes) -> str:
    """What the parser in Python makes of a case."""
    header, size = 1, 0
    if len(case) >= protocol.HEADER.size:
        size = protocol.HEADER.unpack_from(case)[0]
        header = -90 if size > FRAME_MAX else 0  # EMSGSIZE
    found, total, malformed = 0, 0, 0
    try:
        for key, value in protocol.fields(case):
            found += 1
            total += key + len(value) + protocol.number(value)
    except Malformed:
        malformed = 1
    return f"{header} {size} {malformed} {found} {total % 2**64}"


def cases(seed: int, count: int) -> list[bytes]:
    """Noise, well-made messages, and well-made messages with a few bytes changed or cut off."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        kind = chance.randrange(3)
        if kind == 0:
            made.append(chance.randbytes(chance.randrange(64)))
            continue
        message = bytearray(
            protocol.encode(
                (
                    chance.randrange(1 << 16),
                    chance.choice((chance.getrandbits(64), chance.randbytes(chance.randrange(40)))),
                )
                for _ in range(chance.randrange(6))
            )
        )
        if kind == 2 and message:
            for _ in range(chance.randrange(1, 4)):
                message[chance.randrange(len(message))] = chance.choice(
                    (0, 1, 0x7F, 0xFF, chance.randrange(256))
                )
            del message[len(message) - chance.randrange(min(7, len(message))) :]
        made.append(bytes(message))
    return made


def ask(parser: Path, made: list[bytes]) -> list[str]:
    data = b"".join(struct.pack("<I", len(case)) + case for case in made)
    done = subprocess.run([parser], input=data, capture_output=True, check=True, timeout=60)
    return done.stdout.decode().splitlines()


def test_the_agents_parser_says_what_ours_says(parser: Path) -> None:
    made = cases(2026, 6_000)
    assert ask(parser, made) == [expected(case) for case in made]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=120), min_size=1, max_size=40))
def test_the_agents_parser_on_whatever_hypothesis_finds(parser: Path, made: list[bytes]) -> None:
    assert ask(parser, made) == [expected(case) for case in made]


def test_a_guest_is_told_no_limit_of_what_its_kernel_may_not_count() -> None:
    rules = {"memory.oom.group": "1", "memory.swap.max": "0", "io.weight": "7"}
    assert limits(Resources(unified=rules)) == [("io.weight", "7")]
    assert limits(Resources(memory=1 << 20, unified=rules)) == [
        ("memory.max", "1048576"), ("memory.oom.group", "1"), ("io.weight", "7"),
    ]  # fmt: skip
