"""Firecracker and Cloud Hypervisor: what their drivers ask, against their published APIs and a recording of the program.

A program of the right name stands in for the VMM: it opens the API's socket and answers as the API's definition says, after
checking the body of each request against it. What Firecracker itself answered to the same requests was recorded once
(tools/vmm_record.py): what is asked now is what it took then. Where it is on the PATH it can be recorded anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import jails
import pytest
import stand_in_vmm

from sampan.runtime.microvm import channel, cloud_hypervisor, httpvmm, jail, protocol, quarters
from sampan.runtime.microvm.cloud_hypervisor import CloudHypervisor, CloudHypervisorMachine
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.firecracker import Firecracker
from sampan.runtime.microvm.protocol import Key
from sampan.runtime.microvm.vmm import SLOTS, MachineSpec

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "exchanges" / "firecracker-recorded.json").read_text())["exchanges"]
PUBLISHED = json.loads((HERE / "exchanges" / "cloud-hypervisor-published.json").read_text())["exchanges"]  # fmt: skip
ROOT, KVM = os.geteuid() == 0, os.path.exists("/dev/kvm")
DRIVERS: dict[str, type[Any]] = {"firecracker": Firecracker, "cloud-hypervisor": CloudHypervisor}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the PATH with programs of both names, and the kernel that they are told of."""
    if stand_in_vmm.interpreter() is None:
        pytest.skip("no Python below /usr, where a jail would show it")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in DRIVERS:
        stand_in_vmm.install(programs / name, HERE / "exchanges" / f"{name}.json")
    for name in ("kernel", "initial"):
        (tmp_path / name).write_text("whole")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def told(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "vmm.log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def asked(directory: Path) -> list[tuple[str, Any]]:
    return [(each["call"], each["body"]) for each in told(directory) if "call" in each]


def spec(directory: Path, ram: int, name: str = "ab" * 32, **fields: Any) -> MachineSpec:
    directory.mkdir()
    uid = jail.uid_of(name) if ROOT else 0
    return MachineSpec(name, directory, 128, 1, ram=ram, uid=uid, **fields)


def booting(directory: Path, ram: int) -> MachineSpec:
    base = directory.parent
    return spec(
        directory, ram, kernel=base / "kernel", initial_files=base / "initial",
        command_line="quiet", ram_shared=True,
    )  # fmt: skip


def memory() -> int:
    made = os.memfd_create("ram")
    os.ftruncate(made, 1 << 20)
    return made


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_template_is_made_and_a_clone_started(
    name: str, stand_in: Path, tmp_path: Path
) -> None:
    driver = DRIVERS[name]()
    assert driver.edition().endswith(("1.10.1", str(SLOTS), "42.0"))
    ram = memory()
    state = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT)
    machine = await driver.start(booting(tmp_path / "template", ram))
    try:
        link = await channel.connect(await machine.dial(), name)
        answer = protocol.decode(await link.hello())
        assert protocol.number(answer[Key.VERSION]) == protocol.VERSION
        link.close()
        await machine.snapshot(state)
    finally:
        await machine.stop()
    assert os.pread(ram, 6, 0) == b"memory" and os.fstat(state).st_size > 0
    clone = await driver.start(spec(tmp_path / "clone", ram, state=state))
    try:
        image = os.open(tmp_path / "state", os.O_RDONLY)
        await clone.attach_drive(2, image)
        if name == "cloud-hypervisor":
            await clone.attach_drive(2, image)
        await clone.pause()
        await clone.resume()
        again = await driver.adopt(tmp_path / "clone")
        assert again is not None and again.pid == clone.pid
        again.close()
    finally:
        await clone.stop()
    assert await driver.adopt(tmp_path / "clone") is None
    first, second = asked(tmp_path / "template"), asked(tmp_path / "clone")
    if name == "firecracker":
        assert [likened(*each) for each in (*first, *second)] == taken()
        names = [call for call, _ in first]
        assert names[0] == "PUT /machine-config" and names[-3:] == [
            "PUT /actions",
            "PATCH /vm",
            "PUT /snapshot/create",
        ]
        assert len([call for call in names if call.startswith("PUT /drives/")]) == SLOTS
        load = second[0][1]
        assert load["mem_backend"]["backend_type"] == "File" and load["resume_vm"] is True
        assert second[1] == (
            "PATCH /drives/drive2",
            {"drive_id": "drive2", "path_on_host": "files/image2"},
        )
    else:
        assert [call.rpartition("/")[2] for call, _ in first] == [
            "vm.create",
            "vm.boot",
            "vm.pause",
            "vm.snapshot",
        ]
        assert first[0][1]["memory"] == {"size": 128 << 20}
        assert [call.rpartition("/")[2] for call, _ in second][:3] == [
            "vm.restore",
            "vm.resume",
            "vm.add-disk",
        ]
        assert beyond([*first, *second]) == BEYOND
        assert second[2][1]["readonly"] is True


# What is asked of Cloud Hypervisor that no example of its own shows in a request; the API's definition has it all.
BEYOND = {
    "vm.create": {
        "memory", "payload.initramfs", "serial", "console", "vsock", *(("net.id", "net.num_queues", "net.tap") if ROOT else ()),
    },
    "vm.add-disk": {"readonly", "serial"},
}  # fmt: skip


def beyond(calls: list[tuple[str, Any]]) -> dict[str, set[str]]:
    """By call, the fields that are in none of the published exchanges."""
    found: dict[str, set[str]] = {}
    for call, body in calls:
        shown = [each["body"] for each in PUBLISHED if each["call"] == call]
        assert shown, f"{call} is shown nowhere"
        assert (body is None) == (shown[0] is None), call
        for name in further(body, shown[0], ""):
            found.setdefault(call.rpartition("/")[2], set()).add(name)
    return found


def further(asked: Any, shown: Any, where: str) -> list[str]:
    if isinstance(asked, list):
        return [name for each in asked for name in further(each, shown[0], where)]
    if not isinstance(asked, dict):
        assert type(asked) is type(shown), where
        return []
    return [
        name
        for key, value in asked.items()
        for name in (
            further(value, shown[key], f"{where}{key}.") if key in shown else [where + key]
        )
    ]


def test_what_cloud_hypervisor_publishes_is_what_its_definition_says() -> None:
    definitions = json.loads((HERE / "exchanges" / "cloud-hypervisor.json").read_text())["calls"]
    for each in PUBLISHED:
        definition = definitions[each["call"]]
        assert stand_in_vmm.check(definition["body"], each["body"]) == "", each["call"]
        assert str(each["status"]) in definition["answers"] and each["source"]


async def test_a_disk_is_gone_when_the_published_tree_has_it_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An answer as it is published is read: it has the disk by its id, and so it is asked again."""
    answers = {each["call"]: each["answer"] for each in PUBLISHED}
    info = answers["GET /api/v1/vm.info"]
    left = [info, {**info, "device_tree": {}}]
    calls: list[str] = []

    async def answered(_: Path, method: str, target: str, body: Any = None) -> Any:
        calls.append(f"{method} {target}")
        return left.pop(0) if target.endswith("info") else answers[calls[-1]]

    monkeypatch.setattr(httpvmm, "request", answered)
    monkeypatch.setattr(cloud_hypervisor, "drive_id", lambda slot: f"_disk{slot}")
    machine = CloudHypervisorMachine(tmp_path, os.getpid(), None, -1)
    (tmp_path / "files").mkdir()
    file = os.memfd_create("image")
    await machine.attach_drive(0, file)
    await machine.attach_drive(0, file)
    machine.close()
    assert [call.rpartition("/")[2] for call in calls] == [
        "vm.add-disk", "vm.remove-device", "vm.info", "vm.info", "vm.add-disk",
    ]  # fmt: skip


def likened(call: str, body: Any) -> tuple[str, Any]:
    """Without what differs from machine to machine: where files are, numbers of descriptors, the kernel's arguments."""
    names = (
        "kernel_image_path", "initrd_path", "boot_args", "mem_file_path", "backend_path", "path_on_host", "snapshot_path",
    )  # fmt: skip

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: "" if key in names else plain(each) for key, each in value.items()}

    return call, plain(body)


def taken() -> list[tuple[str, Any]]:
    """What Firecracker took of the driver; a card takes root."""
    return [
        likened(each["call"], each["body"])
        for each in RECORDED
        if each["status"] == 204 and (ROOT or "network" not in each["call"])
    ]


def test_what_firecracker_refused_is_told_in_its_words() -> None:
    refused = [each for each in RECORDED if each["status"] == 400]
    told = [httpvmm.words(json.dumps(each["answer"]).encode()) for each in refused]
    assert len(told) == 4 and told == [each["answer"]["fault_message"] for each in refused]
    assert told[0] == "The requested operation is not supported after starting the microVM."
    assert "unknown field `vcpus`" in told[-1]
    definitions = json.loads((HERE / "exchanges" / "firecracker.json").read_text())["calls"]
    wanted = definitions["PUT /machine-config"]["body"]
    assert stand_in_vmm.check(wanted, refused[-1]["body"]), "the stand-in refuses it, too"


@pytest.mark.skipif(not ROOT, reason="a jail takes root")
@pytest.mark.parametrize("how", [*DRIVERS, "jailer"])
async def test_the_vmm_is_jailed(how: str, stand_in: Path, tmp_path: Path) -> None:
    """By what it finds itself, and by what the host sees of it."""
    jailer = stand_in / "jailer"
    if how == "jailer":
        definitions = HERE / "exchanges" / "firecracker.json"
        jailer.write_text(
            f'#!/bin/sh\nexec {sys.executable} {HERE / "stand_in_jailer.py"} {definitions} "$@"\n'
        )
        jailer.chmod(0o755)
    name = "firecracker" if how == "jailer" else how
    directory, ram = tmp_path / "m", memory()
    made = booting(directory, ram)
    machine = await DRIVERS[name]().start(made)
    try:
        found = told(directory)[0]["surroundings"]
        assert found["ids"] == made.uid and found["alone"] and found["no_new_privs"] == "1"
        assert set(found["groups"]) <= {made.uid}
        assert set(found["capabilities"]) == {jails.NOTHING}
        assert found["pid"] == "1" and not found["others"]
        for kind, link in found["namespaces"].items():
            assert link != os.readlink(f"/proc/self/ns/{kind}"), kind
        may = {"make its socket", "open the tap's device", *(("open KVM",) if KVM else ())}
        assert set(found["may"]) == may
        if how == "jailer":
            assert set(found["root"]) == {"dev", "files", "firecracker", "proc"}
            assert found["writable"] == ["/"], "the jailer's tmpfs"
        else:
            assert set(found["root"]) <= {*jails.ROOT, "vmm", name}
            places = {each for each in found["writable"] if not each.startswith("/dev/")}
            assert places == {"/vmm"}
        assert {"kernel", "initial"} <= set(found["files"])
        status = jails.status_of(machine.pid)
        assert {int(each) for each in status["Uid"].split()} == {made.uid}
        links = Path(f"/proc/{machine.pid}/net/dev").read_text().splitlines()[2:]
        assert {line.split(":")[0].strip() for line in links} == {"lo", "tap0"}
        image = os.open(tmp_path / "kernel", os.O_RDONLY)
        await machine.attach_drive(2, image)
        os.close(image)
        assert "image2" in os.listdir(machine.inside / "files")
        state = os.open(tmp_path / "state", os.O_RDWR | os.O_CREAT)
        await machine.snapshot(state)
    finally:
        await machine.stop()
    assert os.pread(ram, 6, 0) == b"memory"
    clone = await DRIVERS[name]().start(spec(tmp_path / "clone", ram, "cd" * 32, state=state))
    await clone.stop()
    if how == "jailer":
        load = asked(tmp_path / "clone")[0][1]
        assert load["mem_backend"]["backend_path"] == "/proc/self/fd/0", "all that a jailer leaves"
    ids = told(tmp_path / "clone")[0]["surroundings"]["ids"]
    assert ids not in (0, made.uid), "each has a user of its own"


@pytest.mark.skipif(not ROOT, reason="a jail takes root")
def test_a_jailer_is_called_as_its_documentation_says(stand_in: Path, tmp_path: Path) -> None:
    made, program = spec(tmp_path / "m", memory()), str(stand_in / "firecracker")
    assert quarters.beside(program) is None
    (stand_in / "jailer").write_text("")
    assert quarters.beside(program) is None, "no program"
    (stand_in / "jailer").chmod(0o755)
    jailer = quarters.beside(program)
    assert jailer is not None
    place = quarters.of_jailer(made, jailer, program, ["--api-sock", "control"])
    assert " ".join(place.argv) == (
        f"{jailer} --id {'ab' * 16} --exec-file {program} --uid {made.uid} --gid {made.uid} "
        f"--chroot-base-dir {tmp_path}/m/root -- --api-sock control"
    )
    assert place.stdin == made.ram and not place.descriptors, "it closes all but three"


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_refusal_is_told_in_the_vmms_own_words(
    name: str, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "refused"
    made = booting(directory, memory())
    (tmp_path / "kernel").write_text("damaged")
    with pytest.raises(VMMError, match=r"not supported after starting|Cannot load the kernel"):
        await DRIVERS[name]().start(made)
    assert not (directory / "vmm.json").exists()


@pytest.mark.parametrize("name", DRIVERS)
def test_what_is_missing_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    support = DRIVERS[name]().probe()
    assert not support.usable and "PATH" in support.why and support.install


@pytest.mark.parametrize("name", DRIVERS)
async def test_a_vmm_that_ends_at_once_is_no_hang(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\necho no KVM here >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with asyncio.timeout(10):
        with pytest.raises(VMMError, match=r"ended with 3: no KVM here"):
            await DRIVERS[name]().start(spec(tmp_path / "m", memory()))


WANTED = {"id!": "string", "size": "integer 1..8", "mode": "On|Off", "parts": [{"at!": "integer"}]}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"id": "a", "size": 8, "mode": "On", "parts": [{"at": 1}]}, ""),
        ({"size": 1}, "body: missing ['id']"),
        ({"id": "a", "sise": 1}, "body: unknown ['sise']"),
        ({"id": 1}, "body.id: 1 is no string"),
        ({"id": "a", "size": True}, "body.size: True is no integer"),
        ({"id": "a", "size": 9}, "body.size: 9 is not in 1..8"),
        ({"id": "a", "mode": "on"}, "body.mode: 'on' is none of On|Off"),
        ({"id": "a", "parts": [{"at": "x"}]}, "body.parts[].at: 'x' is no integer"),
        (None, "body is no object"),
    ],
)
def test_requests_are_checked_by_the_published_definitions(body: Any, wrong: str) -> None:
    assert stand_in_vmm.check(WANTED, body) == wrong
