"""What a server process does about its memory: it seldom looks for cycles, and gives back what it has freed.

A request leaves no cycles behind (`test_apiserver_garbage` watches over that), so CPython's collector finds nothing, and yet
it would look 37 times in a thousand creates, through everything that 64 writers have in hand, and now and then through all
modules. That was 26 µs of each ConfigMap and 52 of each Pod; with these two functions it is 1 µs.

glibc keeps what an application frees at the top of its heaps, for the next time. After thousands of objects were deleted, or
history was forgotten, there is no next time soon.
"""

from __future__ import annotations

import ctypes
import gc

YOUNG = 10_000  # containers made and not freed since the collector last looked; CPython's own number is 700


def seldom_collect() -> None:
    """Call it first of all: importing makes many objects, and no garbage."""
    gc.set_threshold(YOUNG, 10, 10)


def keep() -> None:
    """What is there now is there to stay: the collector need not look at it again. For a process, not for each server in it."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Some milliseconds. Does nothing where the C library knows no `malloc_trim` (musl, macOS)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
