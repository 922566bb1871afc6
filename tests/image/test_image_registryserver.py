"""The embedded registry, spoken to raw: every end point of the distribution specification."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from image_boat import Boat
from image_make import digest

from sampan.image.auth import Auth
from sampan.image.errors import ImageNotFound
from sampan.image.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor
from sampan.image.registryserver import RegistryServer
from sampan.image.registryserver.credentials import Credentials
from sampan.image.store import ImageStore


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


async def test_a_new_port_renames(boat: Boat) -> None:
    await boat.image("app", "v1")
    await boat.server.close()
    boat.server = RegistryServer(boat.store, boat.credentials, port=0)
    await boat.server.start()
    assert boat.store.inspect(f"{boat.server.host}/app:v1").pinned
