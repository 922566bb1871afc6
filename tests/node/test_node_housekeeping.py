"""What keeps a node within its means: log rotation against the real runtime, image garbage, pressure and eviction."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Harbour, Pods
from node_pods import container, make_pod

from sampan.cri.client import CRIClient
from sampan.node import eviction, imagegc, pressure
from sampan.node.eviction import Usage
from sampan.node.imagegc import ImageGC, Known
from sampan.node.logrotation import LogRotation
from sampan.node.pressure import Amount, Breach, PressureWatch

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def node(harbour: Harbour) -> Iterator[None]:
    process = harbour.start_node()
    yield
    harbour.end(process)


async def grown(path: Path, beyond: int = 0) -> None:
    """Return when the file is larger than that; it is being written by another process."""
    async with asyncio.timeout(15):
        while not path.exists() or path.stat().st_size <= beyond:
            await asyncio.sleep(0.02)


@pytest.mark.timeout(60)
async def test_a_log_that_grew_is_put_aside_and_goes_on(
    harbour: Harbour, node: None, pods: Pods
) -> None:
    await pods.create("talker", "ticker:1")
    await pods.until("talker", lambda pod: pod.get("status", {}).get("phase") == "Running")
    (path,) = (harbour.directory / "logs" / "pods").glob("default_talker_*/main/0.log")
    async with CRIClient(harbour.directory / "run" / "cri.sock") as cri:
        listed = (await cri.list_containers()).containers
        (talker,) = [
            each.id
            for each in listed
            if each.labels.get("io.kubernetes.pod.name") == "talker" and each.state == 1
        ]
        rotation = LogRotation(cri, lambda: [(talker, path)], most_bytes=100, most_files=3)
        for _ in range(4):
            await grown(path, 100)
            await rotation.look()
            await grown(path)
    names = sorted(each.name for each in path.parent.iterdir())
    assert names[0] == "0.log" and len(names) == 3, "one is written, one was put aside, one packed"
    packed = next(each for each in path.parent.iterdir() if each.suffix == ".gz")
    assert b"stdout F ahoy" in gzip.decompress(packed.read_bytes())


async def test_a_log_that_cannot_be_opened_anew_stays_where_it_is(
    harbour: Harbour, tmp_path: Path
) -> None:
    path = tmp_path / "0.log"
    path.write_text("x" * 200)
    async with CRIClient(harbour.directory / "run" / "cri.sock") as cri:
        rotation = LogRotation(cri, lambda: [("nobody", path)], most_bytes=100, most_files=3)
        await rotation.look()
    assert [each.name for each in tmp_path.iterdir()] == ["0.log"]
    assert path.read_text() == "x" * 200


async def test_unused_images_go_when_bytes_are_wanted(harbour: Harbour, node: None) -> None:
    now = [1000.0]
    async with CRIClient(harbour.directory / "run" / "cri.sock") as cri:

        async def names() -> set[str]:
            images = (await cri.list_images()).images
            return {tag.rpartition("/")[2] for image in images for tag in image.repo_tags}

        used = {
            each.image.image.rpartition("/")[2] for each in (await cri.list_containers()).containers
        }
        deleted: list[None] = []
        collector = ImageGC(
            cri,
            harbour.directory,
            high=101,
            low=100,
            deleted=lambda: deleted.append(None),
            clock=lambda: now[0],
        )
        before = await names()
        assert await collector.free(10**9) == 0, "an image that was just seen stays"
        assert await names() == before
        now[0] += 200
        assert await collector.free(1) > 0
        assert len(before) - len(await names()) == 1 and deleted
        await collector.free(10**9)
        assert await names() >= used & before
    reload_guests(harbour)


def reload_guests(harbour: Harbour) -> None:
    """The other tests want the images that went."""
    from sampan.image.build import build
    from sampan.image.store import ImageStore

    store = ImageStore(harbour.directory / "images")
    for place in (harbour.directory / "build").iterdir():
        build(place, f"{place.name}:1", store, platform="wasip1/wasm")


def test_images_go_in_the_order_of_their_last_use() -> None:
    known = {
        "old": Known(0.0, 10.0, 1),
        "never": Known(5.0, 0.0, 1),
        "busy": Known(0.0, 50.0, 1, used=True),
        "pinned": Known(0.0, 0.0, 1, pinned=True),
        "new": Known(950.0, 0.0, 1),
    }
    assert imagegc.candidates(known, 1000.0) == ["never", "old"]


# Pressure


def test_thresholds_are_amounts_or_shares() -> None:
    reading = {
        "memory.available": Amount(90 * MIB, 1000 * MIB),
        "nodefs.available": Amount(11, 100),
        "pid.available": Amount(1, 100),
    }
    found = pressure.breaches(reading, pressure.DEFAULTS)
    assert {(each.signal, each.condition) for each in found} == {
        ("memory.available", "MemoryPressure"),
        ("pid.available", "PIDPressure"),
    }
    assert str(found[0]) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi."
    )


@pytest.mark.parametrize(
    "text", ["memory.available<1x", "memory", "disk<10%", "nodefs.available<200%"]
)
def test_a_threshold_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError):
        pressure.parse_thresholds(text)


def test_thresholds_keep_their_defaults() -> None:
    found = pressure.parse_thresholds("memory.available<1Gi")
    assert found == {**pressure.DEFAULTS, "memory.available": "1Gi"}


def test_a_condition_outlives_its_cause(tmp_path: Path) -> None:
    now, free = [0.0], [1]
    watch = PressureWatch(
        tmp_path,
        tmp_path,
        {"memory.available": "10"},
        measure=lambda *_: {"memory.available": Amount(free[0], 100)},
        clock=lambda: now[0],
    )
    assert watch.look() and watch.holding() == {"MemoryPressure"}
    free[0] = 50
    now[0] = 299.0
    assert not watch.look() and watch.holds("MemoryPressure")
    now[0] = 301.0
    assert not watch.holding()


def test_the_real_machine_can_be_read(tmp_path: Path) -> None:
    reading = pressure.read(tmp_path, tmp_path)
    assert set(reading) <= set(pressure.SIGNALS)
    assert all(0 <= each.free <= each.capacity for each in reading.values())


# Eviction


def pod(name: str, request: str = "", **fields: Any) -> dict[str, Any]:
    resources = {"requests": {"memory": request}} if request else {}
    made = make_pod(container("c", resources=resources), **fields)
    made["metadata"] |= {"name": name, "uid": name}
    return made


def using(memory: int) -> Usage:
    return Usage({"c": memory}, {"c": 0}, 1)


def test_who_takes_most_beyond_its_request_goes_first() -> None:
    pods = [
        pod("within", "100Mi"),
        pod("over", "10Mi"),
        pod("far-over", "1Mi"),
        pod("important", priority=1000),
        pod("critical", priority=2_000_000_001),
        pod("static"),
    ]
    pods[-1]["metadata"]["annotations"] = {"kubernetes.io/config.source": "file"}
    usage = {each["metadata"]["name"]: using(50 * MIB) for each in pods}
    order = [each["metadata"]["name"] for each in eviction.rank(pods, usage, "memory")]
    assert order == ["far-over", "over", "important", "within"]


def test_the_verdict_says_what_was_over() -> None:
    breach = Breach("memory.available", 100 * MIB, 50 * MIB)
    found = eviction.verdict(pod("p", "1Mi"), breach, using(70 * MIB))
    assert found.reason == "Evicted"
    assert found.message == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container c was using 70Mi, request is 1Mi, has larger consumption of memory. "
    )


def test_usage_is_read_from_what_the_runtime_measured() -> None:
    from sampan.cri import api_pb2 as api

    stats = api.PodSandboxStats()
    stats.attributes.metadata.uid = "u"
    one = stats.linux.containers.add()
    one.attributes.metadata.name = "c"
    one.memory.working_set_bytes.value = 7
    one.writable_layer.used_bytes.value = 5
    stats.linux.process.process_count.value = 3
    found = eviction.usage_of([stats])["u"]
    assert (found.total("memory"), found.total("ephemeral-storage"), found.total("pids")) == (
        7,
        5,
        3,
    )
