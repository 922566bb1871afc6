"""The embedded registry over real HTTP: every end point of the distribution specification, spoken raw and by real clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from image_make import add_image, digest, documents, entry, layer

from sampan.image.auth import Auth
from sampan.image.errors import ImageNotFound, Unauthorized
from sampan.image.hosts import Host, Registries
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
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


@pytest.fixture
async def boat(tmp_path: Path) -> AsyncIterator[Boat]:
    found = await Boat(tmp_path).start()
    yield found
    await found.stop()


async def test_nobody_is_anonymous(boat: Boat) -> None:
    paths = ["/v2/", "/v2/_catalog", "/v2/app/tags/list", f"/v2/app/blobs/{digest(b'x')}", "/other"]
    wrong = Auth("sampan", "wrong").basic
    for given in ("", wrong, "Basic !!!", "Bearer x", Auth("nobody", "").basic, Auth("", "").basic):
        async with aiohttp.ClientSession(headers={"Authorization": given} if given else {}) as http:
            for path in paths:
                async with http.get(boat.base + path) as response:
                    assert response.status == 401
                    assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
                    assert (await response.json())["errors"][0]["code"] == "UNAUTHORIZED"
    headers, _ = await boat.ask("GET", "/v2/", 200)
    assert headers["Docker-Distribution-API-Version"] == "registry/2.0"
    for file in (boat.credentials.file, boat.credentials.auth_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    boat.credentials.file.write_text("other:words\n")
    await boat.ask("GET", "/v2/", 401)  # the file counts as it is now


def test_only_loopback_without_tls(tmp_path: Path) -> None:
    store, credentials = ImageStore(tmp_path), Credentials(tmp_path)
    with pytest.raises(ValueError, match="needs TLS"):
        RegistryServer(store, credentials, address="0.0.0.0")


async def test_pushed_is_an_image_of_the_node(boat: Boat) -> None:
    manifest = await boat.image("team/app", "v1")
    name = f"{boat.server.host}/team/app"
    image = boat.store.inspect(f"{name}:v1")
    assert image.pinned and image.digests == (f"{name}@{manifest}",)
    unpacked = await boat.store.unpack(f"{name}:v1")
    assert (unpacked.layers[0] / "hello").read_bytes() == b"world"
    boat.store.sweep()
    assert boat.store.inspect(f"{name}@{manifest}").id == image.id
    second = await boat.image("team/app", "v1", b"moved")
    assert boat.store.inspect(f"{name}:v1").manifest == second
    assert not boat.store.inspect(image.id).pinned
    await boat.ask("DELETE", "/v2/team/app/manifests/v1", 202)
    with pytest.raises(ImageNotFound):
        boat.store.inspect(f"{name}:v1")
    await boat.ask("GET", f"/v2/team/app/manifests/{second}", 200)
    await boat.ask("DELETE", f"/v2/team/app/manifests/{second}", 202)
    await boat.refused("GET", f"/v2/team/app/manifests/{second}", 404, "MANIFEST_UNKNOWN")


async def test_blobs(boat: Boat) -> None:
    data = os.urandom(300_000)
    name = await boat.blob("a/b", data)
    headers, _ = await boat.ask("HEAD", f"/v2/a/b/blobs/{name}", 200)
    assert headers["Content-Length"] == "300000" and headers["Docker-Content-Digest"] == name
    assert (await boat.ask("GET", f"/v2/a/b/blobs/{name}", 200))[1] == data
    part = {"Range": "bytes=100-199"}
    headers, body = await boat.ask("GET", f"/v2/a/b/blobs/{name}", 206, headers=part)
    assert body == data[100:200] and headers["Content-Range"] == "bytes 100-199/300000"
    beyond = {"Range": "bytes=300000-"}
    await boat.ask("GET", f"/v2/a/b/blobs/{name}", 416, headers=beyond)
    await boat.refused("GET", f"/v2/other/blobs/{name}", 404, "BLOB_UNKNOWN")
    await boat.refused("GET", "/v2/a/b/blobs/sha256:abc", 400, "DIGEST_INVALID")
    mount = f"/v2/other/blobs/uploads/?mount={name}&from=a/b"
    headers, _ = await boat.ask("POST", mount, 201)
    assert headers["Location"] == f"/v2/other/blobs/{name}"
    await boat.ask("DELETE", f"/v2/a/b/blobs/{name}", 202)
    await boat.refused("DELETE", f"/v2/a/b/blobs/{name}", 404, "BLOB_UNKNOWN")
    assert (await boat.ask("GET", f"/v2/other/blobs/{name}", 200))[1] == data
    absent = f"/v2/other/blobs/uploads/?mount={digest(b'absent')}&from=a/b"
    assert "Location" in (await boat.ask("POST", absent, 202))[0]


async def test_chunks_and_going_on(boat: Boat) -> None:
    data = os.urandom(1000)
    headers, _ = await boat.ask("POST", "/v2/app/blobs/uploads/", 202)
    place = headers["Location"]
    first = {"Content-Range": "0-399"}
    headers, _ = await boat.ask("PATCH", place, 202, data=data[:400], headers=first)
    assert headers["Range"] == "0-399"
    again = await boat.refused(
        "PATCH", place, 416, "BLOB_UPLOAD_INVALID", data=data[:400], headers=first
    )
    assert again["Range"] == "0-399" and again["Location"] == place
    liar = {"Content-Range": "400-9999"}
    await boat.refused("PATCH", place, 400, "SIZE_INVALID", data=data[400:500], headers=liar)
    await boat.server.close()  # a restart in the middle
    boat.server = RegistryServer(boat.store, boat.credentials, port=boat.server.port)
    await boat.server.start()
    assert (await boat.ask("GET", place, 204))[0]["Range"] == "0-399"
    await boat.refused("PATCH", place.replace("/app/", "/b/"), 404, "BLOB_UPLOAD_UNKNOWN")
    await boat.ask("PATCH", place, 202, data=data[400:900])  # a stream says no range
    rest = {"Content-Range": "900-999"}
    end = f"{place}?digest={digest(data)}"
    headers, _ = await boat.ask("PUT", end, 201, data=data[900:], headers=rest)
    assert (await boat.ask("GET", headers["Location"], 200))[1] == data
    await boat.refused("GET", place, 404, "BLOB_UPLOAD_UNKNOWN")
    place = (await boat.ask("POST", "/v2/app/blobs/uploads/", 202))[0]["Location"]
    await boat.refused("PUT", f"{place}?digest={digest(b'x')}", 400, "DIGEST_INVALID", data=b"y")
    await boat.refused("PUT", f"{place}?digest={digest(b'y')}", 404, "BLOB_UPLOAD_UNKNOWN")
    place = (await boat.ask("POST", "/v2/app/blobs/uploads/", 202))[0]["Location"]
    await boat.ask("DELETE", place, 204)
    assert list((boat.store.directory / "uploads").iterdir()) == []


async def test_a_connection_that_breaks_leaves_what_came(boat: Boat) -> None:
    data = os.urandom(200_000)
    place = (await boat.ask("POST", "/v2/app/blobs/uploads/", 202))[0]["Location"]
    reader, writer = await asyncio.open_connection("127.0.0.1", boat.server.port)
    head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nAuthorization: {boat.auth.basic}\r\nContent-Length: 200000\r\n"
    writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
    assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
    writer.write(data[:150_000])
    await writer.drain()
    writer.close()
    file = next((boat.store.directory / "uploads").iterdir())
    async with asyncio.timeout(10):
        while True:
            async with boat.http.get(boat.base + place) as response:
                if response.status == 204:  # 409 while the broken request is still being read
                    break
            await asyncio.sleep(0)
    stands = file.stat().st_size
    assert 0 < stands <= 150_000
    rest = {"Content-Range": f"{stands}-199999"}
    end = f"{place}?digest={digest(data)}"
    await boat.ask("PUT", end, 201, data=data[stands:], headers=rest)


async def test_manifests_are_checked_and_kept_as_they_came(boat: Boat) -> None:
    await boat.image("app", "v1")
    _, body = await boat.ask("GET", "/v2/app/manifests/v1", 200)
    headers, _ = await boat.ask("HEAD", "/v2/app/manifests/v1", 200)
    assert headers["Content-Type"] == OCI_MANIFEST
    assert headers["Content-Length"] == str(len(body))
    document = json.loads(body)
    put, kind = "/v2/app/manifests/v2", {"Content-Type": OCI_MANIFEST}
    missing = {**document, "layers": [Descriptor.of(OCI_CONFIG, b"absent").json()]}
    cases = [
        (b"{}", 400, "MANIFEST_INVALID"),
        (b"nonsense", 400, "MANIFEST_INVALID"),
        (json.dumps({**document, "layers": 7}).encode(), 400, "MANIFEST_INVALID"),
        (json.dumps({**document, "mediaType": OCI_INDEX}).encode(), 400, "MANIFEST_INVALID"),
        (json.dumps(missing).encode(), 404, "MANIFEST_BLOB_UNKNOWN"),
        (b" " * ((4 << 20) + 1), 413, "MANIFEST_INVALID"),
    ]
    for data, status, code in cases:
        await boat.refused("PUT", put, status, code, data=data, headers=kind)
    other = f"/v2/app/manifests/{digest(b'other')}"
    await boat.refused("PUT", other, 400, "DIGEST_INVALID", data=body, headers=kind)
    await boat.refused("GET", put, 404, "MANIFEST_UNKNOWN")
    await boat.refused("GET", "/v2/none/manifests/v1", 404, "NAME_UNKNOWN")
    await boat.refused("GET", "/v2/App/manifests/v1", 400, "NAME_INVALID")
    await boat.refused("GET", "/v2/../app/manifests/v%2f1", 404, "UNSUPPORTED")
    await boat.refused("POST", put, 405, "UNSUPPORTED")
    with_space = json.dumps(document, indent=4).encode()
    await boat.ask("PUT", put, 201, data=with_space, headers=kind)
    assert (await boat.ask("GET", put, 200))[1] == with_space


async def test_lists(boat: Boat) -> None:
    await boat.image("app", "b")
    for tag in ("a", "c", "d"):
        await boat.image("app", tag)
    headers, body = await boat.ask("GET", "/v2/app/tags/list", 200)
    assert json.loads(body) == {"name": "app", "tags": ["a", "b", "c", "d"]}
    assert "Link" not in headers
    headers, body = await boat.ask("GET", "/v2/app/tags/list?n=2", 200)
    assert json.loads(body)["tags"] == ["a", "b"]
    following = headers["Link"].partition(">")[0].lstrip("<")
    headers, body = await boat.ask("GET", following, 200)
    assert json.loads(body)["tags"] == ["c", "d"] and "Link" not in headers
    _, body = await boat.ask("GET", "/v2/app/tags/list?n=0", 200)
    assert json.loads(body)["tags"] == []
    await boat.refused("GET", "/v2/none/tags/list", 404, "NAME_UNKNOWN")
    _, body = await boat.ask("GET", "/v2/_catalog", 200)
    assert json.loads(body) == {"repositories": ["app"]}


async def test_referrers(boat: Boat) -> None:
    subject = await boat.image("app", "v1")
    size = len((await boat.ask("GET", "/v2/app/manifests/v1", 200))[1])
    empty = await boat.blob("app", b"{}")
    path = f"/v2/app/referrers/{subject}"
    _, body = await boat.ask("GET", path, 200)
    assert json.loads(body)["manifests"] == []
    made = []
    for kind in ("application/sbom", "application/signature"):
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": Descriptor("application/vnd.oci.empty.v1+json", empty, 2).json(),
            "layers": [],
            "subject": Descriptor(OCI_MANIFEST, subject, size).json(),
            "annotations": {"by": kind},
        }
        found = digest(json.dumps(document).encode())
        _, headers = await boat.manifest("app", found, document)
        assert headers["OCI-Subject"] == subject
        made.append(found)
    old = Descriptor(OCI_MANIFEST, made[0], 1).json()
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [old]}
    await boat.manifest(
        "app", subject.replace(":", "-"), index
    )  # the fallback tag of older clients
    headers, body = await boat.ask("GET", path, 200)
    listed = json.loads(body)["manifests"]
    assert headers["Content-Type"] == OCI_INDEX and len(listed) == 2
    assert {each["annotations"]["by"] for each in listed} == {
        each["artifactType"] for each in listed
    }
    headers, body = await boat.ask("GET", f"{path}?artifactType=application/sbom", 200)
    assert headers["OCI-Filters-Applied"] == "artifactType"
    assert [each["digest"] for each in json.loads(body)["manifests"]] == [made[0]]
    boat.store.sweep()
    await boat.ask("GET", f"/v2/app/manifests/{made[1]}", 200)  # kept with its subject


async def test_what_nothing_leads_to_is_swept(boat: Boat, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = await boat.image("app", "v1")
    lost = await boat.image("app", "v2", b"lost")
    loose = await boat.blob("app", b"loose")
    await boat.ask("DELETE", "/v2/app/manifests/v2", 202)
    boat.store.remove(boat.store.inspect(f"{boat.server.host}/app@{lost}").id)
    assert boat.store.content.has(loose) and boat.store.content.has(lost)  # just pushed
    monkeypatch.setattr("sampan.image.catalog.LEASE", -1.0)
    assert boat.store.sweep()
    assert not boat.store.content.has(loose) and not boat.store.content.has(lost)
    await boat.ask("GET", f"/v2/app/manifests/{kept}", 200)
    boat.store.remove(f"{boat.server.host}/app:v1")  # `sampan image rm` takes the tag as well
    await boat.refused("GET", "/v2/app/manifests/v1", 404, "NAME_UNKNOWN")
    assert list(boat.store.content.digests()) == []


async def test_indexes_and_other_machines_images(boat: Boat) -> None:
    entries = []
    for machine in ("arm64", "amd64"):
        found = await boat.image("multi", f"only-{machine}", machine.encode(), architecture=machine)
        platform = {"os": "linux", "architecture": machine}
        size = boat.store.content.path(found).stat().st_size
        entries.append(Descriptor(OCI_MANIFEST, found, size, platform=platform).json())
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    await boat.manifest("multi", "latest", index)
    image = boat.store.inspect(f"{boat.server.host}/multi:latest")
    assert image.architecture == "amd64" and image.pinned
    with pytest.raises(ImageNotFound):  # kept for other machines, no image of this one
        boat.store.inspect(f"{boat.server.host}/multi:only-arm64")
    await boat.ask("GET", "/v2/multi/manifests/only-arm64", 200)


async def test_our_own_client(boat: Boat, tmp_path: Path) -> None:
    other = ImageStore(tmp_path / "other", platforms=PLATFORMS, registries=boat.registries())
    image_id = add_image(
        other, "docker.io/library/app:1", [layer(entry("big", os.urandom(1 << 20)))]
    )
    target = f"{boat.server.host}/team/app:1"
    manifest = await other.push("app:1", target)
    assert boat.store.inspect(target).id == image_id
    third = ImageStore(tmp_path / "third", platforms=PLATFORMS, registries=boat.registries())
    assert await third.pull(f"{boat.server.host}/team/app@{manifest}") == image_id
    with pytest.raises(Unauthorized, match="push access denied"):
        await other.push("app:1", target, Auth("sampan", "wrong"))
    await other.push("app:1", f"{boat.server.host}/other/app:2")  # every blob is mounted
    assert boat.store.inspect(f"{boat.server.host}/other/app:2").id == image_id


class Relay:
    """Before a registry: cuts a connection when the client has sent so many bytes over it, as often as `cuts` says."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.target, self.cuts = port, cuts
        self.ranges: list[bytes] = []  # of requests that go on with an upload

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)

        async def forth() -> None:
            passed = 0
            while data := await reader.read(65536):
                passed += len(data)
                self.ranges += re.findall(rb"Content-Range: (\d+)-", data)
                far_writer.write(data)
                await far_writer.drain()
                if self.cuts and passed > self.cuts[0]:
                    self.cuts.pop(0)
                    break
            far_writer.close()
            writer.close()

        async def back() -> None:
            while data := await far_reader.read(65536):
                writer.write(data)

        await asyncio.gather(forth(), back(), return_exceptions=True)


async def test_a_push_goes_on_where_it_broke(
    boat: Boat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.image.transport.FIRST_PAUSE", 0.05)
    relay = Relay(boat.server.port, [1_500_000, 1_500_000])
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    registries = Registries().with_host([host], Host(boat.auth))
    other = ImageStore(tmp_path / "other", platforms=PLATFORMS, registries=registries)
    image_id = add_image(
        other, "docker.io/library/app:1", [layer(entry("big", os.urandom(4 << 20)))]
    )
    await other.push("app:1", f"{host}/app:1")
    first, second = (int(start) for start in relay.ranges)
    assert relay.cuts == [] and 0 < first < second < 4 << 20
    assert boat.store.inspect(f"{boat.server.host}/app:1").id == image_id
    server.close()


async def test_a_new_port_renames(boat: Boat) -> None:
    await boat.image("app", "v1")
    await boat.server.close()
    boat.server = RegistryServer(boat.store, boat.credentials, port=0)
    await boat.server.start()
    assert boat.store.inspect(f"{boat.server.host}/app:v1").pinned


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo: apt-get install skopeo")
async def test_skopeo(boat: Boat, tmp_path: Path) -> None:
    """Debian's skopeo pushes, lists, inspects, copies and deletes; what it pushed runs here."""
    source = ImageStore(tmp_path / "source", platforms=PLATFORMS)
    image_id = add_image(source, "docker.io/library/app:1", [layer(entry("hello", b"ship"))])
    archive = tmp_path / "app.tar"
    source.save(["app:1"], archive)

    async def skopeo(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "skopeo",
            "--insecure-policy",
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        return out.decode()

    login = f"--authfile={boat.credentials.auth_file}"
    top = f"docker://{boat.server.host}"
    to, both = "--dest-tls-verify=false", ["--src-tls-verify=false", "--dest-tls-verify=false"]
    await skopeo("copy", login, to, f"docker-archive:{archive}", f"{top}/team/docker:1")
    await skopeo("copy", login, to, f"oci-archive:{archive}", f"{top}/team/app:1")
    image = boat.store.inspect(f"{boat.server.host}/team/app:1")
    assert image.id == image_id and image.pinned
    unpacked = await boat.store.unpack(f"{boat.server.host}/team/docker:1")
    assert (unpacked.layers[0] / "hello").read_bytes() == b"ship"
    shown = json.loads(await skopeo("inspect", login, "--tls-verify=false", f"{top}/team/app:1"))
    assert shown["Digest"] == image.manifest and shown["RepoTags"] == ["1"]
    await skopeo("copy", login, *both, f"{top}/team/app:1", f"{top}/copy/app:2")
    await skopeo(
        "copy", login, "--src-tls-verify=false", f"{top}/copy/app:2", f"dir:{tmp_path}/out"
    )
    await skopeo("delete", login, "--tls-verify=false", f"{top}/copy/app:2")
    await boat.refused("GET", f"/v2/copy/app/manifests/{image.manifest}", 404, "MANIFEST_UNKNOWN")
    assert boat.store.inspect(f"{boat.server.host}/team/app:1").pinned


TOOLS = {
    # how its users load an archive, push what is in it, and pull it again
    "podman": ("load -i {archive}", "push --tls-verify=false {name} {target}", "pull --tls-verify=false {target}"),
    "buildah": ("pull docker-archive:{archive}", "push --tls-verify=false {name} {target}", "pull --tls-verify=false {target}"),
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("tool", TOOLS)
async def test_other_clients_push_and_pull(
    boat: Boat, tmp_path: Path, tool: str, request: pytest.FixtureRequest
) -> None:
    """podman and buildah, as Debian has them, on storage of their own."""
    if shutil.which(tool) is None or os.geteuid() != 0:
        pytest.skip(f"needs {tool}, and root")
    source = ImageStore(tmp_path / "source", platforms=PLATFORMS)
    image_id = add_image(source, "docker.io/library/app:1", [layer(entry("hello", b"ship"))])
    archive = tmp_path / "app.tar"
    source.save(["app:1"], archive)
    environment = {**os.environ, "REGISTRY_AUTH_FILE": str(boat.credentials.auth_file)}
    # podman takes no runroot of more than 50 characters.
    short = Path(tempfile.mkdtemp(prefix="boats-"))
    request.addfinalizer(lambda: shutil.rmtree(short, ignore_errors=True))
    storage = ["--root", str(short / "root"), "--runroot", str(short / "run"), "--storage-driver", "vfs"]  # fmt: skip

    async def call(words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            tool, *storage, *words.split(), env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        return out.decode()

    target = f"{boat.server.host}/team/{tool}:1"
    load, push, pull = (
        text.format(archive=archive, name="docker.io/library/app:1", target=target)
        for text in TOOLS[tool]
    )
    await call(load)
    await call(push)
    pushed = boat.store.inspect(target)
    assert pushed.id == image_id
    unpacked = await boat.store.unpack(target)
    assert (unpacked.layers[0] / "hello").read_bytes() == b"ship"
    await call("rmi --all --force")
    await call(pull)
    assert image_id.removeprefix("sha256:")[:12] in await call("images --all")
