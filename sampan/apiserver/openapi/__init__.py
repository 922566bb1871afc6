"""OpenAPI: what the API's objects and paths look like, for clients. Written at first request, kept compressed.

`/openapi/v3` lists one document per group version, each under an address that carries its hash, so that clients cache it
for ever. The hash is taken of what a document is made from, so that the index need not write them all.
The writers are imported at first use: most servers never see a request for them.
`/openapi/v2` is one large document, in JSON or, as kubectl asks for it, in protobuf.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any, Protocol

import orjson

from sampan.apiserver.documents import Document, media_types
from sampan.apiserver.negotiate import JSON, speaks_only
from sampan.apiserver.resources import Resource, Table
from sampan.client.transport import Request, Response
from sampan.kube import errors, schema

INDEX = "/openapi/v3"
SWAGGER = "/openapi/v2"
JSON_TYPES = frozenset({"application/json", "application/*", "*/*"})
PROTOBUF_TYPES = frozenset(
    {
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    }
)
FOREVER = "public, immutable"


class Schemas(Protocol):
    """Schemas of custom resources."""

    def __call__(self, group: str, version: str) -> dict[str, dict[str, Any]]:
        """The definitions of a group version, by name."""

    def fingerprint(self, group: str, version: str) -> str:
        """Changes whenever they do; must cost little."""


class NoSchemas:
    """Built-in kinds only."""

    def __call__(self, group: str, version: str) -> dict[str, dict[str, Any]]:
        return {}

    def fingerprint(self, group: str, version: str) -> str:
        return ""


class OpenAPI:
    """`schemas` gives what custom resources add to the built-in definitions."""

    def __init__(self, table: Table, schemas: Schemas | None = None) -> None:
        self.table = table
        self.schemas = schemas or NoSchemas()
        self.version = schema.VERSION
        self._documents: dict[str, Document] = {}
        self._generation = -1
        self._encoded: bytes | None = None  # built-in kinds in protobuf, compressed

    def respond(self, request: Request) -> Response | None:
        """The answer; None when the path is not one of ours. Raises ApiError."""
        path = request.path.rstrip("/")
        if path not in (INDEX, SWAGGER) and not path.startswith(INDEX + "/"):
            return None
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed("", request.method)
        protobuf = self._wants_protobuf(path, request.header("accept"))
        if self._generation != self.table.generation:
            self._documents.clear()
            self._generation = self.table.generation
        key = path + ".pb" if protobuf else path
        document = self._documents.get(key)
        if document is None:
            document = self._documents[key] = self._pack() if protobuf else self._write(path)
        asked = request.param("hash")
        if asked and path != INDEX:
            current = self._hash(*self._group_version(path))
            if asked != current:
                return Response(301, {"Location": f"{path}?hash={current}"})
            return document.respond(request, FOREVER)
        return document.respond(request, "no-cache, private")

    @staticmethod
    def _wants_protobuf(path: str, accept: str) -> bool:
        """The first form that the client takes and the path has. Raises ApiError 406."""
        for name, _ in media_types(accept or "*/*"):
            if name in JSON_TYPES:
                return False
            if name in PROTOBUF_TYPES and path == SWAGGER:
                return True
        raise speaks_only(JSON)

    def _pack(self) -> Document:
        """Messages that are written one after the other are one (protobuf.dev/programming-guides/encoding, Last One Wins):
        built-in kinds, which take twenty times as long as a usual set of custom ones, are encoded once."""
        from sampan.apiserver.openapi import gnostic, v2

        own, custom, extra = self._whole()
        if self._encoded is None:
            built_in = orjson.loads(v2.document(own, {}, self.version))
            self._encoded = zlib.compress(gnostic.encode(built_in))
        body = zlib.decompress(self._encoded) + gnostic.encode(v2.addition(custom, extra))
        return Document(body, gnostic.CONTENT_TYPE, packed=True)

    def _whole(self) -> tuple[list[Resource], list[Resource], dict[str, dict[str, Any]]]:
        """Built-in rows, custom rows, and the definitions of these."""
        own: list[Resource] = []
        custom: list[Resource] = []
        extra: dict[str, dict[str, Any]] = {}
        for group, versions in self.table.groups():
            for version in versions:
                for row in self.table.in_version(group, version):
                    (own if row.custom is None else custom).append(row)
                extra |= self.schemas(group, version)
        if extra:
            from sampan.apiserver.crd.openapi import swagger

            extra = swagger(extra)
        return own, custom, extra

    def _write(self, path: str) -> Document:
        if path == INDEX:
            return Document(orjson.dumps({"paths": self._index()}))
        if path == SWAGGER:
            from sampan.apiserver.openapi import v2

            own, custom, extra = self._whole()
            return Document(v2.document([*own, *custom], extra, self.version), packed=True)
        from sampan.apiserver.openapi import v3

        group, version = self._group_version(path)
        rows = self.table.in_version(group, version)
        body = v3.document(rows, self.schemas(group, version), self.version)
        return Document(body, packed=True, tag=self._hash(group, version))

    def _group_version(self, path: str) -> tuple[str, str]:
        match path.removeprefix(INDEX + "/").split("/"):
            case ["api", version] if self.table.in_version("", version):
                return "", version
            case ["apis", group, version] if group and self.table.in_version(group, version):
                return group, version
        raise errors.path_not_found()

    def _index(self) -> dict[str, dict[str, str]]:
        paths = {}
        for group, versions in self.table.groups():
            for version in versions:
                place = f"apis/{group}/{version}" if group else f"api/{version}"
                address = f"{INDEX}/{place}?hash={self._hash(group, version)}"
                paths[place] = {"serverRelativeURL": address}
        return paths

    def _hash(self, group: str, version: str) -> str:
        source = repr((schema.VERSION, FORMAT, self.table.in_version(group, version)))
        digest = hashlib.sha512(source.encode())
        digest.update(self.schemas.fingerprint(group, version).encode())
        return digest.hexdigest().upper()


FORMAT = 2  # grows when the writing of documents changes, so that clients fetch them anew
