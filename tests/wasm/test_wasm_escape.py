"""Ways out of a wasm pod, each tried: files of the host, other pods, what a worker holds, room that is not its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from wasm_lab import Lab, Mount, artifact, log_lines, logged, workers_of
from wasm_service import Service

from sampan.image import UnpackedImage

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a tree and a user of its own")
SECRET = "the host's own"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that everybody on the host may read, beside the pod's volume."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o644)
    return path


@pytest.fixture
def volume(tmp_path: Path, secret: Path) -> Path:
    """A volume in which an earlier guest, or a hostile image, has laid links."""
    path = tmp_path / "volume"
    path.mkdir()
    path.chmod(0o777)
    for name, target in LINKS.items():
        (path / name).symlink_to(target.format(secret=secret))
    return path


LINKS = {
    "absolute": "{secret}",
    "relative": "../secret",
    "up": "..",
    "far": "../../../../../../../../etc/passwd",
    "proc": "/proc/self/environ",
    "root": "/proc/1/root",
    "fds": "/proc/self/fd",
    "loop": "loop",
}
PATHS = (
    "/v/../secret",
    "/v/../../../../../../../../etc/passwd",
    "/v/absolute",
    "/v/relative",
    "/v/up/secret",
    "/v/far",
    "/v/proc",
    "/v/root/etc/passwd",
    "/v/fds/0",
    "/v/loop",
    "/etc/passwd",
    "/proc/self/maps",
    "/run/sampan/cri.sock",
)


async def read(lab: Lab, image: UnpackedImage, program: str, path: str, *mounts: Mount) -> str:
    _, process = await lab.run(image, program, "read", path, mounts=mounts)
    code = (await process.wait()).code
    text = "\n".join(line for _, _, line in log_lines(process))
    assert code == 1, f"{path}: {text}"
    return text


async def test_no_path_leads_out_of_a_volume(lab: Lab, cli: Path, volume: Path) -> None:
    mount = Mount(volume, "/v")
    said = await asyncio.gather(*(read(lab, artifact(cli), "cli.wasm", p, mount) for p in PATHS))
    for path, text in zip(PATHS, said, strict=True):
        assert text.startswith("cannot read: "), path
    (volume / "out").symlink_to("../made")
    for target in ("/v/../made", "/v/out", "/v/up/made"):
        _, process = await lab.run(artifact(cli), "cli.wasm", "write", target, mounts=(mount,))
        assert (await process.wait()).code == 1, target
    assert not (volume.parent / "made").exists()


async def test_no_link_of_an_image_leads_out(
    lab: Lab, cli: Path, secret: Path, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    layer.chmod(0o755)
    (layer / "app.wasm").write_bytes(cli.read_bytes())
    for name, target in LINKS.items():
        (layer / name).symlink_to(target.format(secret=secret))
    image = UnpackedImage("sha256:x", "app:1", "wasip1", "wasm", (layer,), (), {})
    for path in ("/absolute", "/relative", "/up/secret", "/root/etc/hostname", "/fds/0", "/proc"):
        assert SECRET not in await read(lab, image, "/app.wasm", path)


DESCRIPTORS = re.compile(
    r"anon_inode:\[(eventpoll|eventfd|pidfd)\]|pipe:\[\d+\]|socket:\[\d+\]|/dev/null|/memfd:board \(deleted\)|pidfd:\[\d+\]|/0-\d+"
)


@ROOT
@pytest.mark.root
async def test_a_worker_holds_nothing_that_is_not_its_own(
    lab_alone: Lab, cli: Path, web: Path, volume: Path
) -> None:
    """Neighbours' sockets and logs, the zygote's and the runtime's own: none of it came along through the fork."""
    lab = lab_alone
    served = artifact(web, labels={"sampan.dev/http": "wagi"})
    others: set[str] = set()
    for image, args in (
        (artifact(cli), ("cli.wasm", "sleep", "1000")),
        (served, ("web.wasm",)),
    ) * 2:
        sandbox, process = await lab.run(image, *args, mounts=(Mount(volume, "/v", readonly=True),))
        if image is served:
            await Service(sandbox.spec.network.addresses[0], process).get("/")
        else:
            await logged(process, "sleeping")
        assert process.spec.log_path is not None
        own = {str(process.spec.log_path), str(process.spec.directory / "process")}
        [program] = lab.shared.glob(
            f"{sha256(image.modules[0].read_bytes()).hexdigest()[:40]}-*.cwasm"
        )
        own |= {str(program), "/"}  # a service's scratch is a tree of its own
        held = {
            int(entry.name): os.readlink(entry.path)
            for entry in os.scandir(f"/proc/{process.pid}/fd")
        }
        strange = {
            number: target
            for number, target in held.items()
            if target not in own and not DESCRIPTORS.fullmatch(target)
        }
        assert strange == {}, args
        ends = {target for target in held.values() if target.startswith(("pipe:", "socket:"))}
        assert not ends & others, "a pipe or socket that another worker has too"
        others |= ends


ATTEMPTS = """
import os, signal, sys
user, victim, sockets, code = sys.argv[1:]
os.setgroups([])
os.setresgid(*[int(user)] * 3)
os.setresuid(*[int(user)] * 3)
for attempt in (
    lambda: os.open(f"/proc/{victim}/mem", os.O_RDWR),
    lambda: os.listdir(f"/proc/{victim}/root/."),
    lambda: os.listdir(f"/proc/{victim}/fd"),
    lambda: os.kill(int(victim), signal.SIGSTOP),
    lambda: os.listdir(sockets),
    lambda: os.listdir(code),
):
    try:
        attempt()
        print("!", end="")
    except OSError:
        print(".", end="")
"""


@ROOT
@pytest.mark.root
async def test_a_pods_user_reaches_no_other_pod(lab: Lab, cli: Path) -> None:
    """What a guest that broke out of its worker could do as that worker's user, without the filter even."""
    pids = []
    for _ in range(2):
        _, process = await lab.run(artifact(cli), "cli.wasm", "sleep", "1000")
        await logged(process, "sleeping")
        pids.append(process.pid)
    attacker, victim = pids
    status = Path(f"/proc/{attacker}/status").read_text()
    [user] = re.findall(r"^Uid:\t(\d+)", status, re.M)
    places = str(lab.run_directory / "wasm"), str(lab.shared)
    tried = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ATTEMPTS, user, str(victim), *places),
        stdout=asyncio.subprocess.PIPE,
    )
    assert (await tried.communicate())[0] == b"......"


async def test_an_answer_takes_its_room_only(lab: Lab, web: Path) -> None:
    """A guest that writes for ever fills its scratch, and the worker does not take in what is too much."""
    sandbox = await lab.pod()
    process = await sandbox.start(
        lab.container("web.wasm"), artifact(web, labels={"sampan.dev/http": "wagi"})
    )
    service = Service(sandbox.spec.network.addresses[0], process)
    megabytes = 200 if os.geteuid() == 0 else 70  # the scratch of 128 MB is a mount of its own
    assert (await service.get(f"/flood?{megabytes}"))[0] == 500
    await logged(process, "the answer is larger than 64 MiB")
    assert (await service.get("/"))[0] == 200, "the room is there again"
    assert process.pid in workers_of(process.pid)


LIMITED = {
    "table.wat": ("wasm-table-elements", "(table 1000 funcref)", "99"),
    "tables.wat": ("wasm-tables", "(table 1 funcref) (table 1 funcref)", "1"),
    "memory.wat": ("wasm-memory", "(memory 10)", "64Ki"),
}


@pytest.mark.parametrize("name", LIMITED)
async def test_an_instance_has_what_it_may_have(lab: Lab, tmp_path: Path, name: str) -> None:
    from wasmtime import wat2wasm

    annotation, declared, limit = LIMITED[name]
    module = tmp_path / "module.wasm"
    module.write_bytes(wat2wasm(f'(module {declared} (func (export "_start")))'))
    for given, code in (({}, 0), ({f"sampan.dev/{annotation}": limit}, 134)):
        sandbox = await lab.pod(annotations=given)
        container = lab.container("module.wasm")
        process = await sandbox.start(container, artifact(module))
        ended = await process.wait()
        assert ended.code == code, ended.message
        if code:
            assert "limit" in ended.message or "exceed" in ended.message
