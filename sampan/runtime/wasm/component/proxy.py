"""A component that serves `wasi:http`: one fresh instance of it for each request."""

from __future__ import annotations

from ctypes import addressof, byref, c_uint64

from sampan.runtime.wasm import capi, wire
from sampan.runtime.wasm.component.exchange import Exchange, ResponseOutparam
from sampan.runtime.wasm.component.guest import Exited, Expired, Guest
from sampan.runtime.wasm.component.types import IncomingRequest
from sampan.runtime.wasm.component.values import RESOURCE
from sampan.runtime.wasm.component.world import World
from sampan.runtime.wasm.engine import EngineError, Interrupted, Limits, Trap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.wasm.engine import Engine

_Arguments = c_uint64 * 8  # two values


class ProxyProgram:
    """A loaded component, linked to its world."""

    component = True

    def __init__(self, engine: Engine, pointer: int) -> None:
        """Raises EngineError when it does not serve `wasi:http`."""
        self.engine, self.pointer = engine, pointer
        self.world = World(engine, pointer)
        c, name = engine.c, self.world.handler
        interface = c.wasmtime_component_get_export_index(pointer, None, name, len(name))
        self.index = c.wasmtime_component_get_export_index(pointer, interface, b"handle", 6)
        c.wasmtime_component_export_index_delete(interface)
        if not self.index:
            raise EngineError("the component's incoming-handler has no function handle")

    def close(self) -> None:
        """Let go of the code and of what was made for it. Nothing of it runs any more."""
        c = self.engine.c
        c.wasmtime_component_export_index_delete(self.index)
        self.world.close()
        c.wasmtime_component_delete(self.pointer)

    def handle(self, exchange: Exchange, *, limits: Limits, ticks: int, deadline: float) -> None:
        """Run the handler to its end. Raises Trap, Interrupted or EngineError; what was sent by then has been sent."""
        c = self.engine.c
        store = c.wasmtime_store_new(self.engine.pointer, None, None)
        context = c.wasmtime_store_context(store)
        guest = self.world.guests[context] = Guest(self.world, context, deadline)
        guest.idle = exchange.before_waiting
        try:
            limits.apply(c, store)
            c.wasmtime_context_set_epoch_deadline(context, ticks)
            self._call(guest, exchange)
        finally:
            c.wasmtime_store_delete(store)
            del self.world.guests[context]
            guest.close()
            exchange.let_go()

    def _call(self, guest: Guest, exchange: Exchange) -> None:
        c, context = self.engine.c, guest.context
        instance, function = capi.ComponentInstance(), capi.ComponentFunc()
        self._check(
            guest,
            c.wasmtime_component_linker_instantiate(
                self.world.linker, context, self.pointer, byref(instance)
            ),
        )
        if not c.wasmtime_component_instance_get_func(
            byref(instance), context, self.index, byref(function)
        ):
            raise EngineError("the component's export handle is not a function")
        request = exchange.request
        host = next((value for name, value in request.headers if name == b"host"), b"localhost")
        headers = [pair for pair in request.headers if pair[0] not in wire.HOP_BY_HOP]
        incoming = IncomingRequest(request.method, request.target, host, headers, exchange.body)
        words = _Arguments()
        words[0] = words[4] = RESOURCE
        words[1] = guest.hand_over(incoming)
        words[5] = guest.hand_over(ResponseOutparam(exchange))
        try:
            error = c.wasmtime_component_func_call(
                byref(function), context, addressof(words), 2, None, 0
            )
        finally:
            for value in range(2):
                c.wasmtime_component_val_delete(addressof(words) + 32 * value)
        self._check(guest, error)

    def _check(self, guest: Guest, error: int | None) -> None:
        if not error:
            return
        text, failure = self.engine.take_error(error), guest.failure
        if isinstance(failure, Expired) or "wasm trap: interrupt" in text:
            raise Interrupted(text)
        if isinstance(failure, Exited) and failure.code == 0:
            return
        raise Trap(text)
