"""Which VMM machines of this node run in, and with which accelerator: what the settings say, proven by booting a guest.

    {"driver": "auto"}     QEMU; where it is not installed, what else is, of those that need KVM

An accelerator is believed in when a guest has booted with it, and that for as long as the host is not booted again: a
/dev/kvm that can be opened says little.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from sampan.runtime import files
from sampan.runtime.microvm import presence
from sampan.runtime.microvm.errors import MissingPiece, VMMError
from sampan.runtime.microvm.settings import Settings
from sampan.runtime.microvm.vmm import Driver

PROVEN = "proven.json"


def qemu(accelerator: str) -> Driver:
    from sampan.runtime.microvm.qemu import Qemu

    return Qemu(accelerator)


def firecracker(_: str) -> Driver:
    from sampan.runtime.microvm.firecracker import Firecracker

    return Firecracker()


def cloud_hypervisor(_: str) -> Driver:
    from sampan.runtime.microvm.cloud_hypervisor import CloudHypervisor

    return CloudHypervisor()


# In the order in which `auto` looks for them; with what each can run guests.
DRIVERS: dict[str, tuple[Callable[[str], Driver], tuple[str, ...]]] = {
    "qemu": (qemu, ("kvm", "tcg")),
    "cloud-hypervisor": (cloud_hypervisor, ("kvm",)),
    "firecracker": (firecracker, ("kvm",)),
}


def named(name: str, accelerator: str = "tcg") -> Driver:
    return DRIVERS[name][0](accelerator)


def chosen(settings: Settings) -> str:
    """The driver's name. Raises MissingPiece when the VMM is not installed."""
    name = presence.vmm_of(settings.driver)
    if name is None:
        wanted = "qemu" if settings.driver == "auto" else settings.driver
        program, install = presence.VMMS[wanted]
        raise MissingPiece(f"{program} is not installed", install)
    return name


def candidates(settings: Settings) -> list[Driver]:
    """What is to be tried, in order. Raises MissingPiece, VMMError."""
    name = chosen(settings)
    make, able = DRIVERS[name]
    wanted = able if settings.accelerator == "auto" else (settings.accelerator,)
    if settings.accelerator == "auto" and not kvm_opens():
        wanted = tuple(each for each in wanted if each != "kvm")
    found = [make(each) for each in wanted if each in able]
    if not found:
        raise VMMError(f"{name} needs KVM, and {why_not(settings)}; QEMU does without")
    return found


def kvm_opens() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def why_not(settings: Settings) -> str:
    if settings.accelerator == "tcg":
        return "the setting `accelerator` is tcg"
    return "/dev/kvm cannot be opened"


def prove(directory: Path, driver: Driver) -> None:
    """A guest has booted with it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = {
        "boot": boot_id(), "driver": driver.name, "edition": driver.edition(), "accelerator": driver.accelerator,
    }  # fmt: skip
    files.replace(directory / PROVEN, json.dumps(record))


def proven(directory: Path, settings: Settings) -> Driver | None:
    """What has booted a guest since the host was booted, when it is still what is wanted."""
    try:
        record = json.loads((directory / PROVEN).read_bytes())
        driver = named(str(record["driver"]), str(record["accelerator"]))
        known = record["boot"] == boot_id() and record["edition"] == driver.edition()
        known = known and driver.name == chosen(settings)
    except (OSError, ValueError, KeyError, TypeError, VMMError, MissingPiece):
        return None
    return driver if known and settings.accelerator in ("auto", driver.accelerator) else None


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
