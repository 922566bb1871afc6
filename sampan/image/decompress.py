"""The uncompressed stream of a layer, whatever it is compressed with: gzip of several members and padding, zstd, nothing.

What it is, its first bytes say: media types are often wrong. Damage, and an end that comes too early, are `BadImage`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from sampan.image.errors import BadImage

CHUNK = 1 << 18
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def decompress(source: BinaryIO) -> Iterator[bytes]:
    """The uncompressed stream of a gzip, zstd or plain file. Raises BadImage."""
    first = source.read(CHUNK)
    if first.startswith(GZIP):
        yield from _gunzip(source, first)
    elif first.startswith(ZSTD):
        yield from _unzstd(source)
    else:
        while first:
            yield first
            first = source.read(CHUNK)


def _gunzip(source: BinaryIO, data: bytes) -> Iterator[bytes]:
    engines, damage = _inflaters()
    engine = engines.decompressobj(wbits=31)
    try:
        while data or engine.unconsumed_tail:
            out = engine.decompress(engine.unconsumed_tail + data, CHUNK * 4)
            if out:
                yield out
            data = b""
            if engine.eof:  # the next member, or padding after the last
                data = engine.unused_data or source.read(CHUNK)
                data = data.lstrip(b"\0") if not data.startswith(GZIP) else data
                if data:
                    engine = engines.decompressobj(wbits=31)
            elif not engine.unconsumed_tail:
                data = source.read(CHUNK)
    except damage as error:
        raise BadImage(f"damaged gzip layer: {error}") from None
    if not engine.eof:
        raise BadImage("damaged gzip layer: it ends too early")


def _inflaters() -> tuple[Any, type[Exception]]:
    """A module like zlib, and what it raises. ISA-L's inflate is twice as fast; where it has no wheel, zlib does."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib, zlib.error
    damage: Any = isal_zlib.IsalError  # its stubs take the class for an instance
    return isal_zlib, damage


def zstandard() -> Any:
    """The standard library's module since Python 3.14, or the same for an older Python."""
    zstd: Any
    try:
        from compression import zstd  # type: ignore[import-not-found,no-redef]
    except ImportError:
        from backports import zstd  # type: ignore[no-redef]
    return zstd


def _unzstd(source: BinaryIO) -> Iterator[bytes]:
    zstd = zstandard()
    source.seek(0)
    try:
        with zstd.ZstdFile(source) as engine:
            while data := engine.read(CHUNK * 4):
                yield data
    except (zstd.ZstdError, EOFError) as error:
        raise BadImage(f"damaged zstd layer: {error}") from None
