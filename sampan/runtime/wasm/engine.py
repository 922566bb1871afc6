"""A wasmtime engine with its WASI linkers, and one run of a module in it.

Ownership follows the C API: a WASI configuration is consumed by `wasmtime_context_set_wasi`, errors and traps are
deleted by whoever receives them, engine, linkers and modules live as long as the process.

`Engine()` is made in the zygote, before the fork. It must not compile (parallel compilation starts threads) nor call
WASI (its first host call starts a tokio runtime): a child forked from a threaded parent hangs. Modules arrive compiled.

The epoch is counted in `TICK`s by whoever wants to interrupt guests; a run without a deadline never ends by it.
"""

from __future__ import annotations

import ctypes

from sampan.runtime.wasm import capi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

NEVER = 1 << 62  # an epoch deadline that is not reached
TRAPPED = 134  # exit code of a trap, as the wasmtime command line gives
# Memories and tables come from slots that are mapped once: an instance then costs no mmap, and few page faults. The
# slots are address space only; what a guest has made dirty is cleared before the next one, `keep_resident` bytes of it
# by hand and the rest by the kernel. The other figures are bounds that no sensible module meets.
_POOL = {
    "total_core_instances": 8192,  # a component is a few dozen
    "total_component_instances": 256,
    "total_memories": 256,
    "total_tables": 1024,
    "total_stacks": 0,
    "total_gc_heaps": 64,
    "max_memories_per_module": 8,
    "max_tables_per_module": 8,
    "max_core_instance_size": 64 << 20,
    "max_component_instance_size": 64 << 20,
    "max_memory_size": 4 << 30,
    "table_elements": 4 << 20,
    "linear_memory_keep_resident": 64 << 10,
    "table_keep_resident": 8 << 10,
}
_SHAPES = 256  # sets of variable names whose array is kept
_RUN_PREFIX = b"wasi:cli/run@0.2."


class EngineError(Exception):
    """wasmtime refused: a module that cannot be compiled, loaded, linked or has no entry point."""


class Interrupted(Exception):
    """The guest passed its epoch deadline."""


class Trap(Exception):
    """The guest trapped; the text holds wasmtime's message with the wasm backtrace."""


class Engine:
    """One engine, one preview 1 linker and, from the first component that is a command, one preview 2 linker."""

    def __init__(self, library: str, *, compiler: bool = False) -> None:
        self.c = c = capi.load(library)
        config = c.wasm_config_new()
        c.wasmtime_config_epoch_interruption_set(config, True)
        c.wasmtime_config_parallel_compilation_set(config, compiler)
        c.wasmtime_config_wasm_component_model_set(config, True)
        # With it, wasmtime 50 rejects host functions that take two borrows (wasi:io/poll, streams).
        c.wasmtime_config_concurrency_support_set(config, False)
        pool = c.wasmtime_pooling_allocation_config_new()
        for name, value in _POOL.items():
            getattr(c, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
        c.wasmtime_pooling_allocation_strategy_set(config, pool)
        c.wasmtime_pooling_allocation_config_delete(pool)
        self.pointer = c.wasm_engine_new_with_config(config)
        self._linker: int = 0
        self._component_linker: int = 0
        if not compiler:
            self._linker = c.wasmtime_linker_new(self.pointer)
            self.check(c.wasmtime_linker_define_wasi(self._linker))

    def tick(self) -> None:
        """Advance the epoch: guests whose deadline is reached end with Interrupted. Callable from any thread."""
        self.c.wasmtime_engine_increment_epoch(self.pointer)

    def compile(self, wasm: bytes) -> bytes:
        """The module or component as native code for this machine. Raises EngineError with wasmtime's reasons."""
        c = self.c
        kind = "component" if is_component(wasm) else "module"
        compiled, out = ctypes.c_void_p(), capi.ByteVec()
        self.check(
            getattr(c, f"wasmtime_{kind}_new")(
                self.pointer, wasm, len(wasm), ctypes.byref(compiled)
            )
        )
        self.check(getattr(c, f"wasmtime_{kind}_serialize")(compiled, ctypes.byref(out)))
        try:
            return ctypes.string_at(out.data, out.size)
        finally:
            c.wasm_byte_vec_delete(ctypes.byref(out))

    def map_component(self, path: str) -> int:
        """Compiled code of a component. It is trusted: the caller has checked who wrote the file. Raises EngineError."""
        loaded = ctypes.c_void_p()
        self.check(
            self.c.wasmtime_component_deserialize_file(
                self.pointer, path.encode(), ctypes.byref(loaded)
            )
        )
        return loaded.value or 0

    def load(self, path: str, *, component: bool) -> Program:
        """A command, from compiled code that is trusted likewise. Raises EngineError."""
        if component:
            return ComponentProgram(self, self.map_component(path), self.component_linker())
        c, loaded = self.c, ctypes.c_void_p()
        self.check(
            c.wasmtime_module_deserialize_file(self.pointer, path.encode(), ctypes.byref(loaded))
        )
        prepared = ctypes.c_void_p()
        error = c.wasmtime_linker_instantiate_pre(self._linker, loaded, ctypes.byref(prepared))
        c.wasmtime_module_delete(loaded)  # what is prepared holds it
        self.check(error)
        return Program(self, prepared.value or 0)

    def component_linker(self) -> int:
        """With wasmtime's own WASI 0.2. Made at the first call, which should be the zygote's."""
        if not self._component_linker:
            linker = self.c.wasmtime_component_linker_new(self.pointer)
            self.check(self.c.wasmtime_component_linker_add_wasip2(linker))
            self._component_linker = linker
        return self._component_linker

    def check(self, error: int | None) -> None:
        if error:
            raise EngineError(self.take_error(error))

    def take_error(self, error: int) -> str:
        message = capi.ByteVec()
        self.c.wasmtime_error_message(error, ctypes.byref(message))
        self.c.wasmtime_error_delete(error)
        return self._take_text(message)

    def take_trap(self, trap: int) -> str:
        message = capi.ByteVec()
        self.c.wasm_trap_message(trap, ctypes.byref(message))
        self.c.wasm_trap_delete(trap)
        return self._take_text(message)

    def _take_text(self, message: capi.ByteVec) -> str:
        text = ctypes.string_at(message.data, message.size) if message.size else b""
        self.c.wasm_byte_vec_delete(ctypes.byref(message))
        return text.rstrip(b"\0").decode("utf-8", "replace")


def is_component(wasm: bytes) -> bool:
    """Component or core module, by the layer field of the preamble. Raises EngineError when it is neither."""
    if wasm[:4] != b"\0asm":
        raise EngineError("not a WebAssembly module: it does not begin with the bytes 00 61 73 6d")
    if wasm[4:8] == b"\x01\0\0\0":
        return False
    if wasm[6:8] == b"\x01\0":
        return True
    raise EngineError(f"unknown WebAssembly version {wasm[4:8].hex(' ')}")


class Wasi:
    """What a guest sees of the world: argv, environment, preopened directories. `configure` makes one for a run."""

    def __init__(
        self,
        engine: Engine,
        args: list[str],
        env: list[tuple[str, str]],
        preopens: list[tuple[str, str, bool]],
        *,
        network: bool = False,
    ) -> None:
        """`preopens`: (path, name in the guest, readonly)."""
        self._c = engine.c
        encoded = [_encode(item) for item in args]
        self._argc = len(encoded)
        self._argv = (ctypes.c_char_p * self._argc)(*encoded)
        self._env = {_encode(name): _readable(_encode(value)) for name, value in env}
        self._preopens = [
            (_encode(path), _encode(guest), not readonly) for path, guest, readonly in preopens
        ]
        self._network = network
        self._shapes: dict[tuple[bytes, ...], tuple[Any, Any]] = {}
        self.prepare({}, ())

    def prepare(self, constant: dict[bytes, bytes], varying: Iterable[bytes]) -> None:
        """Variables that are the same in each run, and names of those that each run has of its own."""
        self._env.update(constant)
        for name in varying:
            self._env.pop(name, None)
        array = ctypes.c_char_p * len(self._env)
        self._names, self._values = array(*self._env), array(*self._env.values())

    def configure(self, environment: dict[bytes, bytes] | None = None) -> int:
        """A fresh configuration without stdio; `environment` comes on top. Raises EngineError for a lost directory."""
        c = self._c
        config: int = c.wasi_config_new()
        c.wasi_config_set_argv(config, self._argc, self._argv)
        if not environment or self._env.keys().isdisjoint(environment):
            c.wasi_config_set_env(config, len(self._names), self._names, self._values)
        else:
            environment = {**self._env, **environment}
        if environment:
            names, array = self._shape(tuple(environment))
            if not c.wasi_config_set_env(config, len(names), names, array(*environment.values())):
                c.wasi_config_delete(config)
                return self.configure(
                    {name: _readable(value) for name, value in environment.items()}
                )
        for path, guest, writable in self._preopens:
            if not c.wasi_config_preopen_dir(config, path, guest, writable):
                c.wasi_config_delete(config)
                raise EngineError(f"cannot open the directory mounted at {guest.decode()}")
        if self._network:
            c.wasi_config_inherit_network(config)
            c.wasi_config_allow_ip_name_lookup(config, True)
        return config

    def _shape(self, names: tuple[bytes, ...]) -> tuple[Any, Any]:
        """The names as an array, and the type of array that their values need; requests differ little in them."""
        known = self._shapes.get(names)
        if known is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            array = ctypes.c_char_p * len(names)
            known = self._shapes[names] = array(*names), array
        return known


def _readable(value: bytes) -> bytes:
    """WASI knows text only: what is not UTF-8 is replaced."""
    return value.decode("utf-8", "replace").encode()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Limits:
    """Of one instance: bytes of linear memory, elements of tables, instances, tables, memories; -1: wasmtime's own."""

    __slots__ = ("instances", "memories", "memory", "table_elements", "tables")

    def __init__(
        self,
        memory: int = -1,
        table_elements: int = -1,
        instances: int = -1,
        tables: int = -1,
        memories: int = -1,
    ) -> None:
        self.memory, self.table_elements = memory, table_elements
        self.instances, self.tables, self.memories = instances, tables, memories

    def apply(self, c: ctypes.CDLL, store: int) -> None:
        c.wasmtime_store_limiter(
            store, self.memory, self.table_elements, self.instances, self.tables, self.memories
        )


class Program:
    """A preview 1 command module, linked and ready to be instantiated any number of times."""

    component = False

    def __init__(self, engine: Engine, pointer: int) -> None:
        self.engine = engine
        self._pointer = pointer

    def close(self) -> None:
        """Let go of the code. Nothing of it runs any more."""
        self.engine.c.wasmtime_instance_pre_delete(self._pointer)

    def run(self, config: int, *, limits: Limits, deadline: int = NEVER) -> int:
        """Instantiate, run to the end, drop: the exit code. Consumes `config`.

        Raises Trap, Interrupted (the epoch advanced by `deadline` ticks) or EngineError.
        """
        engine = self.engine
        c = engine.c
        store = c.wasmtime_store_new(engine.pointer, None, None)
        try:
            context = c.wasmtime_store_context(store)
            limits.apply(c, store)
            engine.check(c.wasmtime_context_set_wasi(context, config))
            c.wasmtime_context_set_epoch_deadline(context, deadline)
            return self._call(c, context)
        finally:
            c.wasmtime_store_delete(store)

    def _call(self, c: ctypes.CDLL, context: int) -> int:
        instance, trap, start = capi.Instance(), ctypes.c_void_p(), capi.Extern()
        error = c.wasmtime_instance_pre_instantiate(
            self._pointer, context, ctypes.byref(instance), ctypes.byref(trap)
        )
        if error or trap:
            return self._outcome(error, trap.value)
        if not c.wasmtime_instance_export_get(
            context, ctypes.byref(instance), b"_start", 6, ctypes.byref(start)
        ):
            raise EngineError(
                "the module exports no function _start: it is a library, not a WASI command"
            )
        if start.kind != capi.EXTERN_FUNC:
            raise EngineError("the export _start is not a function")
        error = c.wasmtime_func_call(
            context, ctypes.byref(start.of.func), None, 0, None, 0, ctypes.byref(trap)
        )
        return self._outcome(error, trap.value)

    def _outcome(self, error: int | None, trap: int | None) -> int:
        if error:
            status = ctypes.c_int()
            if self.engine.c.wasmtime_error_exit_status(error, ctypes.byref(status)):
                self.engine.c.wasmtime_error_delete(error)
                return status.value
            text = self.engine.take_error(error)
        elif trap:
            text = self.engine.take_trap(trap)
        else:
            return 0
        if "wasm trap: interrupt" in text:
            raise Interrupted(text)
        raise Trap(text)


class ComponentProgram(Program):
    """A preview 2 command: a component that exports wasi:cli/run."""

    component = True

    def __init__(self, engine: Engine, pointer: int, linker: int) -> None:
        super().__init__(engine, pointer)
        self._linker = linker

    def close(self) -> None:
        self.engine.c.wasmtime_component_delete(self._pointer)

    def _call(self, c: ctypes.CDLL, context: int) -> int:
        instance, function = capi.ComponentInstance(), capi.ComponentFunc()
        error = c.wasmtime_component_linker_instantiate(
            self._linker, context, self._pointer, ctypes.byref(instance)
        )
        if error:
            return self._outcome(error, None)
        index = self._run_index(c, context, instance)
        if not c.wasmtime_component_instance_get_func(
            ctypes.byref(instance), context, index, ctypes.byref(function)
        ):
            raise EngineError("the component's export wasi:cli/run has no function run")
        result = capi.ComponentResult()
        error = c.wasmtime_component_func_call(
            ctypes.byref(function), context, None, 0, ctypes.addressof(result), 1
        )
        if error:
            return self._outcome(error, None)
        return 0 if result.is_ok else 1

    def _run_index(self, c: ctypes.CDLL, context: int, instance: capi.ComponentInstance) -> int:
        for patch in range(10):  # a component names the exact 0.2.x that it was built with
            name = b"%s%d" % (_RUN_PREFIX, patch)
            interface = c.wasmtime_component_instance_get_export_index(
                ctypes.byref(instance), context, None, name, len(name)
            )
            if interface:
                function = c.wasmtime_component_instance_get_export_index(
                    ctypes.byref(instance), context, interface, b"run", 3
                )
                c.wasmtime_component_export_index_delete(interface)
                if function:
                    return int(function)
        raise EngineError(
            "the component does not export wasi:cli/run: it is not a WASI 0.2 command"
        )
