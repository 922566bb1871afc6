"""Unpacking: one compressed layer blob becomes one directory, whatever image or position it is used in.

The stream is decompressed, bounded (size, ratio, entries) and hashed against its diff id, for a large layer in a thread of
its own, beside the one that parses it; `Extractor` writes each entry below one directory descriptor. OCI whiteouts become what overlayfs reads: a character device 0/0, and an `opaque`
attribute on directories. The directory appears by rename, so it is there whole or not at all.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.image.decompress import decompress
from sampan.image.errors import BadImage
from sampan.image.extract import Extractor
from sampan.image.readahead import ahead
from sampan.linux.trees import remove_quietly

AHEAD_FROM = 1 << 20  # compressed bytes from which a thread of its own pays
PLAIN = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
HEADER_LIMIT = 1 << 20  # a PAX or GNU long-name record; real ones are a few hundred bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one layer. An archive that exceeds one is refused, and nothing of it stays."""

    size: int = 20 << 30  # uncompressed bytes
    ratio: int = 400  # uncompressed to compressed, looked at only beyond `ratio_from`
    ratio_from: int = 512 << 20
    entries: int = 2_000_000


@dataclass(frozen=True, slots=True)
class LayerSize:
    bytes: int
    inodes: int


class _Checked:
    """The uncompressed chunks of a layer, bounded and hashed. `digest` is that of all once they have been read."""

    def __init__(self, chunks: Iterator[bytes], algorithm: str, compressed: int, limits: Limits):
        self._chunks, self._limits, self._compressed = chunks, limits, max(compressed, 1)
        self._hash = hashlib.new(algorithm)
        self.total = 0

    def __iter__(self) -> Iterator[bytes]:
        limits = self._limits
        for chunk in self._chunks:
            self.total += len(chunk)
            if self.total > limits.size:
                raise BadImage(f"layer is larger than the limit of {limits.size} bytes")
            if self.total > limits.ratio_from and self.total // self._compressed > limits.ratio:
                raise BadImage(f"layer expands more than {limits.ratio} times: refused as a bomb")
            self._hash.update(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        return f"{self._hash.name}:{self._hash.hexdigest()}"


class _Stream:
    """The uncompressed layer as the forward-only file that `tarfile` reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._data = b""
        self._start = 0  # offset of _data[0] in the stream
        self._at = 0  # read position within _data

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        if not chunk:
            return False
        keep = max(self._at - 512, 0)  # tarfile steps one byte back to see that data is there
        self._start += keep
        self._data = self._data[keep:] + chunk
        self._at -= keep
        return True

    @property
    def total(self) -> int:
        """Bytes seen so far."""
        return self._start + len(self._data)

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._data) - self._at < size:
            if not self._more():
                break
        end = len(self._data) if size < 0 else self._at + size
        out = self._data[self._at : end]
        self._at += len(out)
        return out

    def chunk(self, most: int) -> memoryview:
        """Up to `most` bytes without joining buffers; empty at the end of the stream."""
        if self._at >= len(self._data) and not self._more():
            return memoryview(b"")
        out = memoryview(self._data)[self._at : self._at + most]
        self._at += len(out)
        return out

    def tell(self) -> int:
        return self._start + self._at

    def seek(self, position: int, whence: int = 0) -> int:
        if position < self._start:
            raise BadImage("damaged tar archive: an entry points backwards")
        while position > self._start + len(self._data):
            self._at = len(self._data)
            if not self._more():
                break
        self._at = min(position - self._start, len(self._data))
        return self.tell()

    def finish(self) -> None:
        """Read to the end."""
        self._at = len(self._data)
        while self._more():
            self._at = len(self._data)


class _Entry(tarfile.TarInfo):
    """tarfile ends silently at a bad header and reads extension records of any size: both are errors here.

    It also reads a header field by field, which is a third of the work on small files; a plain one is read at once.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        plain = len(buf) == tarfile.BLOCKSIZE and buf[156:157] in PLAIN and buf[257:262] == b"ustar"
        try:
            return (plain and cls._plain(buf, encoding, errors)) or super().frombuf(
                buf, encoding, errors
            )
        except ValueError:  # a number beyond octal, or nonsense: tarfile tells which
            return super().frombuf(buf, encoding, errors)

    @classmethod
    def _plain(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry | None:
        """pax(1), ustar interchange format. None when the checksum is wrong; raises ValueError for other than octal."""
        chksum = int(buf[148:156].strip(b" \0"), 8)
        if sum(buf) - sum(buf[148:156]) + 8 * 32 != chksum:
            return None
        entry = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
        entry.mode = int(buf[100:108].strip(b" \0") or b"0", 8)
        entry.uid = int(buf[108:116].strip(b" \0") or b"0", 8)
        entry.gid = int(buf[116:124].strip(b" \0") or b"0", 8)
        entry.size = int(buf[124:136].strip(b" \0") or b"0", 8)
        entry.mtime = int(buf[136:148].strip(b" \0") or b"0", 8)
        entry.chksum = chksum
        entry.type = bytes(buf[156:157])
        entry.linkname = buf[157:257].partition(b"\0")[0].decode(encoding, errors)
        if entry.type == tarfile.DIRTYPE:
            entry.name = entry.name.rstrip("/")
        if buf[345]:
            prefix = buf[345:500].partition(b"\0")[0].decode(encoding, errors)
            entry.name = f"{prefix}/{entry.name}"
        return entry

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(archive)
        except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
            raise
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise BadImage(f"damaged tar archive: {error}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extension = self.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if self.size < 0 or (extension and self.size > HEADER_LIMIT):
            raise BadImage(f"damaged tar archive: a header record of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def extract_stream(stream: _Stream, directory: Path, limits: Limits) -> LayerSize:
    with Extractor(directory, stream.chunk) as extractor:
        archive: tarfile.TarFile | None = None
        try:
            archive = tarfile.TarFile(
                fileobj=stream,  # type: ignore[arg-type]
                mode="r",
                tarinfo=_Entry,
                errors="surrogateescape",
                encoding="utf-8",
            )
            count = 0
            while (entry := archive.next()) is not None:
                count += 1
                if count > limits.entries:
                    raise BadImage(f"layer has more than {limits.entries} entries")
                if entry.size > limits.size:
                    raise BadImage(f"entry {entry.name!r} is larger than {limits.size} bytes")
                if entry.isreg():
                    stream.seek(entry.offset_data)
                extractor.add(entry)
                archive.members.clear()  # type: ignore[attr-defined] # tarfile remembers every entry
        except tarfile.TarError as error:
            # an empty stream is an empty layer
            if stream.total:
                raise BadImage(f"damaged tar archive: {error}") from None
        except RecursionError:
            raise BadImage("damaged tar archive: header records nest too deep") from None
        extractor.finish()
        return LayerSize(extractor.bytes, extractor.inodes)


def unpack_layer(blob: Path, diff_id: str, target: Path, limits: Limits | None = None) -> LayerSize:
    """`target` holds the whole layer on return. Raises BadImage; nothing is left behind then."""
    limits = limits or Limits()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = target.with_name(f".partial-{os.getpid()}-{secrets.token_hex(6)}")
    beside.mkdir(mode=0o700)
    try:
        with blob.open("rb", buffering=0) as source:
            size = os.fstat(source.fileno()).st_size
            checked = _Checked(decompress(source), diff_id.partition(":")[0], size, limits)  # type: ignore[arg-type]
            with ahead(checked) if size >= AHEAD_FROM else nullcontext(iter(checked)) as chunks:
                stream = _Stream(chunks)
                used = extract_stream(stream, beside, limits)
                stream.finish()
        if checked.digest != diff_id:
            raise BadImage(
                f"layer does not match its diff id: expected {diff_id}, got {checked.digest}"
            )
        _sync_filesystem(beside)  # a layer must never appear with empty files after a power loss
        try:
            os.rename(beside, target)
        except OSError:
            if not target.is_dir():  # else another process was first: the same content
                raise
            remove_quietly(beside)
    except BaseException:
        remove_quietly(beside)
        raise
    return used


def _sync_filesystem(path: Path) -> None:
    """syncfs(2): one flush for the whole tree, far cheaper than an fsync for each file."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)
