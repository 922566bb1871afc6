"""wasi:io: streams, what can be waited for, errors.

A stream is a resource over some `Reader` or `Writer`: bytes in memory, a request's body, a file. Neither blocks; where a
function may, the guest waits (guest.py). A writer takes what it is given and says by `room` how much it wants next, so a
guest that asks before it writes, as WIT has it, never fills more than PERMIT.
"""

from __future__ import annotations

import os

from sampan.runtime.wasm.component.guest import Refused, Resource, Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from sampan.runtime.wasm.component.guest import Guest, Source

    class Reader(Source, Protocol):
        def read(self, size: int) -> bytes | None:
            """Up to `size` bytes of what is there, b"" for nothing yet, None at the end. Raises OSError."""
            ...

    class Writer(Source, Protocol):
        def room(self) -> int: ...
        def write(self, data: bytes) -> None: ...
        def flush(self) -> None:
            """Begin to send what was written."""
            ...


PERMIT = 65536  # bytes that a guest may write, or is given, at once
CLOSED: tuple[str, Any] = ("closed", None)


class Ready:
    """A source that is always ready."""

    def ready(self) -> bool:
        return True

    def event(self) -> tuple[int, int, float]:
        return -1, 0, 0.0


class Pollable(Resource):
    kind = "pollable"
    __slots__ = ("source",)

    def __init__(self, source: Source) -> None:
        self.source = source


class Failure(Resource):
    """wasi:io/error: what went wrong, for a log; `cause` for those who may know more."""

    kind = "error"
    __slots__ = ("cause",)

    def __init__(self, cause: BaseException) -> None:
        self.cause = cause


class InputStream(Resource):
    kind = "input-stream"
    __slots__ = ("reader",)

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def close(self) -> None:
        _dropped(self.reader)

    def read(self, size: int) -> bytes:
        """Raises Refused at the end, or when reading failed."""
        try:
            data = self.reader.read(min(size, PERMIT))
        except OSError as error:
            raise Refused(failed(error)) from error
        if data is None:
            raise Refused(CLOSED)
        return data


class OutputStream(Resource):
    kind = "output-stream"
    __slots__ = ("writer",)

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def close(self) -> None:
        _dropped(self.writer)

    def room(self) -> int:
        try:
            return min(self.writer.room(), PERMIT)
        except BrokenPipeError:
            raise Refused(CLOSED) from None
        except OSError as error:
            raise Refused(failed(error)) from error

    def write(self, data: bytes) -> None:
        if len(data) > self.room():
            raise Stop("a write larger than check-write permitted")
        self.put(data)

    def put(self, data: bytes) -> None:
        try:
            self.writer.write(data)
        except BrokenPipeError:
            raise Refused(CLOSED) from None
        except OSError as error:
            raise Refused(failed(error)) from error

    def flush(self) -> None:
        try:
            self.writer.flush()
        except BrokenPipeError:
            raise Refused(CLOSED) from None
        except OSError as error:
            raise Refused(failed(error)) from error


def failed(error: BaseException) -> tuple[str, Any]:
    return "last-operation-failed", Failure(error)


def _dropped(end: object) -> None:
    """The stream over `end` is gone; a file's descriptor goes with it, a body outlives its stream."""
    dropped = getattr(end, "dropped", None)
    if dropped is not None:
        dropped()


class Bytes(Ready):
    """A reader of bytes in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def read(self, size: int) -> bytes | None:
        if not self.data:
            return None
        taken, self.data = self.data[:size], self.data[size:]
        return taken


class Descriptor(Ready):
    """A writer to a descriptor that takes all at once: the container's log."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def room(self) -> int:
        return PERMIT

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fd, data) :]

    def flush(self) -> None:
        return


# -- wasi:io/poll -------------------------------------------------------------------------------------------------


def poll(guest: Guest, pollables: list[Pollable]) -> list[int]:
    if not pollables:
        raise Stop("poll of nothing")
    return guest.wait([pollable.source for pollable in pollables])


def block(guest: Guest, pollable: Pollable) -> None:
    guest.wait([pollable.source])


def is_ready(guest: Guest, pollable: Pollable) -> bool:
    return pollable.source.ready()


# -- wasi:io/streams ----------------------------------------------------------------------------------------------


def read(guest: Guest, stream: InputStream, size: int) -> bytes:
    return stream.read(size)


def blocking_read(guest: Guest, stream: InputStream, size: int) -> bytes:
    while True:
        data = stream.read(size)
        if data or not size:
            return data
        guest.wait([stream.reader])


def skip(guest: Guest, stream: InputStream, size: int) -> int:
    return len(stream.read(size))


def blocking_skip(guest: Guest, stream: InputStream, size: int) -> int:
    return len(blocking_read(guest, stream, size))


def subscribe_input(guest: Guest, stream: InputStream) -> Pollable:
    return Pollable(stream.reader)


def check_write(guest: Guest, stream: OutputStream) -> int:
    return stream.room()


def write(guest: Guest, stream: OutputStream, data: bytes) -> None:
    stream.write(data)


def write_zeroes(guest: Guest, stream: OutputStream, size: int) -> None:
    if size > PERMIT:
        raise Stop("a write larger than check-write permitted")
    stream.write(bytes(size))


def flush(guest: Guest, stream: OutputStream) -> None:
    stream.flush()


def blocking_flush(guest: Guest, stream: OutputStream) -> None:
    stream.flush()
    while stream.room() < PERMIT:
        guest.wait([stream.writer])


def blocking_write_and_flush(guest: Guest, stream: OutputStream, data: bytes) -> None:
    while True:
        room = stream.room()
        if room:
            stream.put(data[:room])
            data = data[room:]
            if not data:
                return blocking_flush(guest, stream)
        guest.wait([stream.writer])


def blocking_write_zeroes_and_flush(guest: Guest, stream: OutputStream, size: int) -> None:
    blocking_write_and_flush(guest, stream, bytes(min(size, PERMIT)))


def subscribe_output(guest: Guest, stream: OutputStream) -> Pollable:
    return Pollable(stream.writer)


def splice(guest: Guest, stream: OutputStream, source: InputStream, size: int) -> int:
    room = stream.room()
    if not room:
        return 0
    data = source.read(min(size, room))
    stream.put(data)
    return len(data)


def blocking_splice(guest: Guest, stream: OutputStream, source: InputStream, size: int) -> int:
    while not stream.room():
        guest.wait([stream.writer])
    data = blocking_read(guest, source, min(size, stream.room()))
    stream.put(data)
    return len(data)


INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:io/error": {"[method]error.to-debug-string": lambda _, error: str(error.cause)},
    "wasi:io/poll": {
        "poll": poll,
        "[method]pollable.block": block,
        "[method]pollable.ready": is_ready,
    },
    "wasi:io/streams": {
        "[method]input-stream.read": read,
        "[method]input-stream.blocking-read": blocking_read,
        "[method]input-stream.skip": skip,
        "[method]input-stream.blocking-skip": blocking_skip,
        "[method]input-stream.subscribe": subscribe_input,
        "[method]output-stream.check-write": check_write,
        "[method]output-stream.write": write,
        "[method]output-stream.write-zeroes": write_zeroes,
        "[method]output-stream.flush": flush,
        "[method]output-stream.blocking-flush": blocking_flush,
        "[method]output-stream.blocking-write-and-flush": blocking_write_and_flush,
        "[method]output-stream.blocking-write-zeroes-and-flush": blocking_write_zeroes_and_flush,
        "[method]output-stream.subscribe": subscribe_output,
        "[method]output-stream.splice": splice,
        "[method]output-stream.blocking-splice": blocking_splice,
    },
}
