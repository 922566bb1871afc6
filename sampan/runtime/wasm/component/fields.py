"""Header fields and trailers of `wasi:http/types`: names and values as RFC 9110 section 5 allows them.

Those that belong to the connection cannot be set: the connection is the host's.
"""

from __future__ import annotations

from sampan.runtime.wasm import wire
from sampan.runtime.wasm.component.guest import Refused, Resource, Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest

    Pairs = list[tuple[bytes, bytes]]

_VALUE_FORBIDDEN = (b"\0", b"\r", b"\n")
FIELDS_LIMIT = 256 << 10  # bytes of one set of fields
# Fields that belong to the connection (RFC 9110 section 7.6.1), which is the host's.
FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"transfer-encoding",
     b"upgrade", b"host", b"http2-settings")
)  # fmt: skip


class Fields(Resource):
    kind = "fields"
    __slots__ = ("immutable", "pairs")

    def __init__(self, pairs: Pairs | None = None, *, immutable: bool = False) -> None:
        self.pairs = pairs if pairs is not None else []
        self.immutable = immutable

    def change(self) -> None:
        if self.immutable:
            raise Refused(("immutable", None))

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.pairs if key.lower() == name]

    def without(self, name: bytes) -> Pairs:
        return [(key, value) for key, value in self.pairs if key.lower() != name]

    def add(self, pairs: Pairs) -> None:
        self.pairs = self.pairs + pairs
        if sum(len(name) + len(value) for name, value in self.pairs) > FIELDS_LIMIT:
            raise Stop(f"fields larger than {FIELDS_LIMIT} bytes")


def _name(text: str, *, writing: bool = True) -> bytes:
    name = text.encode("utf-8")
    if not wire.is_token(name):
        raise Refused(("invalid-syntax", None))
    if writing and name.lower() in FORBIDDEN:
        raise Refused(("forbidden", None))
    return name


def _value(value: bytes) -> bytes:
    if any(byte in value for byte in _VALUE_FORBIDDEN):
        raise Refused(("invalid-syntax", None))
    return value.strip(b" \t")


def fields_from_list(guest: Guest, entries: list[list[Any]]) -> Fields:
    made = Fields()
    made.add([(_name(name), _value(value)) for name, value in entries])
    return made


def fields_get(guest: Guest, fields: Fields, name: str) -> list[bytes]:
    return fields.values(name.encode().lower())


def fields_has(guest: Guest, fields: Fields, name: str) -> bool:
    return bool(fields_get(guest, fields, name))


def fields_set(guest: Guest, fields: Fields, name: str, values: list[bytes]) -> None:
    fields.change()
    key, new = _name(name), [_value(value) for value in values]
    fields.pairs = fields.without(key.lower())
    fields.add([(key, value) for value in new])


def fields_append(guest: Guest, fields: Fields, name: str, value: bytes) -> None:
    fields.change()
    fields.add([(_name(name), _value(value))])


def fields_delete(guest: Guest, fields: Fields, name: str) -> None:
    fields.change()
    fields.pairs = fields.without(_name(name).lower())


def fields_entries(guest: Guest, fields: Fields) -> list[tuple[str, bytes]]:
    return [(name.decode(), value) for name, value in fields.pairs]


def fields_clone(guest: Guest, fields: Fields) -> Fields:
    return Fields(list(fields.pairs))


FIELDS: dict[str, Callable[..., Any]] = {
    "[constructor]fields": lambda _: Fields(),
    "[static]fields.from-list": fields_from_list,
    "[method]fields.get": fields_get,
    "[method]fields.has": fields_has,
    "[method]fields.set": fields_set,
    "[method]fields.append": fields_append,
    "[method]fields.delete": fields_delete,
    "[method]fields.entries": fields_entries,
    "[method]fields.clone": fields_clone,
}
