"""Pushing: an image of the store goes to a registry, blobs first, then its manifest (distribution spec: "Pushing").

What the registry has already is not sent: it is asked for each blob, and offered a mount from any repository of its own. Blobs
are sent whole, several at once; one that breaks off is sent again from where the registry says that it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from sampan.image import transport
from sampan.image.content import CHUNK, Content
from sampan.image.errors import ImageNotFound, RegistryError, Unauthorized
from sampan.image.hosts import Registries
from sampan.image.manifest import Descriptor, media_type_of, read_json, read_layers
from sampan.image.reference import Reference
from sampan.image.registry import PARALLEL, Progress, Unwatched
from sampan.image.transport import ATTEMPTS, Repository, session

if TYPE_CHECKING:
    import aiohttp

    from sampan.image.auth import Auth


async def push(
    reference: Reference,
    content: Content,
    manifest: str,
    auth: Auth | None = None,
    registries: Registries | None = None,
    progress: Progress | None = None,
) -> None:
    """`manifest` and what it names are in the registry under `reference` on return. Raises ImageError."""
    data = content.read(manifest)
    document = read_json(data, "the manifest")
    config, layers = read_layers(document)
    endpoint = await asyncio.to_thread((registries or Registries()).own, reference.registry, auth)
    async with session(endpoint) as http:
        repository = Repository(http, endpoint, reference.repository, "pull,push")
        run = _Push(repository, content, progress or Unwatched())
        try:
            await run.blobs([config, *layers])
            target = reference.tag or manifest
            await repository.send(
                "PUT",
                f"manifests/{target}",
                _nothing,
                accepted=(201, 200, 202),
                headers={"Content-Type": media_type_of(document)},
                body=lambda: data,
            )
        except Unauthorized as error:
            raise Unauthorized(
                f'failed to push "{reference}": push access denied: {error}', error.status
            ) from None
        except (ImageNotFound, RegistryError) as error:
            status = error.status if isinstance(error, RegistryError) else 404
            raise RegistryError(f'failed to push "{reference}": {error}', status) from None


async def _nothing(_: aiohttp.ClientResponse) -> None:
    return None


class _Push:
    def __init__(self, repository: Repository, content: Content, progress: Progress) -> None:
        self.repository, self.content, self.progress = repository, content, progress
        self.sent: dict[str, int] = {}  # bytes of a blob that the attempt at work has passed on

    async def blobs(self, blobs: Sequence[Descriptor]) -> None:
        gate = asyncio.Semaphore(PARALLEL)

        async def gated(blob: Descriptor) -> None:
            async with gate:
                self.progress.begin(blob.digest, blob.size)
                how = "failed"
                try:
                    how = await self._blob(blob)
                finally:
                    self.progress.end(blob.digest, how)

        try:
            async with asyncio.TaskGroup() as group:
                for blob in {blob.digest: blob for blob in blobs}.values():
                    group.create_task(gated(blob))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _blob(self, blob: Descriptor) -> str:
        async def there(response: aiohttp.ClientResponse) -> bool:
            return response.status == 200

        if await self.repository.send("HEAD", f"blobs/{blob.digest}", there, accepted=(200, 404)):
            return "exists"

        place = await self._begin(blob)
        if not place:
            return "mounted"
        await self._send(blob, place)
        return "done"

    async def _begin(self, blob: Descriptor) -> str:
        """Where to send it; empty when the registry mounted it from another repository."""

        async def begun(response: aiohttp.ClientResponse) -> str:
            if response.status == 201:
                return ""
            location = response.headers.get("Location", "")
            if not location:
                raise RegistryError("the registry names no place for an upload")
            return urljoin(str(response.url), location)

        return await self.repository.send(
            "POST",
            f"blobs/uploads/?mount={quote(blob.digest)}",
            begun,
            accepted=(201, 202),
            body=lambda: b"",
        )

    async def _send(self, blob: Descriptor, place: str) -> None:
        """PUT of the whole blob; after a broken connection, PATCH of the rest from where the registry stands, or all anew."""
        stands = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if stands:
                    place = await self._patch(blob, place, stands)
                    await self._finish(blob, place)
                else:
                    await self._put(blob, place)
                return
            except RegistryError as error:
                passes = error.status == 0 or error.status in (409, 416) or error.status >= 500
                if attempt == ATTEMPTS or not passes:
                    raise
            await asyncio.sleep(transport.FIRST_PAUSE * attempt)
            stands = await self._stands(place)
            self.progress.advance(blob.digest, stands - self.sent.get(blob.digest, 0))
            if not stands:
                place = await self._begin(blob)
                if not place:
                    return

    def _address(self, blob: Descriptor, place: str) -> str:
        return f"{place}{'&' if '?' in place else '?'}digest={quote(blob.digest)}"

    async def _put(self, blob: Descriptor, place: str) -> None:
        await self.repository.send(
            "PUT",
            self._address(blob, place),
            _nothing,
            accepted=(201, 204),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(blob.size),
            },
            body=lambda: self._read(blob, 0),
            attempts=1,
        )

    async def _stands(self, place: str) -> int:
        """How many bytes the registry has; 0 when it does not say."""

        async def read(response: aiohttp.ClientResponse) -> int:
            end = response.headers.get("Range", "").rpartition("-")[2]
            return int(end) + 1 if end.isdecimal() and int(end) else 0

        try:
            return await self.repository.send("GET", place, read, accepted=(204,))
        except (RegistryError, ImageNotFound):
            return 0

    async def _patch(self, blob: Descriptor, place: str, start: int) -> str:
        async def moved(response: aiohttp.ClientResponse) -> str:
            return urljoin(str(response.url), response.headers.get("Location", place))

        return await self.repository.send(
            "PATCH",
            place,
            moved,
            accepted=(202,),
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(blob.size - start),
                "Content-Range": f"{start}-{blob.size - 1}",
            },
            body=lambda: self._read(blob, start),
            attempts=1,
        )

    async def _finish(self, blob: Descriptor, place: str) -> None:
        await self.repository.send(
            "PUT", self._address(blob, place), _nothing, accepted=(201, 204), body=lambda: b""
        )

    async def _read(self, blob: Descriptor, start: int) -> AsyncIterator[bytes]:
        with self.content.path(blob.digest).open("rb") as file:
            file.seek(start)
            self.sent[blob.digest] = start
            while data := await asyncio.to_thread(file.read, CHUNK):
                yield data
                self.sent[blob.digest] += len(data)
                self.progress.advance(blob.digest, len(data))
