"""kopf, unmodified, on built-in kinds: handlers run, its finalizers hold objects, its annotations and patches are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import container
from cluster import wait_for
from space import Space

OPERATOR = Path(__file__).with_name("operator_of_harbours.py")
FINALIZER = "kopf.zalando.org/KopfFinalizerMarker"


class Operator:
    def __init__(self, space: Space, output: Path) -> None:
        self.output = output
        with output.open("w") as file:
            self.process = space.cluster.popen(
                sys.executable, "-m", "kopf", "run", "--standalone", "-n", space.name, str(OPERATOR),
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def says(self, *lines: str) -> None:
        def said() -> bool:
            text = self.output.read_text()
            assert self.process.poll() is None, text
            missing = [line for line in lines if line not in text]
            assert not missing, f"{missing} in\n{text[-3000:]}"
            return True

        wait_for(said, what=f"the operator says {lines}")


@pytest.fixture(scope="module")
def operator(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = Operator(space, tmp_path_factory.mktemp("kopf") / "output")
    try:
        made.says("Initial authentication has finished")
        yield made
    finally:
        made.process.terminate()
        made.process.wait(30)


def test_a_config_map_from_its_creation_to_its_end(space: Space, operator: Operator) -> None:
    labels = {"harbour": "old"}
    made = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept", "labels": labels}, "data": {"cargo": "tea"},
    }  # fmt: skip
    space.apply(made)
    operator.says("created kept")
    handled = "kopf.zalando.org/last-handled-configuration"
    meta = wait_for(
        lambda: (
            (m := space.get("configmap", "kept")["metadata"])
            and handled in m.get("annotations", {})
            and m
        ),
        what="kopf's annotation",
    )
    assert meta["finalizers"] == [FINALIZER]
    space.apply({**made, "data": {"cargo": "silk"}})
    operator.says("updated kept tea silk")
    wait_for(
        lambda: space.get("configmap", "kept")["metadata"]["labels"].get("cargo") == "silk",
        what="the label",
    )
    space.kubectl("delete", "configmap", "kept", "--timeout=20s")
    operator.says("deleted kept")
    assert "NotFound" in space.kubectl_fails("get", "configmap", "kept")


def test_a_deployment_and_its_fields(space: Space, operator: Operator) -> None:
    labels = {"harbour": "new"}
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "fleet", "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "runtimeClassName": "wasm",
                        "containers": [container("wasm", "sleep")],
                    },
                },
            },
        }
    )
    operator.says("scaled fleet None 1", "ticked fleet")
    space.kubectl("scale", "deployment/fleet", "--replicas=2")
    operator.says("scaled fleet 1 2")
    wait_for(
        lambda: (
            space.get("deployment", "fleet")["metadata"]["annotations"].get("harbour/replicas")
            == "2"
        ),
        what="the annotation",
    )
    space.kubectl("rollout", "status", "deployment/fleet", "--timeout=30s")
    space.kubectl("delete", "deployment", "fleet", "--timeout=20s")
    space.kubectl("wait", "--for=delete", "pods", "-l", "harbour=new", "--timeout=30s")


def test_objects_made_while_the_operator_is_away(
    space: Space, operator: Operator, tmp_path: Path
) -> None:
    """A second operator, elsewhere: it finds what is there and takes up what it has not handled."""
    space.kubectl("create", "configmap", "early", "--from-literal=cargo=rum")
    space.kubectl("label", "configmap", "early", "harbour=yes")
    operator.says("created early")
    text = operator.output.read_text()
    assert "Traceback" not in text, text[-5000:]
    space.kubectl("delete", "configmap", "early", "--timeout=20s")
