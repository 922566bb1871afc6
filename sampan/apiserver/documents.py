"""Documents that many clients ask for and that seldom change: encoded once, compressed once, revalidated by ETag.

Discovery and OpenAPI answer with these. RFC 9110 §13.1.2 (If-None-Match) and §12.5.3 (Accept-Encoding).
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator

from sampan.client.transport import Request, Response

COMPRESS_FROM = 4096  # bytes; below this a gzip member saves no packet


class Document:
    """Bytes with a content type and an entity tag. `packed` keeps only the compressed form: for large, rare ones."""

    __slots__ = ("_body", "_compressed", "content_type", "hash")

    def __init__(
        self,
        body: bytes,
        content_type: str = "application/json",
        *,
        packed: bool = False,
        tag: str = "",
    ) -> None:
        self.content_type = content_type
        self.hash = tag or hashlib.sha512(body).hexdigest().upper()
        self._body: bytes | None = None if packed else body
        self._compressed: bytes | None = gzip.compress(body, 6, mtime=0) if packed else None

    @property
    def body(self) -> bytes:
        return gzip.decompress(self._compressed or b"") if self._body is None else self._body

    @property
    def compressed(self) -> bytes:
        if self._compressed is None:
            self._compressed = gzip.compress(self.body, 6, mtime=0)
        return self._compressed

    def respond(self, request: Request, cache: str = "public") -> Response:
        headers = {
            "ETag": f'"{self.hash}"',
            "Cache-Control": cache,
            "Vary": "Accept, Accept-Encoding",
        }
        if any(tag in (self.hash, "*") for tag in _entity_tags(request.header("if-none-match"))):
            return Response(304, headers)
        headers["Content-Type"] = self.content_type
        if (self._body is None or len(self._body) >= COMPRESS_FROM) and accepts_gzip(request):
            headers["Content-Encoding"] = "gzip"
            return Response(200, headers, self.compressed)
        return Response(200, headers, self.body)


def _entity_tags(header: str) -> Iterator[str]:
    for tag in header.split(","):
        yield tag.strip().removeprefix("W/").strip('"')


def accepts_gzip(request: Request) -> bool:
    for part in request.header("accept-encoding").split(","):
        coding, *parameters = (item.strip() for item in part.split(";"))
        if coding == "gzip":
            return not any(p.replace(" ", "") in ("q=0", "q=0.0") for p in parameters)
    return False


def media_types(accept: str) -> list[tuple[str, dict[str, str]]]:
    """(type, parameters) of an Accept header, most wanted first; the order of equals is kept."""
    found = []
    for part in accept.split(","):
        name, *rest = (item.strip() for item in part.split(";"))
        if name:
            pairs = (item.partition("=") for item in rest)
            found.append((name, {key.strip(): value.strip().strip('"') for key, _, value in pairs}))
    found.sort(key=lambda item: -_weight(item[1].get("q", "1")))
    return found


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
