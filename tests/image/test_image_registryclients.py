"""Clients of the embedded registry: our own, and those that its users have: skopeo, podman, buildah, docker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from image_boat import PLATFORMS, Boat
from image_make import add_image, entry, layer

from sampan.image.auth import Auth
from sampan.image.errors import Unauthorized
from sampan.image.hosts import Host, Registries
from sampan.image.store import ImageStore


@pytest.fixture
async def boat(tmp_path: Path) -> AsyncIterator[Boat]:
    found = await Boat(tmp_path).start()
    yield found
    await found.stop()


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


DOCKER = Path(__file__).parents[2] / ".cache" / "docker" / "usr"


def program(name: str) -> str | None:
    """Of Docker: installed, or unpacked by tools/setup.sh, since its package would start a daemon."""
    path = os.pathsep.join((os.environ["PATH"], str(DOCKER / "bin"), str(DOCKER / "sbin")))
    return shutil.which(name, path=path)


@pytest.mark.root
async def test_docker(boat: Boat, tmp_path: Path) -> None:
    """A daemon of the test's own, which touches neither bridges nor packet filter."""
    docker, daemon = program("docker"), program("dockerd")
    if docker is None or daemon is None or shutil.which("containerd") is None or os.geteuid() != 0:
        pytest.skip("needs docker and containerd (sh tools/setup.sh dev), and root")
    source = ImageStore(tmp_path / "source", platforms=PLATFORMS)
    image_id = add_image(source, "docker.io/library/app:1", [layer(entry("hello", b"ship"))])
    archive = tmp_path / "app.tar"
    source.save(["app:1"], archive)
    short = Path(tempfile.mkdtemp(prefix="boats-"))  # containerd takes no long path of a socket
    (short / "client").mkdir()
    shutil.copy(boat.credentials.auth_file, short / "client" / "config.json")
    flags = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
    places = (f"--data-root={short}/data", f"--exec-root={short}/exec", f"--pidfile={short}/pid")
    running = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", daemon, *flags, *places, f"--host=unix://{short}/socket"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def call(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            docker, f"--config={short}/client", f"--host=unix://{short}/socket", *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def drained(stream: asyncio.StreamReader) -> None:
        await stream.read()

    async def listening() -> None:
        assert running.stderr is not None
        async for line in running.stderr:
            if b"API listen on" in line:
                return
        raise AssertionError("the daemon ended")

    reading = asyncio.create_task(listening())
    try:
        await asyncio.wait_for(asyncio.shield(reading), 60)
        assert running.stderr is not None
        reading = asyncio.create_task(drained(running.stderr))
        target = f"{boat.server.host}/team/docker:1"
        await call("load", "-i", str(archive))
        await call("tag", "app:1", target)
        await call("push", target)
        assert boat.store.inspect(target).id == image_id
        unpacked = await boat.store.unpack(target)
        assert (unpacked.layers[0] / "hello").read_bytes() == b"ship"
        await call("rmi", "-f", "app:1", target)
        await call("pull", target)
        assert image_id in await call("images", "--no-trunc", "-q", target)
    finally:
        if running.returncode is None:
            running.terminate()
        await running.wait()
        await asyncio.gather(reading, return_exceptions=True)
        shutil.rmtree(short, ignore_errors=True)
