"""Bad images as a kubelet meets them: PullImage says what is wrong with one, and nothing of it stays."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))

from image_bad import BAD, LIMITS, Made
from image_registry import Registry
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.image.store import ImageStore


@pytest.fixture
async def puller(tmp_path: Path) -> AsyncIterator[Runtime]:
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-") as directory:
        runtime = Runtime(Path(directory), tmp_path / "images", kinds=("wasm",))
        store = ImageStore(tmp_path / "images", platforms=["linux/amd64"], limits=LIMITS)
        runtime.config.images = store
        await runtime.start()
        yield runtime
        await runtime.stop()
        await runtime.client.close()


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
async def test_pulled(puller: Runtime, make: Callable[[], Made]) -> None:
    made, registry = make(), await Registry().start()
    registry.blobs |= made.blobs
    registry.put_manifest("app", "v1", made.document)
    image = {"image": f"{registry.host}/app:v1"}
    try:
        for _ in range(2):  # a kubelet tries again
            with pytest.raises(CRIError) as failed:
                await puller.client.pull_image(image=image)
            assert re.search(BAD[make], str(failed.value)), failed.value
    finally:
        await registry.stop()
    assert not (await puller.client.image_status(image=image)).HasField("image")
    assert list((await puller.client.list_images()).images) == []
    (usage,) = (await puller.client.image_fs_info()).image_filesystems
    assert usage.used_bytes.value == 0
