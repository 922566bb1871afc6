"""An embedded registry of a test's own over real HTTP, and a client of it that is logged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
from image_make import digest, documents, entry, layer

from sampan.image.hosts import Host, Registries
from sampan.image.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sampan.image.registryserver import RegistryServer
from sampan.image.registryserver.credentials import Credentials
from sampan.image.store import ImageStore

PLATFORMS = ["linux/amd64", "wasip1/wasm"]


class Boat:
    """A registry over a store, and a client that is logged in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = ImageStore(directory / "images", platforms=PLATFORMS)
        self.credentials = Credentials(directory / "registry")
        self.server = RegistryServer(self.store, self.credentials, port=0)

    async def start(self) -> Boat:
        await self.server.start()
        self.auth = self.credentials.ensure([self.server.host])
        self.base = f"http://127.0.0.1:{self.server.port}"
        self.http = aiohttp.ClientSession(headers={"Authorization": self.auth.basic})
        return self

    async def stop(self) -> None:
        await self.http.close()
        await self.server.close()

    async def ask(self, method: str, path: str, status: int, **arguments: Any) -> tuple[Any, bytes]:
        """Headers and body of an answer that must have this status."""
        url = path if path.startswith("http") else f"{self.base}{path}"
        async with self.http.request(method, url, **arguments) as response:
            body = await response.read()
            assert response.status == status, (method, path, response.status, body)
            return response.headers, body

    async def refused(self, method: str, path: str, status: int, code: str, **more: Any) -> Any:
        headers, body = await self.ask(method, path, status, **more)
        assert json.loads(body)["errors"][0]["code"] == code
        return headers

    async def blob(self, name: str, data: bytes) -> str:
        path = f"/v2/{name}/blobs/uploads/?digest={digest(data)}"
        headers, _ = await self.ask("POST", path, 201, data=data)
        assert headers["Location"] == f"/v2/{name}/blobs/{digest(data)}"
        return digest(data)

    async def manifest(self, name: str, target: str, document: dict[str, Any]) -> tuple[str, Any]:
        data = json.dumps(document).encode()
        kind = {"Content-Type": document["mediaType"]}
        headers, _ = await self.ask(
            "PUT", f"/v2/{name}/manifests/{target}", 201, data=data, headers=kind
        )
        assert headers["Docker-Content-Digest"] == digest(data)
        return digest(data), headers

    async def image(self, name: str, tag: str, text: bytes = b"world", **top: Any) -> str:
        config, blobs, layers = documents([layer(entry("hello", text))], {"Cmd": ["/x"]}, **top)
        for data in (config, *blobs):
            await self.blob(name, data)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor.of(OCI_CONFIG, config).json(),
            "layers": [item.json() for item in layers],
        }
        return (await self.manifest(name, tag, document))[0]

    def registries(self) -> Registries:
        return Registries().with_host([self.server.host], Host(self.auth))
