"""Pulling: an image's manifest, configuration and layers come from a registry into the content store.

Every byte is counted and hashed on its way; manifests are checked against the digest that named them. What no machine could run
(unknown media types, too many layers, another architecture) is refused before a layer is fetched. Layers come several at once, each
into a file that is locked while it grows: a second pull of the same layer, in this process or another, waits and finds it. A
connection that breaks goes on where it broke, in the same pull or a later one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sampan.image.content import CHUNK, Content
from sampan.image.errors import BadImage, ImageNotFound, RegistryError, Unauthorized
from sampan.image.hosts import Endpoint, Registries
from sampan.image.manifest import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    check_platform,
    choose,
    media_type_of,
    read_json,
    read_layers,
)
from sampan.image.partial import PartialBlob, growing
from sampan.image.reference import Reference, is_digest
from sampan.image.transport import ATTEMPTS, Interrupted, Repository, session

if TYPE_CHECKING:
    import aiohttp

    from sampan.image.auth import Auth

ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
MANIFEST_LIMIT = 4 << 20
PARALLEL = 3


class Progress(Protocol):
    """Who watches a pull or push: told of every blob, and of its bytes as they pass."""

    def begin(self, digest: str, size: int) -> None: ...

    def advance(self, digest: str, count: int) -> None: ...

    def end(self, digest: str, how: str) -> None: ...


class Unwatched:
    def begin(self, digest: str, size: int) -> None:
        pass

    def advance(self, digest: str, count: int) -> None:
        pass

    def end(self, digest: str, how: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Pulled:
    manifest: str  # digest of the platform's manifest
    resolved: str  # digest that the reference stands for: the index's, when there is one


async def fetch(
    reference: Reference,
    content: Content,
    platforms: Sequence[str],
    auth: Auth | None = None,
    registries: Registries | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Bring an image into the content store, from the first endpoint that has it. Raises ImageError."""
    endpoints = await asyncio.to_thread(
        (registries or Registries()).endpoints, reference.registry, auth
    )
    watched = progress or Unwatched()
    for endpoint in endpoints[:-1]:
        try:
            return await _fetch_from(endpoint, reference, content, platforms, watched)
        except (RegistryError, ImageNotFound):
            continue  # a mirror that lacks it, refuses, or is down: the next knows better
    return await _fetch_from(endpoints[-1], reference, content, platforms, watched)


async def _fetch_from(
    endpoint: Endpoint,
    reference: Reference,
    content: Content,
    platforms: Sequence[str],
    progress: Progress,
) -> Pulled:
    async with session(endpoint) as http:
        repository = Repository(http, endpoint, reference.repository)
        return await _Pull(repository, reference, content, progress).run(platforms)


class _Pull:
    def __init__(
        self, repository: Repository, reference: Reference, content: Content, progress: Progress
    ) -> None:
        self.repository, self.reference = repository, reference
        self.content, self.progress = content, progress

    async def run(self, platforms: Sequence[str]) -> Pulled:
        media_type, digest, document = await self._resolve()
        resolved = digest
        for _ in range(4):
            if media_type in MANIFESTS:
                break
            children = [Descriptor.read(child) for child in document.get("manifests") or []]
            media_type, digest, document = await self._manifest(choose(children, platforms).digest)
        else:
            raise BadImage("image indexes nest too deep")
        config, layers = read_layers(document)
        await self._blob(config)
        check_platform(read_json(self.content.read(config.digest), "the configuration"), platforms)
        gate = asyncio.Semaphore(PARALLEL)

        async def gated(blob: Descriptor) -> None:
            async with gate:
                await self._blob(blob)

        try:
            async with asyncio.TaskGroup() as group:
                for blob in {layer.digest: layer for layer in layers}.values():
                    group.create_task(gated(blob))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Pulled(digest, resolved)

    async def _resolve(self) -> tuple[str, str, dict[str, Any]]:
        """The document that the reference names; failures in the words that kubelet's users know."""
        what = f'failed to resolve reference "{self.reference}"'
        try:
            return await self._manifest(self.reference.target)
        except ImageNotFound:
            raise ImageNotFound(f"{what}: {self.reference}: not found") from None
        except Unauthorized as error:
            raise Unauthorized(
                f"{what}: pull access denied, repository does not exist or may require authorization: {error}",
                error.status,
            ) from None
        except RegistryError as error:
            raise RegistryError(f"{what}: {error}", error.status) from None

    async def _manifest(self, target: str) -> tuple[str, str, dict[str, Any]]:
        """Media type, digest and document; the bytes are in the content store."""

        async def read(response: aiohttp.ClientResponse) -> tuple[str, str, dict[str, Any]]:
            data = b""
            async for chunk in response.content.iter_chunked(CHUNK):
                data += chunk
                if len(data) > MANIFEST_LIMIT:
                    raise BadImage(f"manifest {target} is larger than {MANIFEST_LIMIT} bytes")
            algorithm = target.partition(":")[0] if is_digest(target) else "sha256"
            digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
            declared = response.headers.get("Docker-Content-Digest", "")
            expected = target if is_digest(target) else declared
            if is_digest(expected) and expected.startswith(algorithm) and expected != digest:
                raise BadImage(
                    f"manifest does not match its digest: expected {expected}, got {digest}"
                )
            document = read_json(data, "the manifest")
            media_type = media_type_of(document, response.headers.get("Content-Type", ""))
            await asyncio.to_thread(self.content.put, data, digest)
            return media_type, digest, document

        if is_digest(target) and self.content.has(target):
            document = read_json(self.content.read(target), "the manifest")
            return media_type_of(document), target, document
        return await self.repository.get(f"manifests/{target}", {"Accept": ACCEPT}, read)

    async def _blob(self, blob: Descriptor) -> None:
        progress = self.progress
        progress.begin(blob.digest, blob.size)
        try:
            async with growing(self.content, blob.digest, blob.size) as partial:
                if partial is None:
                    progress.end(blob.digest, "exists")
                    return
                progress.advance(blob.digest, partial.size)
                await self._download(blob, partial)
        except BaseException:
            progress.end(blob.digest, "failed")
            raise
        progress.end(blob.digest, "done")

    async def _download(self, blob: Descriptor, partial: PartialBlob) -> None:
        """Until it is whole, or as often in a row as nothing came before the connection broke."""
        idle = 0
        begun = partial.size
        while partial.size < blob.size or not blob.size:
            before = partial.size
            try:
                await self._rest(blob, partial)
                break
            except Interrupted as error:
                idle = 0 if partial.size > before else idle + 1
                if idle >= ATTEMPTS:
                    raise RegistryError(str(error)) from error
        try:
            await asyncio.to_thread(partial.commit)
        except BadImage:
            if not begun:
                raise
            self.progress.advance(blob.digest, -partial.size)
            partial.restart()  # what an earlier download left may have been at fault
            await self._download(blob, partial)

    async def _rest(self, blob: Descriptor, partial: PartialBlob) -> None:
        import aiohttp

        async def read(response: aiohttp.ClientResponse) -> None:
            start = response.headers.get("Content-Range", "")
            if response.status != 206 or not start.startswith(f"bytes {partial.size}-"):
                self.progress.advance(blob.digest, -partial.size)
                await asyncio.to_thread(partial.restart)  # the registry knows no ranges
            try:
                async for chunk in response.content.iter_chunked(CHUNK):
                    await asyncio.to_thread(partial.write, chunk)
                    self.progress.advance(blob.digest, len(chunk))
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, TimeoutError) as why:
                raise Interrupted(f"{blob.digest}: connection lost: {why}") from why

        headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
        await self.repository.get(f"blobs/{blob.digest}", headers, read)
