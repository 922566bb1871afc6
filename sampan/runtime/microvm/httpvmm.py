"""What Firecracker and Cloud Hypervisor have in common: an HTTP API on a unix socket, and vsock behind another.

Their vsock is a unix socket to which the host says `CONNECT <port>` and is answered `OK <number>` (both projects'
docs/vsock.md); after that it is the stream to the guest.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.runtime.microvm import attendant, jail, quarters, sockets, wiring
from sampan.runtime.microvm.attendant import Attendant
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.quarters import Quarters
from sampan.runtime.microvm.vmm import MachineSpec

AGENT_PORT = 1024
ANSWER_LIMIT = 20.0
APPEAR_LIMIT = 5.0  # seconds for the API's socket, which these VMMs make themselves
LARGEST = 16 << 20


async def request(path: Path, method: str, target: str, body: Any = None) -> Any:
    """One request on a connection of its own; the answer's JSON. Raises VMMError with the VMM's own words."""
    try:
        async with asyncio.timeout(ANSWER_LIMIT):
            status, answer = await exchange(path, method, target, body)
    except TimeoutError:
        raise VMMError(f"{method} {target}: no answer within {ANSWER_LIMIT:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise VMMError(f"{method} {target}: {error}") from error
    if status >= 300:
        raise VMMError(f"{method} {target}: {status}: {words(answer)}")
    return json.loads(answer) if answer.strip() else None


def words(answer: bytes) -> str:
    """An error's text: Firecracker has one field for it, Cloud Hypervisor a list of causes."""
    try:
        found = json.loads(answer)
    except ValueError:
        return answer.decode(errors="replace").strip()
    if isinstance(found, dict):
        return str(found.get("fault_message") or found)
    return ": ".join(map(str, found)) if isinstance(found, list) else str(found)


async def exchange(path: Path, method: str, target: str, body: Any) -> tuple[int, bytes]:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    reader, writer = await asyncio.open_unix_connection(sock=opened(path))
    try:
        writer.write(head.encode() + b"\r\n" + data)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        size = int(headers.get("content-length", 0))
        if size > LARGEST:
            raise ValueError(f"an answer of {size} bytes")
        return status, await reader.readexactly(size)
    finally:
        writer.close()


def opened(path: Path) -> socket.socket:
    connection = sockets.connect(path)
    connection.setblocking(False)
    return connection


class HTTPMachine(Attendant):
    """A VMM behind such an API; subclasses say what to ask."""

    leaves = ("control", "vsock")

    def __init__(self, directory: Path, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        super().__init__(directory, pid, child)
        self.inside = Path(f"/proc/{pid}/cwd")  # the directory that it works in
        self.files = directory / quarters.FILES  # what it can read there as files/
        self.halted = asyncio.Event()

    async def ask(self, method: str, target: str, body: Any = None) -> Any:
        return await request(self.inside / "control", method, target, body)

    async def attach_disk(self, slot: int, file: int) -> None:
        raise VMMError("this VMM's machines have no writable drives")

    async def dial_files(self) -> socket.socket:
        raise VMMError("this VMM's machines have no port for files")

    async def dial(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        connection = opened(self.inside / "vsock")
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                await loop.sock_sendall(connection, f"CONNECT {AGENT_PORT}\n".encode())
                answer = b""
                while not answer.endswith(b"\n"):
                    # By single bytes: what follows the line is the guest's already.
                    byte = await loop.sock_recv(connection, 1)
                    if not byte or len(answer) > 64:
                        raise VMMError(f"the guest does not listen on vsock port {AGENT_PORT}")
                    answer += byte
            if not answer.startswith(b"OK "):
                raise VMMError(f"vsock: {answer.decode(errors='replace').strip()}")
        except BaseException:
            connection.close()
            raise
        return connection

    async def console(self) -> str:
        """Their serial port is a file or the VMM's own output."""
        with suppress(OSError):
            return (self.inside / "console").read_text(errors="replace")[-16384:]
        return self.log()


async def launch(spec: MachineSpec, place: Quarters) -> subprocess.Popen[bytes]:
    """The VMM, with its API's socket in place. As root it is jailed, and has in its network namespace the tap by the name
    that template and clones know it by; it is moved to the pod later, as QEMU's is. Raises VMMError."""
    directory, program = spec.directory, place.argv[0]
    for name in HTTPMachine.leaves:
        (directory / name).unlink(missing_ok=True)
    log = attendant.open_log(directory / attendant.VMM_LOG)
    try:
        child = await jail.start(
            place.argv, place.descriptors, log, directory / "root", spec.uid,
            functools.partial(wiring.keep_tap, spec.uid), enter=place.enter, cwd=place.cwd, stdin=place.stdin,
        )  # fmt: skip
    except OSError as error:
        raise VMMError(f"{program}: {error.strerror or error}") from error
    finally:
        os.close(log)
    try:
        async with asyncio.timeout(APPEAR_LIMIT):
            while not listens(Path(f"/proc/{child.pid}/cwd/control")):
                if child.poll() is not None:
                    said = attendant.last_words(directory / attendant.VMM_LOG)
                    raise VMMError(f"{program} ended with {child.returncode}: {said}")
                await asyncio.sleep(0.002)
    except BaseException as error:
        child.kill()
        child.wait()
        if isinstance(error, TimeoutError):
            why = f"{program} opened no API socket within {APPEAR_LIMIT:g} s"
            raise VMMError(why) from None
        raise
    return child


def listens(path: Path) -> bool:
    """There is a moment in which the socket is there and takes no connections yet."""
    try:
        sockets.connect(path).close()
    except OSError:
        return False
    return True


def link_file(descriptor: int, target: Path) -> None:
    """Give an open file a name that the VMM can be told: a hard link; a copy, where there can be none or not all may read."""
    target.unlink(missing_ok=True)
    try:
        if not os.fstat(descriptor).st_mode & 0o004:
            raise PermissionError
        os.link(f"/proc/self/fd/{descriptor}", target, follow_symlinks=True)
    except OSError:
        with open(f"/proc/self/fd/{descriptor}", "rb") as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
        target.chmod(0o444)


def lend_boot_files(spec: MachineSpec) -> None:
    """Kernel and initial files, by the names that the VMM knows them by. Raises VMMError."""
    for name, source in (("kernel", spec.kernel), ("initial", spec.initial_files)):
        if source is None:
            continue
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise VMMError(f"{source}: {error.strerror}") from error
        try:
            link_file(descriptor, spec.directory / quarters.FILES / name)
        finally:
            os.close(descriptor)


def copy_into(source: Path, descriptor: int) -> None:
    with source.open("rb") as file:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        while data := file.read(1 << 20):
            os.write(descriptor, data)


def empty_drive(path: Path, size: int) -> None:
    if not path.exists():
        with path.open("wb") as file:
            os.truncate(file.fileno(), size)
        path.chmod(0o444)
