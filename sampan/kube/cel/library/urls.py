"""URLs: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-url-library

A URL is what Go's `url.ParseRequestURI` takes: absolute, or a path from the root (RFC 3986).
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.types import BOOL, STRING, list_of, map_of, opaque
from sampan.kube.cel.values import Opaque

URL = opaque("kubernetes.URL")

_PARTS = re.compile(
    r"(?:([A-Za-z][A-Za-z0-9+.\-]*):)?(//[^/?#]*)?([^?#]*)(?:\?([^#]*))?(?:#(.*))?\Z", re.S
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%A-Za-z\-]+\]|[^\s\[\]<>\"\\^`{|}:]*)(?::([0-9]*))?\Z")
_SAFE = "$&+,/:;=@-_.~!*'()"


class Parts(NamedTuple):
    scheme: str
    host: str  # with the port
    hostname: str
    port: str
    path: str  # escaped
    query: str


def parse(text: str) -> Parts:
    """Raises EvaluationError worded as Go words it."""
    match = _PARTS.match(text)

    def wrong(why: str) -> EvaluationError:
        shown = text.replace('"', '\\"')
        return EvaluationError(
            f'URL parse error during conversion from string: parse "{shown}": {why}'
        )

    if not text:
        raise wrong("empty url")
    if _CONTROL.search(text):
        raise wrong("net/url: invalid control character in URL")
    if match is None:
        raise wrong("invalid URI for request")
    scheme, authority, path, query, _ = match.groups()
    if not scheme and text.startswith(":"):
        raise wrong("missing protocol scheme")
    if not scheme and not text.startswith("/"):
        raise wrong("invalid URI for request")
    if scheme and authority is None and not path.startswith("/"):
        raise wrong("invalid URI for request")
    if bad := _BAD_ESCAPE.search(path):
        raise wrong(f'invalid URL escape "{path[bad.start() : bad.start() + 3]}"')
    address = (authority or "//")[2:].rpartition("@")[2] if scheme else (authority or "//")[2:]
    if not scheme:
        # Without a scheme a request URI is a path, even one that begins with two slashes.
        path, address = (authority or "") + path, ""
    found = _HOST.match(address)
    if found is None:
        raise wrong(
            "invalid character in host name"
            if " " in address
            else f'invalid port "{address}" after host'
        )
    host, port = found.group(1), found.group(2) or ""
    escaped = path if _well_escaped(path) else quote(unquote(path), safe=_SAFE)
    return Parts((scheme or "").lower(), address, host.strip("[]"), port, escaped, query or "")


def _well_escaped(path: str) -> bool:
    return path.isascii() and not re.search(r"[\s\"<>\\^`{|}]", path)


def _query(url: Opaque) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(url.value.query, keep_blank_values=True, max_num_fields=10_000):
        found.setdefault(name, []).append(value)
    return found


def _is_url(text: str) -> bool:
    try:
        parse(text)
    except EvaluationError:
        return False
    return True


FUNCTIONS: Library = {
    "url": [function("string_to_url", (STRING,), URL, lambda a: Opaque(URL, parse(a)))],
    "isURL": [function("is_url_string", (STRING,), BOOL, _is_url)],
    "getScheme": [method("url_get_scheme", (URL,), STRING, lambda a: a.value.scheme)],
    "getHost": [method("url_get_host", (URL,), STRING, lambda a: a.value.host)],
    "getHostname": [method("url_get_hostname", (URL,), STRING, lambda a: a.value.hostname)],
    "getPort": [method("url_get_port", (URL,), STRING, lambda a: a.value.port)],
    "getEscapedPath": [method("url_get_escaped_path", (URL,), STRING, lambda a: a.value.path)],
    "getQuery": [method("url_get_query", (URL,), map_of(STRING, list_of(STRING)), _query)],
}
