"""What components are told and say on the wire, without a component: framing, names, exports, fields."""

from __future__ import annotations

import io
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.runtime.wasm.component import fields as fields_of
from sampan.runtime.wasm.component.framing import (
    Broken,
    Chunked,
    Lengthed,
    TooLarge,
    chunk,
    last_chunk,
)
from sampan.runtime.wasm.component.guest import Refused
from sampan.runtime.wasm.component.names import Names, question, read_answer
from sampan.runtime.wasm.component.outgoing import _address
from sampan.runtime.wasm.component.preamble import serves


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
    st.integers(1, 50),
)
def test_chunks_come_apart_as_they_were_put_together(
    pieces: list[bytes], cuts: list[int], size: int
) -> None:
    """However the network cuts the message up, and however little is asked for at once."""
    rest = b"".join(map(chunk, pieces)) + last_chunk([(b"x-sum", b"1")]) + b"NEXT"
    data, decoder, found, turn = bytearray(), Chunked(None), b"", 0
    while not decoder.done:
        taken = decoder.take(data, size)
        found += taken
        if not taken and not decoder.done:
            cut, turn = cuts[turn % len(cuts)], turn + 1
            assert rest, "the end was missed"
            data += rest[:cut]
            rest = rest[cut:]
    assert found == b"".join(pieces)
    assert decoder.trailers == [(b"x-sum", b"1")]
    assert bytes(data) + rest == b"NEXT", "the next message is left alone"


@pytest.mark.parametrize(
    "text",
    [b"x\r\n", b"5\r\nabcdeXX", b"-1\r\n", b"0x5\r\n", b"\r\n", b"1" * 13 + b"\r\n", b"1" * 2000,
     b"0\r\nbad trailer\r\n\r\n", b"0\r\na: b\nc: d\r\n\r\n"],
)  # fmt: skip
def test_bad_chunks_are_refused(text: bytes) -> None:
    data, decoder = bytearray(text), Chunked(None)
    with pytest.raises(Broken):
        for _ in range(3):
            decoder.take(data, 100)


def test_bodies_end_where_they_said_or_break() -> None:
    body = Lengthed(5)
    assert body.take(bytearray(b"abc"), 10) == b"abc"
    with pytest.raises(Broken):
        body.end()
    data = bytearray(b"deNEXT")
    assert (body.take(data, 10), body.done, bytes(data)) == (b"de", True, b"NEXT")
    endless = Lengthed(None)
    assert endless.take(bytearray(b"abc"), 10) == b"abc"
    endless.end()
    assert endless.done
    with pytest.raises(TooLarge):
        Chunked(10).take(bytearray(b"b\r\n"), 100)


def test_names_are_searched_as_resolv_conf_says() -> None:
    names = Names(
        "nameserver 10.43.0.10\nsearch a.svc svc\noptions ndots:2 timeout:1\n# nameserver 9.9.9.9",
        "127.0.0.1 localhost\n10.0.0.7 peer peer.local # one\n::1 six",
    )
    assert names.servers == ["10.43.0.10"]
    assert names.candidates("web") == ["web.a.svc", "web.svc", "web"]
    assert names.candidates("a.b.c") == ["a.b.c", "a.b.c.a.svc", "a.b.c.svc"]
    assert names.candidates("web.") == ["web"]
    assert (names.hosts["peer.local"], "six" in names.hosts) == ("10.0.0.7", False)
    assert Names("", "").servers == []


def test_dns_messages() -> None:
    asked = question(b"\1\2", "web.svc")
    assert asked[12:] == b"\3web\3svc\0\0\1\0\1"
    for bad in ("a..b", "x" * 64, ""):
        with pytest.raises(UnicodeError):
            question(b"\1\2", bad)
    head = b"\1\2" + struct.pack("!5H", 0x8180, 1, 2, 0, 0)
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 5, 2) + b"\xc0\x0c"
    address = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + bytes((10, 0, 0, 7))
    assert read_answer(head + asked[12:] + alias + address) == (0, "10.0.0.7")
    missing = b"\1\2" + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + asked[12:]
    assert read_answer(missing) == (3, "")


@given(st.binary(max_size=80))
def test_no_message_breaks_the_resolver(message: bytes) -> None:
    try:
        code, address = read_answer(message)
    except (IndexError, struct.error):
        return
    assert 0 <= code < 16
    assert address.count(".") in (0, 3)


def section(kind: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while True:
        length += bytes((size & 0x7F | (0x80 if size > 0x7F else 0),))
        size >>= 7
        if not size:
            return bytes((kind,)) + length + content


def test_exports_are_found_in_the_outermost_component_only() -> None:
    preamble = b"\0asm\x0d\0\1\0"
    name = b"\1\0\x20wasi:http/incoming-handler@0.2.3"
    nested = section(4, preamble + section(11, name))
    assert serves(io.BytesIO(preamble + section(0, b"x" * 300) + section(11, name)))
    assert not serves(io.BytesIO(preamble + nested))
    assert serves(io.BytesIO(preamble + nested + section(11, name)))
    assert not serves(io.BytesIO(preamble + section(11, name.replace(b"0.2.3", b"0.3.0"))))
    for cut in range(len(nested)):
        assert not serves(io.BytesIO(preamble + nested[:cut]))


def refused(serve: Any, *arguments: Any) -> Any:
    with pytest.raises(Refused) as caught:
        serve(SimpleNamespace(), *arguments)
    return caught.value.value


def test_fields_are_what_http_allows() -> None:
    make = fields_of.fields_from_list
    fields = make(None, [["X-A", b" 1 "], ["x-a", b"2"]])
    assert fields_of.fields_get(None, fields, "x-A") == [b"1", b"2"]
    assert fields_of.fields_entries(None, fields) == [("X-A", b"1"), ("x-a", b"2")]
    fields_of.fields_set(None, fields, "x-a", [b"3"])
    fields_of.fields_append(None, fields, "x-b", b"4")
    assert fields_of.fields_entries(None, fields_of.fields_clone(None, fields)) == [
        ("x-a", b"3"),
        ("x-b", b"4"),
    ]
    fields_of.fields_delete(None, fields, "X-A")
    assert not fields_of.fields_has(None, fields, "x-a")
    for name, value, why in (
        ("bad name", b"", "invalid-syntax"),
        ("", b"", "invalid-syntax"),
        ("x", b"a\r\nset-cookie: b", "invalid-syntax"),
        ("x", b"a\0", "invalid-syntax"),
        ("Connection", b"close", "forbidden"),
        ("transfer-encoding", b"chunked", "forbidden"),
        ("host", b"elsewhere", "forbidden"),
    ):
        assert refused(make, [[name, value]]) == (why, None)
    fields.immutable = True
    assert refused(fields_of.fields_append, fields, "x", b"") == ("immutable", None)


def test_authorities() -> None:
    assert _address("web", 80) == ("web", 80)
    assert _address("web:8080", 80) == ("web", 8080)
    assert _address("[::1]:81", 80) == ("::1", 81)
    assert _address("[::1]", 443) == ("::1", 443)
    for bad in ("", ":80", "web:0", "web:99999", "web:x", "user@web", "web/path:80"):
        with pytest.raises(Refused):
            _address(bad, 80)
