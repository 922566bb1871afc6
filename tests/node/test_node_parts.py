"""Smaller parts: images, observation, registration, services feed."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from node_pods import SANDBOX, exited, running

from sampan.cri import api_pb2 as api
from sampan.cri.errors import NotFound
from sampan.kube.objects import condition_true
from sampan.node import images, machine, registration
from sampan.node.config import NodeConfig
from sampan.node.errors import ImageError
from sampan.node.images import Images
from sampan.node.network import NetworkFeed
from sampan.node.observed import Observed
from sampan.node.registration import RuntimeFacts, build, differs


def test_news_in_any_order_only_moves_forward() -> None:
    observed = Observed()
    assert observed.merge_container(running(id="c"))
    assert observed.merge_container(exited(id="c"))
    assert not observed.merge_container(running(id="c")), "an event that came late"
    assert observed.containers["c"].state == "exited"
    assert observed.merge_sandbox(SANDBOX)
    assert observed.merge_sandbox(replace(SANDBOX, ready=False, addresses=()))
    assert observed.sandbox() == replace(SANDBOX, ready=False), "the address is remembered"
    assert not observed.merge_sandbox(SANDBOX)
    observed.replace((), ())
    assert observed.sandbox() is None and not observed.containers


def test_history_is_newest_first() -> None:
    observed = Observed()
    for restarts in (1, 0, 2):
        observed.merge_container(exited(restarts=restarts))
    assert [s.restarts for s in observed.history()["web"]] == [2, 1, 0]


class Registry:
    """CRI's image service with one image to be had."""

    def __init__(self) -> None:
        self.have: set[str] = set()
        self.pulls = 0
        self.looks = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def image_status(self, image: Any, verbose: bool) -> Any:
        self.looks += 1
        if image.image not in self.have:
            return api.ImageStatusResponse()
        found = api.Image(id=f"sha256:{image.image}", size=9)
        return api.ImageStatusResponse(image=found, info={"platform": "wasip1/wasm"})

    async def pull_image(self, image: Any, auth: Any) -> Any:
        self.pulls += 1
        await self.gate.wait()
        if image.image == "none:1":
            raise NotFound("no such image")
        self.have.add(image.image)
        return api.PullImageResponse(image_ref=f"sha256:{image.image}")


async def test_pulls_are_shared_and_told() -> None:
    registry, told = Registry(), []
    registry.gate.clear()
    held = Images(registry, 1)  # type: ignore[arg-type]

    async def ensure() -> Any:
        return await held.ensure("a:1", "Always", "", (), lambda *event: told.append(event))

    first, second = asyncio.ensure_future(ensure()), asyncio.ensure_future(ensure())
    while registry.pulls == 0:
        await asyncio.sleep(0)
    registry.gate.set()
    facts = [await first, await second]
    assert registry.pulls == 1 and {f.ref for f in facts} == {"sha256:a:1"}
    assert facts[0].platform == "wasip1"
    assert told[0] == ("Normal", "Pulling", 'Pulling image "a:1"')
    assert told[-1][2].startswith('Successfully pulled image "a:1" in ')
    assert told[-1][2].endswith("including waiting). Image size: 9 bytes.")


async def test_a_rollout_asks_once_for_its_image_until_somebody_doubts_it() -> None:
    registry = Registry()
    registry.have.add("a:1")
    held = Images(registry)  # type: ignore[arg-type]

    async def ensure() -> Any:
        return await held.ensure("a:1", "IfNotPresent", "", (), lambda *_: None)

    assert len({facts.ref for facts in await asyncio.gather(*(ensure() for _ in range(5)))}) == 1
    await ensure()
    assert registry.looks == 1
    registry.have.clear()  # somebody removed it
    assert held.forget("a:1")
    assert not held.forget("a:1")
    await ensure()
    assert registry.pulls == 1


@pytest.mark.parametrize(
    ("image", "policy", "reason"),
    [("none:1", "IfNotPresent", "ErrImagePull"), ("a:1", "Never", "ErrImageNeverPull")],
)
async def test_images_that_cannot_be_had(image: str, policy: str, reason: str) -> None:
    told: list[tuple[str, str, str]] = []
    with pytest.raises(ImageError) as caught:
        await Images(Registry()).ensure(image, policy, "", (), lambda *e: told.append(e))  # type: ignore[arg-type]
    assert caught.value.reason == reason and told[-1][0] == "Warning"


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("a:1", "IfNotPresent"),
        ("host:5000/a", "Always"),
        ("a@sha256:0", "IfNotPresent"),
    ],
)
def test_default_pull_policy(image: str, policy: str) -> None:
    assert images.pull_policy({"image": image}) == policy


def test_credentials_are_for_their_registry() -> None:
    auths = {
        "https://index.docker.io/v1/": {"auth": base64.b64encode(b"me:pw").decode()},
        "reg.example/team": {"username": "team", "password": "t"},
        "reg.example": {"username": "all", "password": "a"},
    }
    text = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    secrets = [{"data": {".dockerconfigjson": text}}, {"data": {".dockerconfigjson": "bm8="}}]
    assert [a.username for a in images.credentials(secrets, "nginx")] == ["me"]
    found = images.credentials(secrets, "reg.example/team/app:1")
    assert [a.username for a in found] == ["team", "all"]
    assert images.credentials(secrets, "other.example/x") == []


RUNTIME = RuntimeFacts("sampan", "1", True, handlers=("", "wasm"))
CALM: frozenset[str] = frozenset()


def test_the_node_object(tmp_path: Path) -> None:
    config = NodeConfig("n1", tmp_path, tmp_path, tmp_path, pod_cidr="10.42.0.0/24")
    here = machine.read(tmp_path)
    node = build(config, here, RUNTIME, CALM, [], 10250, "2026-01-01T00:00:00Z")
    assert condition_true(node, "Ready") and not condition_true(node, "DiskPressure")
    assert node["spec"]["podCIDR"] == "10.42.0.0/24"
    assert node["status"]["capacity"]["cpu"] == str(here.cpus)
    later = build(config, here, RUNTIME, CALM, [], 10250, "2026-01-01T00:05:00Z", node)
    assert not differs(node, later), "a heartbeat is no news"
    away = replace(RUNTIME, ready=False, problem="the runtime is away")
    fallen = build(config, here, away, CALM, [], 10250, "2026-01-01T00:06:00Z", node)
    assert differs(node, fallen) and not condition_true(fallen, "Ready")
    times = {c["type"]: c["lastTransitionTime"] for c in fallen["status"]["conditions"]}
    assert times["Ready"].endswith("06:00Z") and times["DiskPressure"].endswith("00:00Z")
    assert registration.allocatable(config, here)["pods"] == "250"


class Proxy:
    def __init__(self) -> None:
        self.applied: list[int] = []
        self.news = asyncio.Event()
        self.closed = False

    async def apply(self, services: list[Any], slices: list[Any]) -> None:
        self.applied.append(len(services))
        self.news.set()
        if len(self.applied) == 1:
            raise OSError("the first one fails")

    async def close(self) -> None:
        self.closed = True


class Source:
    """An informer as far as the feed uses it."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.handlers: list[Any] = []

    def start(self, group: Any) -> None: ...
    async def synced(self) -> None: ...

    def add_handler(self, handler: Any) -> None:
        self.handlers.append(handler)

    def list(self) -> list[Any]:
        return self.items

    def add(self) -> None:
        self.items.append({})
        for handler in self.handlers:
            handler("ADDED", None, {})


async def test_changes_are_applied_together_and_again_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sampan.node.network.FIRST_PAUSE", 0.01)
    proxy, services = Proxy(), Source()
    feed = NetworkFeed(SimpleNamespace(), lambda: proxy, services)  # type: ignore[arg-type]
    feed._slices = Source()  # type: ignore[assignment]
    task = asyncio.ensure_future(feed.run())
    async with asyncio.timeout(5):
        while len(proxy.applied) < 2:
            proxy.news.clear()
            await proxy.news.wait()
        proxy.news.clear()
        for _ in range(20):
            services.add()
        await proxy.news.wait()
    assert proxy.applied == [0, 0, 20], "twenty changes of one turn are one set of rules"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert proxy.closed
