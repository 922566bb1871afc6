"""What is the same for every kind: the choice of the kind, lists, refusals, images, status."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import busybox
import pytest
from runtime_fixture import Runtime

from sampan.cri import api_pb2 as pb
from sampan.cri import errors
from sampan.image.store import ImageStore
from sampan.runtime.inventory import kind_of_image
from sampan.runtime.wasm.kind import SMALLEST

root = pytest.mark.root


@pytest.fixture
async def mixed():
    """A runtime whose store has a wasm image and busybox."""
    with tempfile.TemporaryDirectory(prefix="sampan-mixed-") as directory:
        base = Path(directory)
        store = ImageStore(base / "images")
        (base / "smallest.wasm").write_bytes(SMALLEST)
        store.load(base / "smallest.wasm", "example.org/smallest:1")
        if busybox.binary():
            store.load(busybox.write_layout(base / "layout"))
        runtime = Runtime(base, base / "images")
        async with runtime.running():
            yield runtime


WASM = {"image": {"image": "example.org/smallest:1"}}


async def kind(runtime, pod: str) -> str:
    answer = await runtime.client.pod_sandbox_status(pod_sandbox_id=pod, verbose=True)
    return answer.info["kind"]


async def test_the_annotation_of_the_images_platform_decides(mixed):
    pod = await mixed.pod("", annotations={"sampan.dev/image-os": "wasip1"})
    assert await kind(mixed, pod) == "wasm"
    container = await mixed.container(pod, **WASM)
    assert (await mixed.ended(container)).exit_code == 0


async def test_a_pod_without_a_kind_takes_that_of_its_first_image(mixed):
    pod = await mixed.pod("")
    container = await mixed.container(pod, **WASM)
    assert await kind(mixed, pod) == "wasm"
    assert (await mixed.ended(container)).exit_code == 0
    if os.geteuid() == 0:
        with pytest.raises(errors.FailedPrecondition, match="runs as wasm"):
            await mixed.container(pod, "true")


@root
async def test_an_image_that_does_not_fit_the_handler_is_refused(mixed):
    pod = await mixed.pod("container")
    with pytest.raises(errors.FailedPrecondition, match="wasi"):
        await mixed.container(pod, **WASM)
    assert not (await mixed.client.list_containers()).containers


def test_platforms():
    assert [kind_of_image(name) for name in ("wasip1", "wasi", "linux", "")] == [
        "wasm", "wasm", "container", "container",
    ]  # fmt: skip


async def test_refusals(mixed):
    with pytest.raises(errors.InvalidArgument, match='"gvisor"'):
        await mixed.pod("gvisor")
    with pytest.raises(errors.InvalidArgument, match="metadata"):
        await mixed.client.run_pod_sandbox(runtime_handler="wasm")
    with pytest.raises(errors.NotFound):
        await mixed.client.pod_sandbox_status(pod_sandbox_id="f" * 64)
    with pytest.raises(errors.InvalidArgument, match="empty"):
        await mixed.client.container_status()
    pod = await mixed.pod(
        "wasm", metadata={"name": "a", "uid": "b", "namespace": "c", "attempt": 1}
    )
    with pytest.raises(errors.AlreadyExists, match=pod):
        await mixed.pod("wasm", metadata={"name": "a", "uid": "b", "namespace": "c", "attempt": 1})
    await mixed.client.stop_pod_sandbox(pod_sandbox_id=pod)
    with pytest.raises(errors.FailedPrecondition, match="not running"):
        await mixed.container(pod, **WASM)


async def test_lists_and_filters(mixed):
    one = await mixed.pod("wasm", labels={"app": "one", "tier": "x"})
    two = await mixed.pod("wasm", labels={"app": "two", "tier": "x"})
    container = await mixed.container(one, start=False, labels={"c": "1"}, **WASM)
    listed = mixed.client.list_pod_sandbox

    async def pods(**wanted):
        return {item.id for item in (await listed(filter=wanted)).items}

    assert await pods() == {one, two}
    assert await pods(label_selector={"tier": "x", "app": "two"}) == {two}
    assert await pods(id=one[:12]) == {one}
    assert await pods(state={"state": pb.SANDBOX_NOTREADY}) == set()
    await mixed.client.stop_pod_sandbox(pod_sandbox_id=two)
    assert await pods(state={"state": pb.SANDBOX_NOTREADY}) == {two}

    async def containers(**wanted):
        answer = await mixed.client.list_containers(filter=wanted)
        return {item.id for item in answer.containers}

    assert await containers(pod_sandbox_id=one) == {container}
    assert await containers(pod_sandbox_id=two) == set()
    assert await containers(state={"state": pb.CONTAINER_CREATED}) == {container}
    assert await containers(label_selector={"c": "2"}) == set()
    streamed = [item async for item in mixed.client.stream_containers()]
    assert [item.containers[0].id for item in streamed] == [container]
    assert (await mixed.status(container[:10])).id == container


async def test_images(mixed):
    (image,) = (
        await mixed.client.list_images(filter={"image": {"image": "example.org/smallest:1"}})
    ).images
    assert image.repo_tags == ["example.org/smallest:1"]
    assert image.spec.annotations["sampan.dev/os"].startswith("wasi")
    status = await mixed.client.image_status(image={"image": image.id})
    assert status.image.id == image.id
    missing = await mixed.client.image_status(image={"image": "example.org/none:1"})
    assert not missing.HasField("image")
    info = await mixed.client.image_fs_info()
    assert info.image_filesystems[0].used_bytes.value > 0
    await mixed.client.remove_image(image={"image": image.id})
    await mixed.client.remove_image(image={"image": image.id})
    assert not (await mixed.client.image_status(image={"image": image.id})).HasField("image")
    with pytest.raises(errors.InvalidArgument):
        await mixed.client.pull_image(image={"image": "Not A Name"})


async def test_status_and_version(mixed):
    status = await mixed.client.status(verbose=True)
    assert {item.type: item.status for item in status.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    handlers = {item.name for item in status.runtime_handlers}
    assert {"", "wasm"} <= handlers
    assert '"network": "loopback"' in status.info["config"]
    assert (await mixed.client.version(version="v1")).runtime_api_version == "v1"
    config = await mixed.client.runtime_config()
    assert config.linux.cgroup_driver == pb.CGROUPFS
    with pytest.raises(errors.NotFound):
        await mixed.client.checkpoint_container(container_id="x")
