"""One instance of a component, as the host sees it: its handles, its deadline, and what it waits for.

A guest runs in one thread, host functions run in that thread, and so does all input and output of the guest: where it
waits, `wait` is one poll(2) over the descriptors behind what it waits for. What is waited for is an object with

    ready()   whether it is there, without waiting
    event()   what to wait for: descriptor, poll mask and time.monotonic() in s, whichever comes first; -1: no descriptor

Handles are numbers of this instance's own; a guest can only give back those that it was given, which wasmtime sees to.
"""

from __future__ import annotations

import select
import time
from ctypes import byref, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from sampan.runtime.wasm.component.world import World

    class Source(Protocol):
        def ready(self) -> bool: ...
        def event(self) -> tuple[int, int, float]: ...


# A resource's number is its type for wasmtime; aliases that interfaces make with `use` and `type` share it.
KINDS = {
    "error": 1, "io-error": 1, "pollable": 2, "input-stream": 3, "output-stream": 4,
    "fields": 5, "headers": 5, "trailers": 5, "incoming-request": 6, "outgoing-request": 7, "request-options": 8,
    "response-outparam": 9, "incoming-response": 10, "incoming-body": 11, "future-trailers": 12, "outgoing-response": 13,
    "outgoing-body": 14, "future-incoming-response": 15,
    "descriptor": 16, "directory-entry-stream": 17, "terminal-input": 18, "terminal-output": 19,
    "network": 20, "tcp-socket": 21, "udp-socket": 22, "resolve-address-stream": 23,
    "incoming-datagram-stream": 24, "outgoing-datagram-stream": 25,
}  # fmt: skip
MAX_HANDLES = 10_000
NEVER = float("inf")


class Refused(Exception):
    """Raised by a host function: the error side of its result."""

    def __init__(self, value: Any = None) -> None:
        super().__init__(value)
        self.value = value


class Stop(Exception):
    """Raised by a host function: the guest ends here, as by a trap."""


class Expired(Stop):
    """The guest's time is over."""


class Exited(Stop):
    """The guest asked for its end; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit with {code}")
        self.code = code


class Resource:
    """What a handle stands for. `kind` names it in KINDS."""

    kind = ""
    __slots__ = ()

    def close(self) -> None:
        """The guest has dropped the handle."""


class Guest:
    """Handles, deadline and failure of one instance. `close` when it has ended."""

    __slots__ = ("context", "deadline", "failure", "handles", "idle", "next", "world")

    def __init__(self, world: World, context: int, deadline: float) -> None:
        self.world = world
        self.context = context
        self.deadline = deadline  # time.monotonic(), s
        self.handles: dict[int, Resource] = {}
        self.next = 1
        self.failure: BaseException | None = (
            None  # of a host function; wasmtime gives its text only
        )
        self.idle: Any = None  # called before the guest waits

    def hand_over(self, resource: Resource) -> int:
        """A new handle of the guest's own to `resource`, as wasmtime's resource_any."""
        if len(self.handles) >= MAX_HANDLES:
            raise Stop(f"more than {MAX_HANDLES} handles")
        c = self.world.c
        rep, self.next = self.next, self.next + 1
        self.handles[rep] = resource
        host = c.wasmtime_component_resource_host_new(True, rep, KINDS[resource.kind])
        out = c_void_p()
        error = c.wasmtime_component_resource_host_to_any(self.context, host, byref(out))
        c.wasmtime_component_resource_host_delete(host)
        if error:
            raise Stop(self.world.engine.take_error(error))
        return out.value or 0

    def receive(self, any_resource: int) -> Resource:
        """The object behind a handle that the guest passes; one that it gives away is the host's from now on."""
        c = self.world.c
        out = c_void_p()
        error = c.wasmtime_component_resource_any_to_host(self.context, any_resource, byref(out))
        if error:
            raise Stop(self.world.engine.take_error(error))
        host = out.value
        rep = c.wasmtime_component_resource_host_rep(host)
        owned = c.wasmtime_component_resource_host_owned(host)
        c.wasmtime_component_resource_host_delete(host)
        return self.handles.pop(rep) if owned else self.handles[rep]

    def drop(self, rep: int) -> None:
        resource = self.handles.pop(rep, None)
        if resource is not None:
            resource.close()

    def wait(self, sources: Sequence[Source]) -> list[int]:
        """Indexes of those that are ready; waits for the first. Raises Expired."""
        while True:
            found = [i for i, source in enumerate(sources) if source.ready()]
            if found:
                return found
            if self.idle is not None:
                self.idle()
            until, poll = self.deadline, select.poll()
            masks: dict[int, int] = {}
            for source in sources:
                fd, mask, when = source.event()
                until = min(until, when)
                if fd >= 0:
                    masks[fd] = masks.get(fd, 0) | mask
            for fd, mask in masks.items():
                poll.register(fd, mask)
            now = time.monotonic()
            if now >= self.deadline:
                raise Expired("its time is over")
            poll.poll(max(0.0, until - now) * 1000 + 0.5)

    def close(self) -> None:
        handles, self.handles = self.handles, {}
        for resource in handles.values():
            resource.close()
        self.idle = None
