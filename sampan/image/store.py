"""The image store: one directory that the CLI, the builder and the running runtime share at once.

    blobs/<algorithm>/<hex>    content by digest (content.py)
    layers/<algorithm>-<hex>/  unpacked layers by diff id, shared by all images that hold them
    index.db                   images, their names, and sizes of unpacked layers (SQLite)
    lock                       held shared while content is added, exclusively while garbage is removed

Nothing is cached that another process could change: a name is looked up in the index each time (0.1 ms), so an image that the
CLI loaded is there for the runtime at once. Removal takes names away first; what nothing refers to any more is swept when
no one is adding content. Layers that are mounted stay until a later sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.image import UnpackedImage, catalog
from sampan.image.content import Content
from sampan.image.errors import BadImage, BadReference, ImageNotFound
from sampan.image.hosts import Registries
from sampan.image.lookup import find
from sampan.image.manifest import Image, default_platforms, describe, read_json, read_layers
from sampan.image.reference import Reference, is_digest, parse
from sampan.image.remembered import Remembered
from sampan.image.sweep import needed_blobs, sweep_blobs, sweep_layers
from sampan.image.unpack import Limits, unpack_layer

if TYPE_CHECKING:
    from sampan.image.auth import Auth
    from sampan.image.registry import Progress

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, record TEXT NOT NULL, added REAL NOT NULL);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, id TEXT NOT NULL REFERENCES images (id));
CREATE INDEX IF NOT EXISTS names_by_id ON names (id);
CREATE TABLE IF NOT EXISTS layers (diff_id TEXT PRIMARY KEY, bytes INTEGER, inodes INTEGER);
{catalog.SCHEMA}"""
_PINNED = "SELECT 1 FROM names JOIN repository_tags USING (name) WHERE names.id = ? LIMIT 1"
Names = list[str]
_Layers = list[tuple[str, str]]  # diff id and blob digest
_SHORT_ID = re.compile(r"[0-9a-f]{4,64}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes on disk, blobs and unpacked layers."""

    bytes: int
    inodes: int


class ImageStore:
    def __init__(
        self,
        directory: Path | str,
        *,
        limits: Limits | None = None,
        platforms: Sequence[str] | None = None,
        insecure: Sequence[str] = (),
        registries: Registries | None = None,
    ) -> None:
        """`insecure`: registries (host[:port]) that may be spoken to over plain HTTP; loopback ones always may.

        `registries` says more: mirrors, credentials, TLS, and what is insecure.
        """
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(
            0o700
        )  # layers hold set-id programs and devices: nobody else may reach them
        for name in ("blobs", "layers"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        self.content = Content(self.directory / "blobs")
        self.limits = limits or Limits()
        self.platforms = tuple(platforms) if platforms else default_platforms()
        self.registries = registries or Registries(insecure=tuple(insecure))
        self._known = Remembered[Image](self.directory / "index.db")
        self._ready = False
        self._unpacking: dict[str, asyncio.Lock] = {}

    # Index

    @contextlib.contextmanager
    def index(self) -> Iterator[sqlite3.Connection]:
        """A connection for one operation, committed at its end: none is kept, so forking and threads are no matter."""
        connection = sqlite3.connect(self.directory / "index.db", timeout=30)
        try:
            if not self._ready:
                connection.executescript(_SCHEMA)
                os.chmod(self.directory / "index.db", 0o600)
                self._ready = True
            with connection:
                yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        """Held while content is added that no image refers to yet, so that a sweep leaves it alone."""
        with (self.directory / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    @contextlib.asynccontextmanager
    async def using(
        self, ref: str, known: UnpackedImage | None = None
    ) -> AsyncIterator[UnpackedImage]:
        """The image ready to run, `known` if that is still whole; no sweep takes it while the context lasts.

        What has mounted it by then keeps it. Raises ImageNotFound, BadImage.
        """
        with (self.directory / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:  # a sweep is at work
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_SH)
            if known is None or not all(map(os.path.exists, (*known.layers, *known.modules))):
                known = await self.unpack(ref)
            yield known

    @staticmethod
    def _image(row: tuple[str], names: Sequence[str], pinned: bool) -> Image:
        record = json.loads(row[0])
        for key in ("layers", "diff_ids"):
            record[key] = tuple(record[key])
        record["tags"] = tuple(name for name in names if "@" not in name)
        record["digests"] = tuple(name for name in names if "@" in name)
        return Image(**record, pinned=pinned)

    def _read(self, index: sqlite3.Connection, image_id: str) -> Image | None:
        row = index.execute("SELECT record FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            return None
        names = index.execute("SELECT name FROM names WHERE id = ? ORDER BY name", (image_id,))
        pinned = index.execute(_PINNED, (image_id,)).fetchone() is not None
        return self._image(row, [name for (name,) in names], pinned)

    def examine(self, manifest_digest: str) -> Image:
        """The image that a manifest describes, whether it is recorded or not. Raises BadImage, also when a layer is missing."""
        manifest = read_json(self.content.read(manifest_digest), "the manifest")
        config, layers = read_layers(manifest)
        image = describe(manifest_digest, manifest, self.content.read(config.digest))
        for layer in layers:
            if layer.digest in image.layers and not self.content.has(layer.digest):
                raise BadImage(f"layer {layer.digest} is missing")
        return image

    def add(self, manifest_digest: str, names: Sequence[str]) -> Image:
        """Record an image whose blobs are all in the content store, under `names` (keys of references).

        A name that belonged to another image moves. Raises BadImage when something is missing or malformed.
        """
        image = self.examine(manifest_digest)
        record = dataclasses.asdict(image)
        del record["tags"], record["digests"], record["pinned"]
        with self.index() as index:
            index.execute(
                "INSERT INTO images VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                (image.id, json.dumps(record), time.time()),
            )
            index.executemany(
                "INSERT INTO names VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET id = excluded.id",
                [(name, image.id) for name in names],
            )
            added = self._read(index, image.id)
        assert added is not None
        return added

    # Reading

    def list(self) -> list[Image]:
        """Every image, by id."""
        with self.index() as index:
            names: dict[str, list[str]] = {}
            for name, image_id in index.execute("SELECT name, id FROM names ORDER BY name"):
                names.setdefault(image_id, []).append(name)
            rows = index.execute("SELECT id, record FROM images ORDER BY id").fetchall()
            pinned = {
                image_id
                for (image_id,) in index.execute(
                    "SELECT id FROM names JOIN repository_tags USING (name)"
                )
            }
        return [
            self._image((record,), names.get(image_id, []), image_id in pinned)
            for image_id, record in rows
        ]

    def inspect(self, ref: str) -> Image:
        """By name (with tag or digest), id, or unique beginning of an id. Raises ImageNotFound, BadReference."""
        count = self._known.count()
        image = self._known.get(count, ref)
        if image is None:
            with self.index() as index:
                image = self._find(index, ref)
            if image is None:
                raise ImageNotFound(f'image "{ref}": not found')
            self._known.put(count, ref, image)
        return image

    def _find(self, index: sqlite3.Connection, ref: str) -> Image | None:
        if is_digest(ref):
            return self._read(index, ref)
        try:
            name = parse(ref).key
        except BadReference:
            name = ""
        row = index.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return self._read(index, row[0])
        short = ref.removeprefix("sha256:")
        if _SHORT_ID.fullmatch(short):
            prefix = f"sha256:{short}"
            rows = index.execute(
                "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "g")
            ).fetchall()
            if len(rows) == 1:
                return self._read(index, rows[0][0])
            if rows:
                raise BadReference(ref, "the id begins more than one image's id")
        elif not name:
            parse(ref)  # says what is wrong
        return None

    def usage(self) -> Usage:
        size = inodes = 0
        for _, blob in self.content.digests():
            size += blob
            inodes += 1
        with self.index() as index:
            row = index.execute("SELECT total(bytes), total(inodes) FROM layers").fetchone()
        return Usage(size + int(row[0]), inodes + int(row[1]))

    # Changing

    async def pull(
        self,
        reference: str,
        auth: Auth | None = None,
        platforms: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Fetch an image from its registry and unpack it; its id. Blobs that are here already are not fetched again.

        Raises BadReference, ImageNotFound, Unauthorized, RegistryError, BadImage. A bad image leaves nothing behind.
        """
        from sampan.image.registry import fetch

        parsed: Reference = parse(reference)
        wanted = platforms or self.platforms
        try:
            with contextlib.ExitStack() as held:
                await asyncio.to_thread(held.enter_context, self.adding())
                pulled = await fetch(parsed, self.content, wanted, auth, self.registries, progress)
                await self._unpack_all(await asyncio.to_thread(self.examine, pulled.manifest))
                names = [f"{parsed.name}@{pulled.resolved}"]
                if parsed.tag and not parsed.digest:
                    names.append(parsed.key)
                image = await asyncio.to_thread(self.add, pulled.manifest, names)
        except BadImage:
            await asyncio.to_thread(self.sweep)
            raise
        return image.id

    async def push(
        self,
        ref: str,
        target: str = "",
        auth: Auth | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Send an image to the registry that `target` (or its own name) names; the manifest's digest.

        Raises BadReference, ImageNotFound, Unauthorized, RegistryError.
        """
        from sampan.image.push import push

        image = await asyncio.to_thread(self.inspect, ref)
        reference = parse(target or ref)
        with contextlib.ExitStack() as held:
            await asyncio.to_thread(held.enter_context, self.adding())
            await push(reference, self.content, image.manifest, auth, self.registries, progress)
        return image.manifest

    def load(self, path: Path | str, name: str = "") -> Names:
        """Import from a file or directory (layout.py); the names, or ids of images without one."""
        from sampan.image import layout

        loaded = []
        try:
            with self.adding():
                for manifest, names in layout.load(Path(path), self.content, self.platforms, name):
                    found = self.examine(manifest)
                    for diff_id, blob in self._missing(found):
                        self._unpack_locked(diff_id, blob)
                    image = self.add(manifest, names)
                    loaded.extend(names or [image.id])
        except BadImage:
            self.sweep()
            raise
        return loaded

    def save(self, refs: Sequence[str], path: Path | str) -> None:
        """Write images with their names as one OCI layout in a tar file, which docker loads too. Raises ImageNotFound."""
        from sampan.image.archive import write

        with self.adding():
            write([self.inspect(ref) for ref in refs], self.content, Path(path))

    def tag(self, ref: str, name: str) -> None:
        """Give an image another name; it moves there when another image had it."""
        target = parse(name)
        if target.digest:
            raise BadReference(name, "cannot tag with a digest")
        with self.index() as index:
            image = self._find(index, ref)
            if image is None:
                raise ImageNotFound(f'image "{ref}": not found')
            index.execute(
                "INSERT INTO names VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET id = excluded.id",
                (target.key, image.id),
            )

    def remove(self, ref: str) -> str:
        """Remove a name; the image goes with its last tag. By id: the image with all its names. The image's id.

        Raises ImageNotFound.
        """
        with self.index() as index:
            index.execute("BEGIN IMMEDIATE")
            image = self._find(index, ref)
            if image is None:
                raise ImageNotFound(f'image "{ref}": not found')
            lost = self.names_lost(ref, image)
            if set(image.tags) - lost:
                index.executemany("DELETE FROM names WHERE name = ?", [(name,) for name in lost])
            else:
                index.execute("DELETE FROM names WHERE id = ?", (image.id,))
                index.execute("DELETE FROM images WHERE id = ?", (image.id,))
            catalog.untag_names(index, lost)
        self.sweep()
        return image.id

    @staticmethod
    def names_lost(ref: str, image: Image) -> set[str]:
        """The tags that removing `ref` takes from the image: itself, or all when it is an id or a digest."""
        try:
            key = parse(ref).key
        except BadReference:
            key = ""
        return {key} if key in image.tags else set(image.tags)

    def sweep(self) -> bool:
        """Delete blobs and layers that no image refers to. False when content is being added: nothing was done."""
        with (self.directory / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            images = self.list()
            with self.index() as index:
                needed = needed_blobs(index, self.content, images)
            sweep_blobs(self.content, needed)
            removed = sweep_layers(self.directory / "layers", images)
            with self.index() as index:
                index.executemany("DELETE FROM layers WHERE diff_id = ?", removed)
        return True

    def discard(self, images: Sequence[Image]) -> bool:
        """Remove images with all their names, and sweep. What is gone by now, or pinned, is passed over."""
        with self.index() as index:
            index.execute("BEGIN IMMEDIATE")
            for image in images:
                now = self._read(index, image.id)
                if now is not None and not now.pinned:
                    index.execute("DELETE FROM names WHERE id = ?", (image.id,))
                    index.execute("DELETE FROM images WHERE id = ?", (image.id,))
        return self.sweep()

    # Unpacking

    def layer(self, diff_id: str) -> Path:
        if not is_digest(diff_id):
            raise BadImage(f"invalid digest {diff_id!r}")
        return self.directory / "layers" / diff_id.replace(":", "-", 1)

    async def unpack(self, ref: str) -> UnpackedImage:
        """The image ready to run. Any number of callers and processes at once; a layer is unpacked once.

        Raises ImageNotFound, BadImage.
        """
        image = self.inspect(ref)
        await self._unpack_all(image)
        return self._describe(ref, image)

    def _missing(self, image: Image) -> _Layers:
        pairs = dict(zip(image.diff_ids, image.layers, strict=False)).items()
        return [(diff_id, blob) for diff_id, blob in pairs if not self.layer(diff_id).is_dir()]

    async def _unpack_all(self, image: Image) -> None:
        missing = self._missing(image)
        if not missing:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for diff_id, blob in missing:
                    group.create_task(self._unpack_layer(diff_id, blob))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _unpack_layer(self, diff_id: str, blob: str) -> None:
        lock = self._unpacking.setdefault(diff_id, asyncio.Lock())
        async with lock:
            try:
                if not self.layer(diff_id).is_dir():
                    await asyncio.to_thread(self._unpack_locked, diff_id, blob)
            finally:
                if self._unpacking.get(diff_id) is lock:
                    del self._unpacking[diff_id]

    def _unpack_locked(self, diff_id: str, blob: str) -> None:
        target = self.layer(diff_id)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        with self.adding(), (target.parent / f"{target.name}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another process may be unpacking the same layer
            if target.is_dir():
                return
            try:
                size = unpack_layer(self.content.path(blob), diff_id, target, self.limits)
            except FileNotFoundError:
                if self.content.has(blob):
                    raise
                raise ImageNotFound(f"layer {blob}: the image was removed") from None
            with self.index() as index:
                index.execute(
                    "INSERT OR REPLACE INTO layers VALUES (?, ?, ?)",
                    (diff_id, size.bytes, size.inodes),
                )

    def _describe(self, ref: str, image: Image) -> UnpackedImage:
        if image.wasm:
            layers: tuple[Path, ...] = ()
            modules = tuple(self.content.path(digest) for digest in image.layers)
        else:
            layers = tuple(self.layer(diff_id) for diff_id in image.diff_ids)
            modules = self._modules(image, layers)
        reference = ref if not is_digest(ref) else next(iter(image.tags + image.digests), ref)
        return UnpackedImage(
            image.id, reference, image.os, image.architecture, layers, modules, image.config
        )

    @staticmethod
    def _modules(image: Image, layers: Sequence[Path]) -> tuple[Path, ...]:
        """The entry point's file, for images that are wasm by platform or by the name of what they start."""
        words = [*(image.config.get("Entrypoint") or []), *(image.config.get("Cmd") or [])]
        is_wasm = image.os.startswith("wasi") or image.architecture.startswith("wasm")
        if not words or not (is_wasm or words[0].endswith(".wasm")):
            return ()
        start = words[0]
        base = image.config.get("WorkingDir") or "/"
        for path in (start,) if start.startswith("/") else (f"{base}/{start}", start):
            module = find(layers, path)
            if module is not None:
                return (module,)
        if is_wasm:
            raise BadImage(f"the entry point {words[0]!r} is not in the image")
        return ()
