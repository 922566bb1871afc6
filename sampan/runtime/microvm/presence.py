"""Whether the pieces of a microVM are here, told without importing the rest of the kind.

Every node answers this at its start, and most never run one: so nothing is loaded, started or read through.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.runtime.sandbox import Support

QEMU = "qemu-system-x86_64"
INSTALL_QEMU = "apt-get install --no-install-recommends qemu-system-x86"
# The VMMs: their programs, and how to have them.
VMMS = {
    "qemu": (QEMU, INSTALL_QEMU),
    "cloud-hypervisor": (
        "cloud-hypervisor",
        "see https://github.com/cloud-hypervisor/cloud-hypervisor/releases",
    ),
    "firecracker": (
        "firecracker",
        "see https://github.com/firecracker-microvm/firecracker/releases",
    ),
}
FETCH = "sampan vm kernels fetch"
BUILD_AGENT = "python native/build.py, in a checkout; a package has it"
AGENTS = Path(__file__).parent / "agent"
SHARED = Path("/var/lib/sampan/kernels")
KERNEL_RECORD = "kernel.json"


def glance(directory: Path) -> Support:
    """`directory` is the kind's own."""
    machine = platform.machine()
    if machine != "x86_64":
        return Support(False, why=f"QEMU's microvm machine is for x86_64, and this is {machine}")
    wanted = setting(directory, "driver") or "auto"
    vmm = vmm_of(wanted)
    if vmm is None:
        program, install = VMMS.get(wanted, VMMS["qemu"])
        return Support(False, why=f"{program} is not installed", install=install)
    if not (agent_file().exists() and agent_file("rehearsal").exists()):
        return Support(False, why="the guest agent was not built", install=BUILD_AGENT)
    release = Path(named_kernel(directory)).name
    release = release or next((path.parent.name for path in records(directory / "kernels")), "")
    if not release:
        return Support(False, why="no guest kernel has been downloaded", install=FETCH)
    return Support(True, detail=f"{vmm}, Linux {release}, not booted yet")


def qemu() -> str | None:
    return shutil.which(QEMU, path="/usr/local/bin:/usr/bin:/bin")


def vmm_of(wanted: str) -> str | None:
    """The VMM that is meant and here: by name, or (`auto`) the first that is installed; None when there is none."""
    for name, (program, _) in VMMS.items():
        if wanted in ("auto", name) and (qemu() if name == "qemu" else shutil.which(program)):
            return name
    return None


def agent_file(name: str = "agent") -> Path:
    """A program that native/build.py has made for this machine's guests."""
    return AGENTS / f"{name}-{platform.machine()}.bin"


def places(own: Path) -> list[Path]:
    """Directories that hold kernels: the data directory's own, the machine's, the user's."""
    return list(dict.fromkeys((own, SHARED, default_place())))


def default_place() -> Path:
    """Where `fetch` puts them."""
    if os.geteuid() == 0:
        return SHARED
    return Path("~/.local/share/sampan/kernels").expanduser()


def records(own: Path) -> list[Path]:
    """The kernels that are here, what pods are booted with first: the newest that was not brought for a machine alone."""
    found: dict[Path, dict[str, Any]] = {}
    for place in places(own):
        with suppress(PermissionError):  # root's data directory, to a user where root came first
            found |= {record: facts(record) for record in place.glob(f"*/{KERNEL_RECORD}")}
    return sorted(found, key=lambda path: (bool(found[path].get("own")), -path.stat().st_mtime))


def facts(record: Path) -> dict[str, Any]:
    """What a kernel's record says; nothing, when it is damaged: that is told by who uses the kernel."""
    try:
        found = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def named_kernel(directory: Path) -> str:
    """What the settings name, "" when they name none."""
    return setting(directory, "kernel")


def setting(directory: Path, name: str) -> str:
    """Without importing what checks them; "" when it is not there."""
    try:
        return str(json.loads((directory / "settings.json").read_bytes()).get(name, ""))
    except (OSError, ValueError, AttributeError):
        return ""
