"""Memory that was freed goes back to the system.

glibc keeps what an application frees at the top of its heaps, for the next time. After thousands of objects were deleted, or
history was forgotten, there is no next time soon.
"""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Some milliseconds. Does nothing where the C library knows no `malloc_trim` (musl, macOS)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
