"""Reading ahead: an iterator of chunks worked off by a thread, a few chunks in front of who uses them.

zlib and OpenSSL let go of the interpreter's lock, as system calls do, so that decompression and hashing of a layer run on one
core while its files are written on another. Whatever the iterator raises reaches the reader at the place where it would have.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator

DEPTH = 4  # chunks in front


@contextlib.contextmanager
def ahead(chunks: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """The same chunks. The thread has ended when the context has, however it is left."""
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(DEPTH)
    left = threading.Event()

    def work() -> None:
        last: BaseException | None = None
        try:
            for chunk in chunks:
                waiting.put(chunk)
                if left.is_set():
                    return
        except BaseException as error:  # raised again where it is read
            last = error
        waiting.put(last)

    def read() -> Iterator[bytes]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        left.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):  # it may be waiting for room
                waiting.get_nowait()
            thread.join(0.01)
