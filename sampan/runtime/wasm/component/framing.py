"""Bodies on the wire, RFC 9112 sections 6 and 7, piece by piece: pure, over bytes as they come."""

from __future__ import annotations

from sampan.runtime.wasm import wire

_LINE_LIMIT = 1024
_HEX = b"0123456789abcdefABCDEF"


class Broken(OSError):
    """The peer's body is not what its framing says, or the peer has gone before its end."""


class TooLarge(OSError):
    """The body is larger than its limit."""


class Lengthed:
    """A body of `length` bytes; None: up to the end of the connection."""

    def __init__(self, length: int | None, limit: int | None = None) -> None:
        self.left = length
        self.limit = limit
        self.done = length == 0
        self.trailers: list[tuple[bytes, bytes]] = []

    def take(self, data: bytearray, size: int) -> bytes:
        """Up to `size` bytes of the body, removed from `data`."""
        if self.left is not None:
            size = min(size, self.left)
        taken = bytes(data[:size])
        del data[:size]
        if self.limit is not None:
            self.limit -= len(taken)
            if self.limit < 0:
                raise TooLarge("the body is larger than its limit")
        if self.left is not None:
            self.left -= len(taken)
            self.done = self.left == 0
        return taken

    def end(self) -> None:
        """The connection has ended. Raises Broken when the body has not."""
        if self.left:
            raise Broken("the connection ended within the body")
        self.done = True


class Chunked:
    """A chunked body and its trailers; `limit` in bytes, None for none."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.left = 0  # of the chunk
        self.within = False  # a chunk, whose line end is to come
        self.last = False
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []

    def take(self, data: bytearray, size: int) -> bytes:
        """Up to `size` bytes of the body, their framing removed from `data`. Raises Broken, TooLarge."""
        pieces: list[bytes] = []
        while size and not self.done:
            if self.left:
                piece = bytes(data[: min(size, self.left)])
                if not piece:
                    break
                del data[: len(piece)]
                self.left -= len(piece)
                size -= len(piece)
                pieces.append(piece)
            elif not self._next(data):
                break
        if not self.left and not self.done:
            self._next(data)  # the end may be there already, and then nobody has to wait for it
        return b"".join(pieces)

    def _next(self, data: bytearray) -> bool:
        """Read what stands between chunks; False while it is not there."""
        if self.within:
            if len(data) < 2:
                return False
            if data[:2] != b"\r\n":
                raise Broken("a chunk is longer than its size")
            del data[:2]
            self.within = False
        if self.last:
            return self._trailers(data)
        end = data.find(b"\r\n")
        if end < 0:
            if len(data) > _LINE_LIMIT:
                raise Broken("a chunk's size line is too long")
            return False
        text = bytes(data[:end]).partition(b";")[0].rstrip(b" \t")
        if not text or len(text) > 12 or text.translate(None, _HEX):
            raise Broken("a chunk's size is not a hexadecimal number")
        del data[: end + 2]
        self.left = int(text, 16)
        if self.limit is not None:
            self.limit -= self.left
            if self.limit < 0:
                raise TooLarge("the body is larger than its limit")
        self.within = bool(self.left)
        self.last = not self.left
        return self._trailers(data) if self.last else True

    def _trailers(self, data: bytearray) -> bool:
        if data[:2] == b"\r\n":
            del data[:2]
            self.done = True
            return True
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > wire.HEAD_LIMIT:
                raise Broken("the trailers are larger than 32 KiB")
            return False
        try:
            self.trailers = wire.parse_fields(bytes(data[:end]))
        except wire.Malformed as error:
            raise Broken(str(error)) from error
        del data[: end + 4]
        self.done = True
        return True

    def end(self) -> None:
        if not self.done:
            raise Broken("the connection ended within the body")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    return b"0\r\n%s\r\n" % b"".join(b"%s: %s\r\n" % pair for pair in trailers)
