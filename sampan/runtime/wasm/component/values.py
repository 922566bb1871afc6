"""Component values between wasmtime's C representation and Python: WIT's types as plain Python values.

| WIT | Python | | WIT | Python |
| --- | --- | --- | --- | --- |
| integers, bool, char | int, bool, int | | record | dict, names with hyphens |
| string | str | | variant | (name, payload or None) |
| list<u8> | bytes | | enum | str |
| list, tuple | list (empty: b""), list | | flags | frozenset of str |
| option | the value or None | | result | (is ok, value) |
| own, borrow | the object behind the handle | | | |

A value from a guest says its kind itself, so reading needs no type. For a guest, `encoder` makes a function from the type, once.
A value is four 64-bit words, the kind in the first (wasmtime/component/val.h); they are read and written as such, because a
ctypes structure costs more than what it holds. A list<u8> is an array of such values: it is moved by one strided slice, as
walking 64 KiB would take 100 ms.
"""

from __future__ import annotations

import ctypes
import struct
from ctypes import addressof, byref, c_bool, c_char, c_size_t, c_uint64, c_void_p, string_at

from sampan.runtime.wasm import capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest

    Words = ctypes.Array[c_uint64]
    Encoder = Callable[[Guest, Words, int, Any], None]

SIZE = 32  # bytes of a value
_ENTRY = 6  # words of a record's entry: its name, its value
BULK = 65536  # bytes moved at once

# wasmtime_component_valkind_t, and the numbers of the same in wasmtime_component_valtype_kind_t.
BOOL, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, CHAR, STRING, LIST = range(14)
RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = range(14, 22)
_TYPE_KINDS = (
    *(BOOL, S8, S16, S32, S64, U8, U16, U32, U64, F32, F64, CHAR, STRING, LIST),
    *(RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE, RESOURCE),
)
_KINDS_OF_BYTES = bytes((U8, *(0,) * (SIZE - 1))) * BULK


class Mismatch(Exception):
    """A value that cannot be what the guest's type says."""


# A type of ctypes is garbage that refers to itself, and a worker collects none: one length has to do for all.
_Words = c_uint64 * (1 << 28)
_Value = c_uint64 * 4
_Start = c_char * 1


def array(address: int) -> Words:
    """Memory at `address` as words; whoever reads them knows how many there are."""
    return _Words.from_address(address)


# -- from the guest -----------------------------------------------------------------------------------------------


def decode(guest: Guest, words: Words, i: int) -> Any:
    """The value whose first word is `words[i]`. Ownership of what it points to stays with the caller."""
    kind = words[i] & 0xFF
    value = words[i + 1]
    if kind <= CHAR:
        return _number(kind, value)
    if kind == STRING:
        return string_at(words[i + 2], value).decode("utf-8") if value else ""
    if kind == RESOURCE:
        return guest.receive(value)
    if kind == LIST:
        return _list(guest, value, words[i + 2])
    return _DECODERS[kind](guest, words, i + 1)


def _number(kind: int, value: int) -> Any:
    if kind in (U64, U32, CHAR):
        return value if kind == U64 else value & 0xFFFFFFFF
    if kind == U8:
        return value & 0xFF
    if kind == BOOL:
        return bool(value & 0xFF)
    if kind == U16:
        return value & 0xFFFF
    form = {S8: "<b", S16: "<h", S32: "<i", S64: "<q", F32: "<f", F64: "<d"}[kind]
    return struct.unpack_from(form, struct.pack("<Q", value))[0]


def _list(guest: Guest, count: int, address: int) -> Any:
    if not count:
        return b""
    if string_at(address, 1)[0] == U8:
        return string_at(address, count * SIZE)[8::SIZE]
    words = array(address)
    return [decode(guest, words, 4 * i) for i in range(count)]


def _tuple(guest: Guest, words: Words, i: int) -> Any:
    members = array(words[i + 1])
    return [decode(guest, members, 4 * n) for n in range(words[i])]


def _text(address: int, size: int) -> str:
    return string_at(address, size).decode("utf-8")


def _record(guest: Guest, words: Words, i: int) -> Any:
    count = words[i]
    entries = array(words[i + 1])
    return {
        _text(entries[n + 1], entries[n]): decode(guest, entries, n + 2)
        for n in range(0, _ENTRY * count, _ENTRY)
    }


def _variant(guest: Guest, words: Words, i: int) -> Any:
    payload = words[i + 2]
    return _text(words[i + 1], words[i]), decode(guest, array(payload), 0) if payload else None


def _enum(guest: Guest, words: Words, i: int) -> Any:
    return _text(words[i + 1], words[i])


def _option(guest: Guest, words: Words, i: int) -> Any:
    return decode(guest, array(words[i]), 0) if words[i] else None


def _result(guest: Guest, words: Words, i: int) -> Any:
    payload = words[i + 1]
    return bool(words[i] & 0xFF), decode(guest, array(payload), 0) if payload else None


def _flags(guest: Guest, words: Words, i: int) -> Any:
    count = words[i]
    names = array(words[i + 1])
    return frozenset(_text(names[n + 1], names[n]) for n in range(0, 2 * count, 2))


_DECODERS = {
    RECORD: _record, TUPLE: _tuple, VARIANT: _variant, ENUM: _enum, OPTION: _option, RESULT: _result, FLAGS: _flags,
}  # fmt: skip


# -- to the guest -------------------------------------------------------------------------------------------------


class Encoders:
    """Makes encoders from function types. One a process: they hold no state but the library."""

    def __init__(self, c: ctypes.CDLL) -> None:
        self.c = c
        self._bytes = c["wasm_byte_vec_new"]
        self._bytes.restype, self._bytes.argtypes = None, (c_void_p, c_size_t, ctypes.c_char_p)

    def result_of(self, function_type: int) -> tuple[Encoder | None, bool]:
        """The encoder of a function's result, None without one, and whether it is a result<…>."""
        item = capi.Item()
        if not self.c.wasmtime_component_func_type_result(function_type, byref(item)):
            return None, False
        fallible = _TYPE_KINDS[item.kind] == RESULT
        return self._take(item), fallible

    def _take(self, item: capi.Item) -> Encoder:
        try:
            return self._encoder(_TYPE_KINDS[item.kind], item.type)
        finally:
            self.c.wasmtime_component_valtype_delete(byref(item))

    def _encoder(self, kind: int, of: int) -> Encoder:
        if kind <= CHAR:
            return _encode_number(kind)
        return {
            STRING: self._string, ENUM: self._string_like(ENUM), LIST: self._list, RECORD: self._record, TUPLE: self._tuple,
            VARIANT: self._variant, OPTION: self._option, RESULT: self._result, FLAGS: self._flags, RESOURCE: self._resource,
        }[kind](of)  # fmt: skip

    def _put(self, address: int, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self._bytes(address, len(data), data)

    def _string_like(self, kind: int) -> Callable[[int], Encoder]:
        put = self._put

        def make(of: int) -> Encoder:
            def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
                words[i] = kind
                put(addressof(words) + 8 * i + 8, value)

            return encode

        return make

    def _string(self, of: int) -> Encoder:
        return self._string_like(STRING)(of)

    def _list(self, of: int) -> Encoder:
        item, new = capi.Item(), self.c.wasmtime_component_vallist_new_uninit
        self.c.wasmtime_component_list_type_element(of, byref(item))
        if _TYPE_KINDS[item.kind] == U8:
            self.c.wasmtime_component_valtype_delete(byref(item))
            return self._byte_list()
        element = self._take(item)

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i] = LIST
            count = len(value)
            members = _room(new, words, i, count)
            for n in range(count):
                element(guest, members, 4 * n, value[n])

        return encode

    def _byte_list(self) -> Encoder:
        new = self.c.wasmtime_component_vallist_new_uninit

        def encode(guest: Guest, words: Words, i: int, value: bytes) -> None:
            words[i] = LIST
            size = len(value)
            new(addressof(words) + 8 * i + 8, size)
            if size:
                image = bytearray(
                    _KINDS_OF_BYTES[: size * SIZE]
                    if size <= BULK
                    else bytes((U8, *(0,) * 31)) * size
                )
                image[8::SIZE] = value
                ctypes.memmove(words[i + 2], _Start.from_buffer(image), size * SIZE)

        return encode

    def _tuple(self, of: int) -> Encoder:
        c, members = self.c, []
        for n in range(c.wasmtime_component_tuple_type_types_count(of)):
            item = capi.Item()
            c.wasmtime_component_tuple_type_types_nth(of, n, byref(item))
            members.append(self._take(item))
        new = c.wasmtime_component_valtuple_new_uninit

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i] = TUPLE
            room = _room(new, words, i, len(members))
            for n, member in enumerate(members):
                member(guest, room, 4 * n, value[n])

        return encode

    def _record(self, of: int) -> Encoder:
        c, fields = self.c, []
        for n in range(c.wasmtime_component_record_type_field_count(of)):
            name, size, item = c_void_p(), c_size_t(), capi.Item()
            c.wasmtime_component_record_type_field_nth(of, n, byref(name), byref(size), byref(item))
            fields.append((_text(name.value or 0, size.value), self._take(item)))
        new, put = c.wasmtime_component_valrecord_new_uninit, self._put

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i] = RECORD
            new(addressof(words) + 8 * i + 8, len(fields))
            ctypes.memset(words[i + 2], 0, 8 * _ENTRY * len(fields))
            entries = array(words[i + 2])
            for n, (name, field) in enumerate(fields):
                put(words[i + 2] + 8 * _ENTRY * n, name)
                field(guest, entries, _ENTRY * n + 2, value[name])

        return encode

    def _variant(self, of: int) -> Encoder:
        c = self.c
        cases: dict[str, Encoder | None] = {}
        for n in range(c.wasmtime_component_variant_type_case_count(of)):
            name, size, some, item = c_void_p(), c_size_t(), c_bool(), capi.Item()
            c.wasmtime_component_variant_type_case_nth(
                of, n, byref(name), byref(size), byref(some), byref(item)
            )
            cases[_text(name.value or 0, size.value)] = self._take(item) if some.value else None
        put = self._put

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            name, payload = value
            if name not in cases:
                raise Mismatch(f"this version has no case {name}")
            case = cases[name]
            words[i] = VARIANT
            put(addressof(words) + 8 * i + 8, name)
            words[i + 3] = self._boxed(guest, case, payload) if case is not None else 0

        return encode

    def _option(self, of: int) -> Encoder:
        item = capi.Item()
        self.c.wasmtime_component_option_type_ty(of, byref(item))
        some = self._take(item)

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i] = OPTION
            words[i + 1] = 0 if value is None else self._boxed(guest, some, value)

        return encode

    def _result(self, of: int) -> Encoder:
        sides: list[Encoder | None] = []
        for side in ("err", "ok"):
            item = capi.Item()
            there = getattr(self.c, f"wasmtime_component_result_type_{side}")(of, byref(item))
            sides.append(self._take(item) if there else None)

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            ok, payload = value
            side = sides[ok]
            words[i] = RESULT
            words[i + 1] = int(ok)
            words[i + 2] = self._boxed(guest, side, payload) if side is not None else 0

        return encode

    def _flags(self, of: int) -> Encoder:
        new, put = self.c.wasmtime_component_valflags_new_uninit, self._put

        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i] = FLAGS
            new(addressof(words) + 8 * i + 8, len(value))
            for n, name in enumerate(value):
                put(words[i + 2] + 16 * n, name)

        return encode

    def _resource(self, of: int) -> Encoder:
        def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
            words[i + 1] = guest.hand_over(value)
            words[i] = RESOURCE

        return encode

    def _boxed(self, guest: Guest, encoder: Encoder, value: Any) -> int:
        """A value on the C heap."""
        words = _Value()
        encoder(guest, words, 0, value)
        pointer: int = self.c.wasmtime_component_val_new(addressof(words))
        return pointer


def _room(new: Callable[[int, int], None], words: Words, i: int, count: int) -> Words:
    """Members of a list or tuple, made empty at `words[i + 1]`: false, until they are written."""
    new(addressof(words) + 8 * i + 8, count)
    if not count:
        return array(addressof(words))
    ctypes.memset(words[i + 2], 0, count * SIZE)
    return array(words[i + 2])


def _encode_number(kind: int) -> Encoder:
    def encode(guest: Guest, words: Words, i: int, value: Any) -> None:
        words[i] = kind
        words[i + 1] = value

    def encode_float(guest: Guest, words: Words, i: int, value: Any) -> None:
        words[i] = kind
        data = struct.pack("<fxxxx" if kind == F32 else "<d", value)
        words[i + 1] = int.from_bytes(data, "little")

    return encode_float if kind in (F32, F64) else encode
