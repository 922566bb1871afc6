"""Live templates: a QEMU that was started from a template's files, has rehearsed and stands still, to be copied.

An emulator started anew must translate the guest's code anew, which is most of what a start costs; in a copy of one that
runs it is translated, and all memory is shared until it is written: the guest's, QEMU's own, the translated code. fork(2)
copies one thread; the library in native/fork, preloaded into the template, has the others go on in the copy.

Each copy has a jail of its own before the guest's next instruction: user, namespaces, filter, no capability. What it
would share with the template (sockets, log, tap, event counters) it gets anew, or the library refuses. A live template has
no connection, no network, and has run nothing of any pod. Its end is the end of nothing else: what follows is
started from the template's files.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import signal
import socket
import struct
from collections.abc import Mapping

from sampan.linux import trees
from sampan.runtime import kernel
from sampan.runtime.microvm import attendant, sockets, usernet, vmmfilter, wiring
from sampan.runtime.microvm.errors import VMMError
from sampan.runtime.microvm.machine import SOCKETS, QemuMachine
from sampan.runtime.microvm.vmm import MachineSpec

LIBRARY = "fork"  # native/build.py
ANSWER_LIMIT = 10.0
JAILED = 1
REPLACED, INSTRUCTIONS = 8, 512  # at most, in a request
# struct request and struct answer of native/fork
_REQUEST = struct.Struct(f"=IIII{REPLACED}i")
_ANSWER = struct.Struct("=i124s")
_INSTRUCTION = 8  # bytes


class LiveTemplate:
    """`numbers`: the descriptors under which QEMU has its sockets and its tap."""

    def __init__(
        self, machine: QemuMachine, helper: socket.socket, numbers: Mapping[str, int]
    ) -> None:
        self.machine = machine
        self._helper = helper
        self._helper.setblocking(False)
        self._numbers = dict(numbers)
        self._asking = asyncio.Lock()

    async def still(self) -> None:
        """It runs no more, and nobody is connected: ready to be copied. Raises VMMError when it cannot be."""
        try:
            # QEMU listens, so what is loaded before it has spoken.
            told(self._helper.recv(_ANSWER.size))
        except OSError as error:
            raise VMMError("QEMU was started without the library that copies it") from error
        await self.machine.pause()
        # A copy would share a connection that QEMU has not noticed the end of.
        await self.machine.hang_up()

    async def copy(self, spec: MachineSpec) -> QemuMachine:
        """A machine of its own, which runs. Raises VMMError."""
        listeners = {name: sockets.listen(spec.directory / name) for name in SOCKETS}
        log = attendant.open_log(spec.directory / attendant.VMM_LOG)
        network = -1
        try:
            if spec.uid:
                network = await kernel.in_thread(functools.partial(own_network, spec.tap))
            replaced = {
                self._numbers[name]: listener.fileno() for name, listener in listeners.items()
            }
            replaced |= {1: log, 2: log}
            if "tap" in self._numbers:
                replaced[self._numbers["tap"]] = spec.tap
            pid = await self._ask(spec.uid, network, replaced)
            machine = QemuMachine(spec.directory, pid, None)
            machine.record()
        except OSError as error:
            raise VMMError(f"the live template does not answer: {error}") from error
        finally:
            for descriptor in (log, network):
                if descriptor >= 0:
                    os.close(descriptor)
            for listener in listeners.values():
                listener.close()
        async with machine.beginning():
            await machine.connect()
            usernet.verify(spec, pid)
            if spec.tap < 0:
                await machine.join_user_network(spec)
            await machine.resume()
        return machine

    async def _ask(self, uid: int, network: int, replaced: Mapping[int, int]) -> int:
        filter_ = vmmfilter.compiled(platform.machine())
        numbers = [*replaced, *[0] * (REPLACED - len(replaced))]
        flags = JAILED if uid else 0
        request = _REQUEST.pack(flags, uid, len(replaced), len(filter_) // _INSTRUCTION, *numbers)
        descriptors = [*([network] if uid else []), *replaced.values()]
        async with self._asking:
            answer = await self._exchange(request + filter_, descriptors)
        return told(answer)

    async def _exchange(self, request: bytes, descriptors: list[int]) -> bytes:
        socket.send_fds(self._helper, [request], descriptors)
        loop = asyncio.get_running_loop()
        answering = asyncio.ensure_future(loop.sock_recv(self._helper, _ANSWER.size))
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                return await asyncio.shield(answering)
        except asyncio.CancelledError:
            # What was asked for is made, and would be nobody's.
            answer = await answering
            if len(answer) == _ANSWER.size and (pid := _ANSWER.unpack(answer)[0]):
                os.kill(pid, signal.SIGKILL)
            raise
        except TimeoutError:
            answering.cancel()
            self._helper.close()
            raise VMMError(f"the live template said nothing within {ANSWER_LIMIT:g} s") from None

    async def stop(self) -> None:
        """It has ended on return; its copies go on. Idempotent."""
        self._helper.close()
        await self.machine.stop()
        trees.remove_quietly(self.machine.directory)


def told(answer: bytes) -> int:
    """A process. Raises VMMError with the library's words."""
    if len(answer) != _ANSWER.size:
        raise VMMError("the live template has ended")
    pid, why = _ANSWER.unpack(answer)
    if not pid:
        raise VMMError(f"the template cannot be copied: {why.rstrip(bytes(1)).decode()}")
    return int(pid)


def own_network(tap: int) -> int:
    """A new network namespace with a tap in it, which the descriptor `tap` becomes. In a thread made for it."""
    kernel.unshare(kernel.CLONE_NEWNET)
    wiring.open_tap(tap)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
