"""Paths that are not resources: health, version, metrics, discovery, OpenAPI, and the index of them all."""

from __future__ import annotations

import asyncio
import ipaddress
import platform
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import orjson

from sampan import __version__
from sampan.apiserver.call import Call
from sampan.apiserver.entries import Entry
from sampan.apiserver.lists import Listed
from sampan.apiserver.present import JSON_HEADERS, respond_entry, respond_list
from sampan.apiserver.registry import Object
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response, User
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

TEXT_HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "no-cache, private",
    "X-Content-Type-Options": "nosniff",
}
KEPT = {"Cache-Control": "public, max-age=3600"}
PATHS = (
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/metrics/slis",
    "/openapi/v2",
    "/openapi/v3",
    "/version",
)
KUBERNETES = ("1", "36")


def version() -> Object:
    """version.Info: a client of Kubernetes 1.36 finds what it expects."""
    major, minor = KUBERNETES
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"v{major}.{minor}.0+sampan.{__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{platform.python_version()}",
        "compiler": sys.implementation.name,
        "platform": f"linux/{machine}",
    }


class Pages:
    def __init__(self, server: APIServer) -> None:
        self.server = server

    async def respond(self, request: Request, info: RequestInfo, user: User) -> Response:
        path = request.path.rstrip("/") or "/"
        head = path.split("/")[1]
        if request.method == "OPTIONS":
            return Response(200, {"Allow": "GET, HEAD, OPTIONS"})
        if head in ("healthz", "livez", "readyz"):
            return self._health(request, head, path)
        if request.method not in ("GET", "HEAD"):
            raise ApiError(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        if path == "/version":
            return Response(200, JSON_HEADERS, orjson.dumps(version(), option=orjson.OPT_INDENT_2))
        if path in ("/metrics", "/metrics/slis"):
            exposition = await asyncio.to_thread(import_module, "sampan.apiserver.exposition")
            expose = exposition.expose if path == "/metrics" else exposition.expose_slis
            text, content_type = expose(self.server, request.header("accept"))
            return Response(200, {"Content-Type": content_type}, text)
        if path == "/":
            found = ["/api", *self._groups(), *PATHS]
            return Response(
                200,
                JSON_HEADERS,
                orjson.dumps({"paths": sorted(found)}, option=orjson.OPT_INDENT_2),
            )
        signer = self.server.access.signer
        if path == "/.well-known/openid-configuration":
            body = orjson.dumps(signer.openid_configuration(self._reached_at(signer.issuer)))
            return Response(200, {**JSON_HEADERS, **KEPT}, body)
        if path == "/openid/v1/jwks":
            headers = {"Content-Type": "application/jwk-set+json", **KEPT}
            return Response(200, headers, orjson.dumps(signer.key_set()))
        for documents in (self.server.discovery, self.server.openapi):
            found_page = documents.respond(request)
            if found_page is not None:
                return found_page
        raise errors.path_not_found()

    def _reached_at(self, issuer: str) -> str:
        """Where whoever checks a token finds the keys: pods mostly, whose loopback is not ours."""
        config = self.server.config
        host = config.advertise or config.address
        try:
            here_only = ipaddress.ip_address(host).is_loopback
        except ValueError:  # a name
            here_only = False
        if here_only and issuer.startswith("https://"):
            return issuer.rstrip("/")
        return (
            f"https://{config.advertise}:{self.server.port}"
            if config.advertise
            else self.server.address
        )

    def _groups(self) -> list[str]:
        paths = ["/api/v1", "/apis"]
        for group, versions in self.server.table.groups():
            if group:
                paths += [f"/apis/{group}", *(f"/apis/{group}/{each}" for each in versions)]
        return paths

    def _health(self, request: Request, head: str, path: str) -> Response:
        """`/readyz`, `/readyz/check`, `?verbose` and `?exclude=`, as the generic API server answers them."""
        checks = self.server.health.checks(head)
        _, _, one = path.removeprefix("/").partition("/")
        if one:
            if one not in checks:
                raise errors.path_not_found()
            checks = {one: checks[one]}
        excluded = set(request.params("exclude"))
        lines, failed = [], []
        for name, problem in checks.items():
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
            elif problem:
                failed.append(name)
                lines.append(f"[-]{name} failed: {problem}")
            else:
                lines.append(f"[+]{name} ok")
        if failed:
            body = "\n".join([*lines, f"{head} check failed", ""])
            return Response(500, TEXT_HEADERS, body.encode())
        if request.params("verbose"):
            return Response(
                200, TEXT_HEADERS, "\n".join([*lines, f"{head} check passed", ""]).encode()
            )
        return Response(200, TEXT_HEADERS, b"ok")

    def component_statuses(self, call: Call) -> Response:
        """The store is this server's; scheduler and controllers report through their leases, not here."""
        item: Object = {
            "apiVersion": "v1",
            "kind": "ComponentStatus",
            "metadata": {"name": "store"},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
        }
        entry = Entry("", orjson.dumps(item), 0)
        if call.info.verb == "list":
            return respond_list(call, Listed([entry], self.server.caches.revision))
        if call.info.name != "store":
            raise call.not_found()
        return respond_entry(call, entry)
