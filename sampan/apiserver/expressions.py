"""What expressions in CEL may cost on the event loop, and where those go that cost more.

Nearly every expression of a custom resource, a webhook or a policy is done in microseconds, and is evaluated where it is needed. But
one may use ten million units, seconds of work, and the event loop is everybody's. So each gets a small allowance; what
does not get along with it is evaluated again, with all that it may use, in a thread. There are two such threads, however many ask:
the loop takes its turns with two, and a second costly request need not wait for the end of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sampan.kube import cel

T = TypeVar("T")

INLINE = 10_000  # units of cost, about 5 ms

_threads = ThreadPoolExecutor(2, thread_name_prefix="expressions")


def allowance() -> cel.Budget:
    """What the event loop may spend. When nothing of it is left, what was found with it says nothing."""
    return cel.Budget(INLINE, INLINE)


async def aside(work: Callable[..., T], *args: Any) -> T:
    """`work(*args)`, in a thread. What it reads must be the request's own, or never change."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *args)
