"""Links in what a proxied pod, service or node answers: its root is somewhere below ours, and browsers must find it there.

Pages of text/html have the URLs in their tags rewritten, and redirects their Location, as Kubernetes' proxy does
(apimachinery, util/proxy). A page is rewritten as it comes: only a tag that is not here in full yet is waited for.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from sampan.apiserver.proxy import Answer

# Attributes that hold a URL (html.spec.whatwg.org, Attributes; and those of HTML 4).
ATTRIBUTES = (
    "action", "background", "cite", "classid", "codebase", "data", "formaction", "href", "icon", "longdesc", "manifest",
    "poster", "profile", "src", "usemap",
)  # fmt: skip
LONGEST_TAG = 64 * 1024  # bytes; what is longer is no tag

_TAG = re.compile(rb"<[a-zA-Z][^<>]*>")
_LINK = re.compile(
    rb"(?i)(\s(?:%s)\s*=\s*)(?:\"([^\"]*)\"|'([^']*)')" % "|".join(ATTRIBUTES).encode()
)


def moved(link: str, prefix: str, host: str) -> str:
    """The link as it must be below `prefix`. One to another host than the backend's, or relative to its page, stays."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return link
    foreign = parts.netloc not in ("", host) or parts.scheme not in ("", "http", "https")
    if foreign or not parts.path.startswith("/"):
        return link
    path = parts.path
    if not path.startswith(prefix):
        path = posixpath.normpath(prefix + path) + ("/" if path.endswith("/") else "")
    return urlunsplit(("", "", path, parts.query, parts.fragment))


def rewritten(page: bytes, prefix: str, host: str) -> bytes:
    def link(match: re.Match[bytes]) -> bytes:
        quote = b'"' if match[2] is not None else b"'"
        found = (match[2] if match[2] is not None else match[3]).decode("utf-8", "surrogateescape")
        to = moved(found, prefix, host).encode("utf-8", "surrogateescape")
        return match[1] + quote + to + quote

    return _TAG.sub(lambda tag: _LINK.sub(link, tag[0]), page)


class Page:
    """An answer whose links are rewritten on their way."""

    def __init__(self, answer: Answer, prefix: str, host: str) -> None:
        self.answer = answer
        self._parts = self._rewrite(prefix, host)

    def __aiter__(self) -> Page:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def _rewrite(self, prefix: str, host: str) -> AsyncIterator[bytes]:
        rest = b""
        async for part in self.answer:
            rest += part
            opened = rest.rfind(b"<")
            whole = len(rest)
            if rest.rfind(b">") < opened and whole - opened < LONGEST_TAG:
                whole = opened
            if whole:
                yield rewritten(rest[:whole], prefix, host)
                rest = rest[whole:]
        if rest:
            yield rest

    async def aclose(self) -> None:
        await self.answer.aclose()


def in_place(
    answer: Answer, headers: dict[str, str], prefix: str, host: str
) -> tuple[dict[str, str], Answer | Page]:
    """Headers and body of an answer for who asked below `prefix`."""
    lower = {name.lower(): name for name in headers}
    if "location" in lower:
        name = lower["location"]
        headers = {**headers, name: moved(headers[name], prefix, host)}
    kind = headers.get(lower.get("content-type", ""), "").partition(";")[0].strip()
    if kind != "text/html" or "content-encoding" in lower:
        return headers, answer
    return {k: v for k, v in headers.items() if k.lower() != "content-length"}, Page(
        answer, prefix, host
    )
