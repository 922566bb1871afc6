"""CDI: vendors' descriptions become devices, mounts, variables and groups of a container, and bad ones are refused in words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from runtime_fixture import Runtime

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError
from sampan.runtime import cdi

YAML = """\
cdiVersion: "0.6.0"
kind: harbour.example/crane
containerEdits: {env: [CRANES=yes]}
devices:
- name: "0"
  containerEdits:
    deviceNodes: [{path: /dev/crane0, hostPath: /dev/zero, permissions: r}]
- name: all
  containerEdits: {env: [ALL=1]}
"""


def write(directory: Path, name: str, devices: dict[str, Any], **top: Any) -> None:
    directory.mkdir(exist_ok=True)
    document = {
        "cdiVersion": "0.6.0",
        "kind": "harbour.example/boat",
        "devices": [{"name": name, "containerEdits": edits} for name, edits in devices.items()],
        **top,
    }
    (directory / name).write_text(json.dumps(document))


def config(*names: str, **annotations: str) -> Any:
    return pb.ContainerConfig(
        CDI_devices=[pb.CDIDevice(name=name) for name in names],
        annotations={key.replace("__", "/"): value for key, value in annotations.items()},
    )


def test_the_later_directory_wins_and_what_is_shared_comes_once(tmp_path: Path) -> None:
    early, late = tmp_path / "etc", tmp_path / "run"
    write(early, "a.json", {"1": {"env": ["FROM=etc"]}, "2": {"env": ["TWO=2"]}})
    write(late, "b.json", {"1": {"env": ["FROM=run"]}})
    (early / "crane.yaml").write_text(YAML)
    (early / "broken.json").write_text("{")
    (early / "notes.txt").write_text("not looked at")
    asked = config("harbour.example/crane=0", "harbour.example/boat=1")
    asked.annotations["cdi.k8s.io/plugin"] = "harbour.example/crane=all,harbour.example/boat=2"
    cdi.inject(asked, (early, late))
    assert [(each.key, each.value) for each in asked.envs] == [
        ("CRANES", "yes"), ("FROM", "run"), ("ALL", "1"), ("TWO", "2"),
    ]  # fmt: skip
    (device,) = asked.devices
    assert (device.container_path, device.host_path, device.permissions) == ("/dev/crane0", "/dev/zero", "r")  # fmt: skip
    plain = config()
    cdi.inject(plain, (early, late))
    assert plain == pb.ContainerConfig()


@pytest.mark.parametrize(
    ("edits", "text"),
    [
        ({"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}, "hooks: not supported"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt: not supported"),
        ({"env": ["NAME"]}, "not NAME=VALUE"),
        ({"deviceNodes": [{"path": "dev/x"}]}, "not an absolute path"),
        ({"mounts": [{"hostPath": "/a/../b", "containerPath": "/x"}]}, "not an absolute path"),
        ({"mounts": [{"hostPath": "/a"}]}, "containerPath"),
        ({"additionalGids": ["crew"]}, "crew"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_changes_nothing(
    tmp_path: Path, edits: dict[str, Any], text: str
) -> None:
    write(tmp_path / "cdi", "a.json", {"good": {"env": ["A=1"]}, "bad": edits})
    asked = config("harbour.example/boat=good", "harbour.example/boat=bad")
    before = pb.ContainerConfig.FromString(asked.SerializeToString())
    with pytest.raises(cdi.BadDevice, match=f"CDI device injection failed: .*{text}"):
        cdi.inject(asked, (tmp_path / "cdi",))
    assert asked == before


def test_two_files_with_one_device_leave_it_unresolved(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write(tmp_path / "cdi", name, {"1": {"env": ["A=1"]}})
    with pytest.raises(cdi.BadDevice, match=r"unresolvable CDI devices harbour.example/boat=1 .*more than one file"):  # fmt: skip
        cdi.inject(config("harbour.example/boat=1"), (tmp_path / "cdi",))


@pytest.fixture
async def equipped(images: Path) -> AsyncIterator[Runtime]:
    with tempfile.TemporaryDirectory(prefix="sampan-cdi-") as directory:
        runtime = Runtime(Path(directory), images, cdi_directories=(Path(directory, "cdi"),))
        async with runtime.running():
            yield runtime


@pytest.mark.root
async def test_a_container_gets_what_its_device_needs(equipped: Runtime) -> None:
    library = equipped.base / "driver"
    library.write_text("anchor\n")
    edits = {
        "env": ["BOAT=afloat"],
        "deviceNodes": [{"path": "/dev/boat0", "hostPath": "/dev/null"}],
        "mounts": [
            {"hostPath": str(library), "containerPath": "/lib/driver", "options": ["ro", "bind"]}
        ],
        "additionalGids": [4711],
    }
    write(equipped.base / "cdi", "boat.json", {"0": edits})
    pod = await equipped.pod()
    device = [{"name": "harbour.example/boat=0"}]
    script = "echo $BOAT; cat /lib/driver; id -G; echo x >/dev/boat0 && echo written; echo y >/lib/driver"
    container = await equipped.container(pod, "sh", "-c", script, CDI_devices=device)
    assert (await equipped.ended(container)).exit_code != 0
    text = await equipped.log(container)  # its two streams, each in order
    said = text.splitlines()
    assert said[:2] == ["afloat", "anchor"] and "4711" in said[2].split()
    assert "written" in said[3:] and "Read-only" in text
    with pytest.raises(CRIError, match=r"unresolvable CDI devices harbour.example/boat=1"):
        await equipped.container(pod, "true", CDI_devices=[{"name": "harbour.example/boat=1"}])
