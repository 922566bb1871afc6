"""A running QEMU, spoken to over its control socket (QMP): restored, paused, given drives, ended."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import qmp, sockets, usernet
from sampan.runtime.microvm.attendant import Attendant
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.session import in_order
from sampan.runtime.microvm.vmm import MachineSpec

SOCKETS = ("agent", "files", "control")
FIRST_SET = 16  # of QEMU's fd sets, behind those that are on its command line
MIGRATE_LIMIT = 120.0  # seconds; what is slow is a disk that takes the memory of a large machine


class QemuMachine(Attendant):
    leaves = SOCKETS

    def __init__(self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        super().__init__(directory, pid, child)
        self.halted = asyncio.Event()  # the guest has reset or powered off: it runs no more
        self._control: qmp.Control | None = None
        self._migrated: asyncio.Future[str] | None = None

    @asynccontextmanager
    async def beginning(self) -> AsyncIterator[None]:
        """When what is done with it here fails, it has ended, and what it said last is told."""
        try:
            yield
        except BaseException as error:
            await asyncio.shield(self.stop())
            if isinstance(error, VMMError):
                raise VMMError(f"{error}: {self.log()}") from error
            raise

    async def connect(self) -> None:
        self._control = await qmp.connect(self.directory / "control", self._event)

    async def hang_up(self) -> None:
        """As `disconnect`, and QEMU has no descriptor of the connection any more. Raises VMMError."""
        if self._control is not None:
            await self._control.hang_up()
            self._control = None

    def disconnect(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _event(self, name: str, data: Any) -> None:
        if name in ("SHUTDOWN", "GUEST_PANICKED", "RESET"):
            self.halted.set()
        elif name == "MIGRATION" and self._migrated is not None and not self._migrated.done():
            if data["status"] in ("completed", "failed", "cancelled"):
                self._migrated.set_result(data["status"])

    @property
    def control(self) -> qmp.Control:
        if self._control is None:
            raise VMMError("QEMU is not connected")
        return self._control

    async def running(self) -> bool:
        return bool((await self.control.command("query-status"))["running"])

    async def dial(self) -> socket.socket:
        return sockets.connect(self.directory / "agent")

    async def dial_files(self) -> socket.socket:
        return sockets.connect(self.directory / "files")

    async def pause(self) -> None:
        await self.control.command("stop")

    async def resume(self) -> None:
        await self.control.command("cont")

    async def snapshot(self, state: int) -> None:
        await self.pause()
        await self._migrate("migrate", state)

    async def restore(self, state: int) -> None:
        """It is paused on return, as it was."""
        await self._migrate("migrate-incoming", state)

    async def _migrate(self, verb: str, state: int) -> None:
        """What goes through the descriptor is the devices' state; memory too, unless it is shared: that is in its file
        already (x-ignore-shared)."""
        self._migrated = asyncio.get_running_loop().create_future()
        wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
        # Sent in one go. A clone is on no network yet: its card has nobody to tell that it has moved.
        await in_order(
            self.control.command("migrate-set-capabilities", capabilities=wanted),
            self.control.command("migrate-set-parameters", announce_rounds=0),
            self.control.command("getfd", descriptor=state, fdname="state"),
            self.control.command(verb, uri="fd:state"),
        )
        async with asyncio.timeout(MIGRATE_LIMIT):
            status = await self._migrated
        if status != "completed":
            raise VMMError(f"QEMU: {verb} {status}: {self.log()}")

    async def attach_drive(self, slot: int, file: int) -> None:
        await self._put(slot, file, "file", readonly=True)

    async def attach_disk(self, slot: int, file: int) -> None:
        block = stat.S_ISBLK(os.fstat(file).st_mode)
        await self._put(slot, file, "host_device" if block else "file", readonly=False)
        # The guest believes in a placeholder's size until it is told of another.
        size = os.lseek(file, 0, os.SEEK_END)
        await self.control.command("block_resize", node_name=f"drive{slot}", size=size)

    async def _put(self, slot: int, file: int, driver: str, *, readonly: bool) -> None:
        """Sent in one go, under a number that is ours to choose: no answer is needed for the next."""
        number = secrets.randbelow(1 << 30) + FIRST_SET
        node = f"file{number}"
        drive = {"driver": "raw", "node-name": f"drive{slot}", "read-only": readonly, "file": node}
        await in_order(
            self.control.command("add-fd", descriptor=file, fdset_id=number),
            self.control.command(
                "blockdev-add", driver=driver, node_name=node, filename=f"/dev/fdset/{number}",
                read_only=readonly, locking="off",
            ),
            self.control.command("blockdev-reopen", options=[drive]),
        )  # fmt: skip

    async def join_user_network(self, spec: MachineSpec) -> None:
        """What `command` gives a machine without root from its start on, for one whose card is at a hub."""
        forwards = [{"str": forward} for forward in forwarded(spec)]
        await in_order(
            self.control.command(
                "netdev_add",
                type="user",
                id="out",
                ipv6=False,
                restrict=not usernet.leads_out(spec),
                hostfwd=forwards,
            ),
            self.control.command("netdev_add", type="hubport", id="port", hubid=0, netdev="out"),
        )

    async def console(self) -> str:
        try:
            text = await self.control.command("ringbuf-read", device="console", size=16384)
        except VMMError:
            return ""
        return str(text)

    def close(self) -> None:
        self.disconnect()
        super().close()


def forwarded(spec: MachineSpec) -> list[str]:
    """Ports of the pod, as QEMU's user-mode network wants them named."""
    return [
        f"{protocol}:{address}:{outer}-{usernet.ADDRESS}:{inner}"
        for (address, outer, inner), protocol in spec.ports.items()
    ]
