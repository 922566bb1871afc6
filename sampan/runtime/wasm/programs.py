"""Programs that more than one worker runs: loaded once, in the zygote, and shared by what it forks from then on.

What wasmtime keeps of a program beside its mapped code (types, tables of functions, the linker that a component's imports made)
is half a megabyte to three, and as many milliseconds. The first worker of a program loads it for itself; when that has begun, the
zygote does, for those that may follow: it keeps what was started last, and what several workers run, until the last of them has
ended. Loading neither runs a guest nor compiles, so the zygote stays single-threaded.

A worker lets go of every program but its own before anything else: another image's code is unmapped then.

Components need a good deal of Python beside; it is imported when the first of them comes, so a node without any does not pay.
"""

from __future__ import annotations

from sampan.runtime.wasm.engine import Engine, EngineError
from sampan.runtime.wasm.launch import HTTP, WASI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.wasm.component.proxy import ProxyProgram
    from sampan.runtime.wasm.engine import Program

SERVICES, COMMANDS = "component services", "component commands"  # what is made ready at the first


class Programs:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loaded: dict[str, Program | ProxyProgram] = {}  # by key
        self._users: dict[str, int] = {}  # workers that live
        self._ready: set[str] = set()
        self._last: dict = {}  # launch

    def enter(self, launch: dict) -> str:
        """Before a worker is made. The key to `leave` with."""
        name = key(launch)
        if launch["component"]:
            self._make_ready(SERVICES if _served(launch) else COMMANDS)
        self._users[name] = self._users.get(name, 0) + 1
        self._last = launch
        if self._users[name] > 2:  # they come so fast that there is no time between them
            self._load(launch)
        return name

    def foresee(self) -> None:
        """Between two starts: load what was started last, if it runs; forget what only one worker has."""
        last = key(self._last)
        for name in [name for name in self._loaded if name != last and self._users[name] < 2]:
            self._loaded.pop(name).close()
        if last in self._users:
            self._load(self._last)

    def leave(self, name: str) -> None:
        """A worker has ended."""
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name]
            if name in self._loaded:
                self._loaded.pop(name).close()

    def shared(self) -> frozenset[str]:
        """What a worker that is forked now has from here."""
        return frozenset(self._ready | self._loaded.keys())

    def suits(self, launch: dict, shared: frozenset[str]) -> bool:
        """Whether a worker that was forked with `shared` has all that one forked now would have for this launch."""
        wanted = {key(launch)} & self._loaded.keys()
        if launch["component"]:
            wanted.add(SERVICES if _served(launch) else COMMANDS)
        return wanted <= shared

    def own(self, launch: dict) -> Program | ProxyProgram:
        """In a worker: its program, and no other any more. Raises EngineError."""
        mine = self._loaded.pop(key(launch), None)
        for other in self._loaded.values():
            other.close()
        self._loaded.clear()
        return mine or load(self.engine, launch)

    def _load(self, launch: dict) -> None:
        name = key(launch)
        if name in self._loaded:
            return
        try:
            self._loaded[name] = load(self.engine, launch)
        except EngineError:
            return  # the worker finds it out by itself, and says so

    def _make_ready(self, what: str) -> None:
        if what in self._ready:
            return
        if what == SERVICES:
            import sampan.runtime.wasm.component.service  # noqa: F401 (for its workers)
        else:
            self.engine.component_linker()
        self._ready.add(what)


def load(engine: Engine, launch: dict) -> Program | ProxyProgram:
    """Raises EngineError."""
    if _served(launch):
        from sampan.runtime.wasm.component.proxy import ProxyProgram

        return ProxyProgram(engine, engine.map_component(launch["program"]))
    return engine.load(launch["program"], component=launch["component"])


def key(launch: dict) -> str:
    return f"{WASI if _served(launch) else ''} {launch['program']}"


def _served(launch: dict) -> bool:
    """By `wasi:http`: the program is linked with imports of ours."""
    return launch["mode"] == HTTP and launch["http"]["protocol"] == WASI
