"""What a component imports, defined by the host: driven by the component's own type.

wasmtime's C API can serve `wasi:http` calls out, but it has no way to make the `incoming-request` that a handler wants; and
a resource of ours (a request's body) must have the streams of `wasi:io` that the component's other imports speak of, which
wasmtime's own definitions keep to themselves. So all of it is ours. Each import is looked up by its interface's name without
the version: a component may mix any 0.2.x, and one function serves them all. What is not here traps when it is called,
with its name.

A `World` belongs to a component and lives as long as its process; a `Guest` (guest.py) is one instance in it. A worker collects no
garbage (zygote.py), so nothing of a guest may refer to itself in a circle: an exception that is kept loses its traceback.
"""

from __future__ import annotations

import sys
import traceback
from ctypes import byref, c_size_t, c_void_p, string_at

from sampan.runtime.wasm import capi
from sampan.runtime.wasm.component import (
    clocks,
    command,
    exchange,
    files,
    outgoing,
    sockets,
    streams,
    tcp,
    types,
    udp,
)
from sampan.runtime.wasm.component.guest import KINDS, Guest, Refused, Stop
from sampan.runtime.wasm.component.values import BOOL, Encoders, Mismatch, array, decode
from sampan.runtime.wasm.engine import Engine, EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from sampan.runtime.wasm.component.values import Encoder

# interface: {function: what serves it, called with the guest and the arguments}
INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    **streams.INTERFACES,
    **clocks.INTERFACES,
    **command.INTERFACES,
    **files.INTERFACES,
    **outgoing.INTERFACES,
    **sockets.INTERFACES,
    **tcp.INTERFACES,
    **udp.INTERFACES,
    "wasi:http/types": {
        function: serve
        for room in (types, exchange, outgoing)
        for function, serve in room.INTERFACES["wasi:http/types"].items()
    },
}
VERSION = "0.2."
HANDLER = "wasi:http/incoming-handler"
_INSTANCE, _FUNCTION, _RESOURCE = 1, 3, 4  # wasmtime_component_item_kind_t
_ANY_KIND = 1000  # resources of interfaces that are not here


class _Import:
    """One imported function; its encoder is made when it is first called."""

    __slots__ = ("encode", "fallible", "known", "name", "serve")

    def __init__(self, name: str, serve: Callable[..., Any] | None) -> None:
        self.name = name
        self.serve = serve
        self.known = False
        self.encode: Encoder | None = None
        self.fallible = False  # its result is a result<…>


class World:
    """The imports of one component, defined."""

    def __init__(self, engine: Engine, component: int) -> None:
        """Raises EngineError when the component is not one that serves `wasi:http`."""
        self.engine, self.c, self.component = engine, engine.c, component
        self.encoders = Encoders(engine.c)
        self.guests: dict[int, Guest] = {}
        self.imports: list[_Import] = []
        self.setting: Any = None
        self._callback = capi.HOST_FUNCTION(self._call)
        self._destructor = capi.DESTRUCTOR(self._drop)
        self._kinds = dict(KINDS)
        self.uses: set[str] = set()  # interfaces imported
        self.linker = self.c.wasmtime_component_linker_new(engine.pointer)
        kind = self.c.wasmtime_component_type(component)
        try:
            self.handler = self._find_handler(kind)
            self._define(kind)
        finally:
            self.c.wasmtime_component_type_delete(kind)
        engine.check(
            self.c.wasmtime_component_linker_define_unknown_imports_as_traps(self.linker, component)
        )

    def close(self) -> None:
        self.c.wasmtime_component_linker_delete(self.linker)
        del self._callback, self._destructor  # which know this world: nobody collects a circle

    # -- linking --------------------------------------------------------------------------------------------------

    def _items(self, what: str, of: int) -> Iterator[tuple[str, int, int]]:
        """(name, item kind, its type) of a type's imports or exports; the type is valid until the next."""
        c, pointer = self.c, self.engine.pointer
        nth = getattr(c, f"wasmtime_component_{what}_nth")
        for n in range(getattr(c, f"wasmtime_component_{what}_count")(of, pointer)):
            name, size, extern, item = c_void_p(), c_size_t(), c_void_p(), capi.Item()
            nth(of, pointer, n, byref(name), byref(size), byref(extern))
            c.wasmtime_component_extern_type(extern, byref(item))
            try:
                yield string_at(name.value or 0, size.value).decode(), item.kind, item.type
            finally:
                c.wasmtime_component_item_delete(byref(item))
                c.wasmtime_component_extern_delete(extern)

    def _find_handler(self, kind: int) -> bytes:
        for name, _, _ in self._items("type_export", kind):
            interface, _, version = name.partition("@")
            if interface == HANDLER and version.startswith(VERSION):
                return name.encode()
        raise EngineError(f"the component does not export {HANDLER}@{VERSION}x")

    def _define(self, kind: int) -> None:
        c, check = self.c, self.engine.check
        root = c.wasmtime_component_linker_root(self.linker)
        try:
            for name, item, of in self._items("type_import", kind):
                interface, _, version = name.partition("@")
                if (
                    item != _INSTANCE
                    or interface not in INTERFACES
                    or not version.startswith(VERSION)
                ):
                    continue
                self.uses.add(interface)
                encoded, instance = name.encode(), c_void_p()
                check(
                    c.wasmtime_component_linker_instance_add_instance(
                        root, encoded, len(encoded), byref(instance)
                    )
                )
                try:
                    self._define_interface(instance, of, name, INTERFACES[interface])
                finally:
                    c.wasmtime_component_linker_instance_delete(instance)
        finally:
            c.wasmtime_component_linker_instance_delete(root)

    def _define_interface(
        self, instance: c_void_p, of: int, interface: str, served: dict[str, Callable[..., Any]]
    ) -> None:
        c, check = self.c, self.engine.check
        for name, item, _ in self._items("instance_type_export", of):
            encoded = name.encode()
            if item == _FUNCTION:
                self.imports.append(_Import(f"{interface}#{name}", served.get(name)))
                check(
                    c.wasmtime_component_linker_instance_add_func(
                        *(instance, encoded, len(encoded), self._callback),
                        *(len(self.imports) - 1, None),
                    )
                )
            elif item == _RESOURCE:
                number = self._kinds.setdefault(name, _ANY_KIND + len(self._kinds))
                kind = c.wasmtime_component_resource_type_new_host(number)
                check(
                    c.wasmtime_component_linker_instance_add_resource(
                        instance, encoded, len(encoded), kind, self._destructor, 0, None
                    )
                )
                c.wasmtime_component_resource_type_delete(kind)

    # -- calls from the guest -------------------------------------------------------------------------------------

    def _call(
        self,
        number: int,
        context: int,
        kind: int,
        arguments: int,
        count: int,
        out: int,
        results: int,
    ) -> int:
        """A host function is called. What goes wrong must not pass into C: it becomes wasmtime's error, and a trap."""
        what, guest = self.imports[number], self.guests[context]
        try:
            if what.serve is None:
                raise Stop(f"{what.name} is not provided here")
            if results and not what.known:
                what.encode, what.fallible = self.encoders.result_of(kind)
                what.known = True
            words = array(arguments)
            values = [decode(guest, words, 4 * i) for i in range(count)]
            try:
                value = what.serve(guest, *values)
                ok = True
            except Refused as refused:
                value, ok = refused.value, False
            if what.encode is not None:
                result = (ok, value) if what.fallible else value
                what.encode(guest, array(out), 0, result)
            return 0
        except (Stop, Mismatch) as stop:
            guest.failure = stop.with_traceback(None)
            text = f"{what.name}: {stop}"
        except BaseException as error:  # the root of what Python does for the guest
            sys.stderr.write(f"sampan: {what.name} failed: {traceback.format_exc()}")
            guest.failure = error.with_traceback(None)
            text = f"{what.name}: the host failed: {error!r}"
        if results:
            array(out)[0] = BOOL  # whatever half of a value is there is not looked at
        return self.c.wasmtime_error_new(text.encode("utf-8", "replace")) or 0

    def _drop(self, number: int, context: int, rep: int) -> int:
        guest = self.guests.get(context)
        if guest is not None:
            guest.drop(rep)
        return 0
