"""The end points of the distribution specification 1.1, one method each (its table "Endpoints", end-1 to end-13).

Paths, names and credentials were checked by `server.py`; what is wrong beyond that is raised as Refused. Work on files and on the index
is done in threads, so that one client's large blob never holds up another's request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from aiohttp import web
from aiohttp.client_exceptions import ClientError

from sampan.image import catalog
from sampan.image.content import CHUNK
from sampan.image.errors import BadImage
from sampan.image.manifest import OCI_INDEX, read_json
from sampan.image.reference import is_digest, is_tag
from sampan.image.registryserver import manifests
from sampan.image.registryserver.errors import Refused
from sampan.image.registryserver.uploads import Upload, Uploads
from sampan.image.store import ImageStore

T = TypeVar("T")
PAGE = 1000  # entries of a list, where the client asks for no number
_RANGE = re.compile(r"(?:bytes[ =])?(\d+)-(\d+)(?:/.*)?")


class Answers:
    def __init__(self, store: ImageStore, host: str) -> None:
        self.store, self.host = store, host
        self.uploads = Uploads(store.directory / "uploads")

    async def _in_index(self, work: Callable[..., T], *arguments: Any) -> T:
        def run() -> T:
            with self.store.index() as index:
                return work(index, *arguments)

        return await asyncio.to_thread(run)

    # Blobs: end-2, end-10

    async def blob(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        _check_digest(digest)
        if request.method == "DELETE":
            if not await self._in_index(catalog.unlink_blob, name, digest):
                raise Refused("BLOB_UNKNOWN", "blob unknown to registry")
            return web.Response(status=202)
        look = catalog.renew_blob if request.method == "HEAD" else catalog.has_blob
        known = await self._in_index(look, name, digest)
        if not known or not self.store.content.has(digest):
            raise Refused("BLOB_UNKNOWN", "blob unknown to registry", detail={"digest": digest})
        headers = {
            "Docker-Content-Digest": digest,
            "Content-Type": "application/octet-stream",
            "Cache-Control": "max-age=31536000",
        }
        # aiohttp answers ranges (RFC 9110 §14), 416 among them, and lets the kernel copy
        return web.FileResponse(self.store.content.path(digest), headers=headers)

    # Uploads: end-4, end-5, end-6, end-11, end-13

    async def start(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        query = request.query
        if (mount := query.get("mount")) and is_digest(mount):
            if await asyncio.to_thread(self._mount, name, mount):
                return self._created(name, mount)
        identifier = await asyncio.to_thread(self.uploads.begin, name)
        if digest := query.get("digest"):
            _check_digest(digest)
            with self.uploads.open(name, identifier) as upload:
                try:
                    await self._receive(request, upload)
                    return await self._finish(name, upload, digest)
                except BaseException:
                    upload.path.unlink(missing_ok=True)
                    raise
        return self._accepted(name, identifier, 0)

    def _mount(self, name: str, digest: str) -> bool:
        """From any repository: whoever may come in may read them all. Without `from`, too (end-11)."""
        with self.store.adding():
            if not self.store.content.has(digest):
                return False
            with self.store.index() as index:
                catalog.link_blob(index, name, digest)
        return True

    async def upload(
        self, request: web.BaseRequest, name: str, identifier: str
    ) -> web.StreamResponse:
        if request.method == "DELETE":
            self.uploads.cancel(name, identifier)
            return web.Response(status=204)
        with self.uploads.open(name, identifier) as upload:
            if request.method == "GET":
                return self._accepted(name, identifier, upload.size, status=204)
            self._check_start(request, name, identifier, upload)
            if request.method == "PATCH":
                await self._receive(request, upload)
                return self._accepted(name, identifier, upload.size)
            digest = request.query.get("digest", "")
            _check_digest(digest)
            await self._receive(request, upload)
            return await self._finish(name, upload, digest)

    def _check_start(
        self, request: web.BaseRequest, name: str, identifier: str, upload: Upload
    ) -> None:
        """A chunk that says where it belongs must go on where the upload stands (416 otherwise)."""
        text = request.headers.get("Content-Range")
        if text is None:
            return
        match = _RANGE.fullmatch(text.strip())
        start = int(match[1]) if match else -1
        length = request.content_length
        if match and length is not None and int(match[2]) - start + 1 != length:
            raise Refused("SIZE_INVALID", f"Content-Range {text} does not hold {length} bytes")
        if start != upload.size:
            where = self._accepted(name, identifier, upload.size).headers
            raise Refused(
                "BLOB_UPLOAD_INVALID",
                f"the upload stands at {upload.size}",
                status=416,
                headers={key: where[key] for key in ("Location", "Range", "Docker-Upload-UUID")},
            )

    async def _receive(self, request: web.BaseRequest, upload: Upload) -> None:
        """The body, to the file. When the connection breaks, what came stays: the client asks how much that is."""
        try:
            async for chunk in request.content.iter_chunked(CHUNK):
                await asyncio.to_thread(upload.write, chunk)
        except ClientError as error:
            raise ConnectionResetError(str(error)) from error

    async def _finish(self, name: str, upload: Upload, digest: str) -> web.StreamResponse:
        def adopt() -> None:
            with self.store.adding():
                self.store.content.adopt(upload.path, digest)
                with self.store.index() as index:
                    catalog.link_blob(index, name, digest)

        try:
            await asyncio.to_thread(adopt)
        except BadImage as error:
            upload.path.unlink(missing_ok=True)
            raise Refused("DIGEST_INVALID", str(error), detail={"digest": digest}) from None
        return self._created(name, digest)

    def _created(self, name: str, digest: str) -> web.Response:
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return web.Response(status=201, headers=headers)

    def _accepted(
        self, name: str, identifier: str, size: int, *, status: int = 202
    ) -> web.Response:
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{identifier}",
            "Range": f"0-{max(size - 1, 0)}",
            "Docker-Upload-UUID": identifier,
        }
        return web.Response(status=status, headers=headers)

    # Manifests: end-3, end-7, end-9

    async def manifest(
        self, request: web.BaseRequest, name: str, target: str
    ) -> web.StreamResponse:
        if not is_digest(target) and not is_tag(target):
            raise Refused(
                "DIGEST_INVALID" if ":" in target else "MANIFEST_INVALID",
                f"{target!r} is neither a tag nor a digest",
            )
        if request.method == "PUT":
            return await self._put_manifest(request, name, target)
        if request.method == "DELETE":
            await asyncio.to_thread(self._delete_manifest, name, target)
            return web.Response(status=202)
        found = await self._in_index(self._find, name, target)
        headers = {"Docker-Content-Digest": found.digest, "Content-Type": found.media_type}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(found.size)})
        try:
            data = await asyncio.to_thread(self.store.content.read, found.digest)
        except BadImage:
            raise Refused("MANIFEST_UNKNOWN", "manifest unknown to registry") from None
        return web.Response(body=data, headers=headers)

    @staticmethod
    def _find(index: Any, name: str, target: str) -> catalog.Manifest:
        digest = target if is_digest(target) else catalog.resolve_tag(index, name, target)
        found = catalog.manifest(index, name, digest) if digest else None
        if found is None:
            raise _unknown(index, name, target)
        return found

    async def _put_manifest(
        self, request: web.BaseRequest, name: str, target: str
    ) -> web.StreamResponse:
        data = b""
        async for chunk in request.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > manifests.LIMIT:
                raise Refused(
                    "MANIFEST_INVALID",
                    f"the manifest is larger than {manifests.LIMIT} bytes",
                    status=413,
                )
        found, _ = manifests.read(data, request.headers.get("Content-Type", ""), target)
        tag = "" if is_digest(target) else target
        await asyncio.to_thread(manifests.put, self.store, self.host, name, tag, data, found)
        headers = {
            "Location": f"/v2/{name}/manifests/{found.digest}",
            "Docker-Content-Digest": found.digest,
        }
        if found.subject:  # says that the client need not keep the fallback tag
            headers["OCI-Subject"] = found.subject
        return web.Response(status=201, headers=headers)

    def _delete_manifest(self, name: str, target: str) -> None:
        """A tag alone, or a manifest with its tags; images lose the names that these gave them."""
        with self.store.index() as index:
            found = self._find(index, name, target)
            if is_digest(target):
                names = catalog.delete_manifest(index, name, target)
                names.append(f"{self.host}/{name}@{found.digest}")
            else:
                names = [catalog.delete_tag(index, name, target)]
            index.executemany("DELETE FROM names WHERE name = ?", [(each,) for each in names])

    # Lists: end-8a, end-8b, end-12

    async def tags(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        limit, after = _page(request.query)
        rows = await self._in_index(self._tags, name, after, limit + 1)
        document = {"name": name, "tags": rows[:limit]}
        return _listed(document, f"/v2/{name}/tags/list", rows, limit)

    @staticmethod
    def _tags(index: Any, name: str, after: str, limit: int) -> list[str]:
        found = catalog.tags(index, name, after, limit)
        if not found and not catalog.is_known(index, name):
            raise Refused("NAME_UNKNOWN", "repository name not known to registry")
        return found

    async def repositories(self, request: web.BaseRequest) -> web.StreamResponse:
        limit, after = _page(request.query)
        rows = await self._in_index(catalog.repositories, after, limit + 1)
        return _listed({"repositories": rows[:limit]}, "/v2/_catalog", rows, limit)

    async def referrers(
        self, request: web.BaseRequest, name: str, digest: str
    ) -> web.StreamResponse:
        _check_digest(digest)
        wanted = request.query.get("artifactType", "")
        found = await asyncio.to_thread(self._referrers, name, digest)
        headers = {"Content-Type": OCI_INDEX}
        if wanted:
            found = [each for each in found if each.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        return web.Response(body=json.dumps(document).encode(), headers=headers)

    def _referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """Those that name their subject, and those that a client listed under the fallback tag ("Referrers Tag Schema")."""
        with self.store.index() as index:
            found = {
                each.digest: each.descriptor() for each in catalog.referrers(index, name, digest)
            }
            tagged = catalog.resolve_tag(index, name, digest.replace(":", "-", 1))
        if tagged:
            with contextlib.suppress(BadImage):
                listed = read_json(self.store.content.read(tagged), "the index")
                for entry in listed.get("manifests") or []:
                    found.setdefault(str(entry.get("digest")), entry)
        return list(found.values())


def _check_digest(digest: str) -> None:
    if not is_digest(digest):
        raise Refused("DIGEST_INVALID", f"invalid digest {digest!r}")


def _unknown(index: Any, name: str, target: str) -> Refused:
    if not catalog.is_known(index, name):
        return Refused("NAME_UNKNOWN", "repository name not known to registry")
    return Refused("MANIFEST_UNKNOWN", "manifest unknown to registry", detail={"name": target})


def _page(query: Mapping[str, str]) -> tuple[int, str]:
    text = query.get("n", str(PAGE))
    if not text.isdecimal():
        raise Refused("UNSUPPORTED", f"invalid n {text!r}: must be a number", status=400)
    return min(int(text), PAGE), query.get("last", "")


def _listed(document: Mapping[str, Any], path: str, rows: list[str], limit: int) -> web.Response:
    headers = {"Content-Type": "application/json"}
    if len(rows) > limit > 0:
        query = urlencode({"n": limit, "last": rows[limit - 1]}, quote_via=quote)
        headers["Link"] = f'<{path}?{query}>; rel="next"'
    return web.Response(body=json.dumps(document).encode(), headers=headers)
