"""The zygote: a small warm process that forks a worker per container, reaps it, and writes how it ended.

It is its own session, holds no pipe of the runtime and survives it; a restarted runtime finds it again by its socket.
It ends when nobody is connected and its last worker has gone, or by SIGTERM; workers live on without it.

It stays single-threaded, which is asserted before every fork: a child forked while another thread holds one of
wasmtime's locks hangs. So it never compiles and never runs a guest.

Socket: SOCK_SEQPACKET. A request is one packet `start` with the launch (a memory file), a status socket for the worker
and, for an exec, its stdio. The worker answers on the status socket; if the fork failed it just closes. When a worker has
ended and its record is written, every connected runtime gets a packet `exit<pid>`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
import traceback

from sampan.runtime.wasm import exits, isolation, linux, seccomp
from sampan.runtime.wasm.engine import Engine
from sampan.runtime.wasm.launch import EXEC, unseal
from sampan.runtime.wasm.worker import Warm, Worker, hear_signals

MAX_DESCRIPTORS = 5  # launch, status, three of stdio


class Zygote:
    def __init__(self, warm: Warm, listener: socket.socket) -> None:
        self.warm = warm
        self.listener = listener
        self.connections: dict[int, socket.socket] = {}
        self.workers: dict[
            int, tuple[str, list[str]]
        ] = {}  # pid: directory of its record, its cgroups
        self.poll = select.epoll()
        self.wake, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.ending = False

    def run(self) -> None:
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        hear_signals()
        self.listener.setblocking(False)
        self.poll.register(self.listener.fileno(), select.EPOLLIN)
        self.poll.register(self.wake, select.EPOLLIN)
        had_connection = False
        while not self.ending and (self.connections or self.workers or not had_connection):
            for fd, _ in self.poll.poll():
                if fd == self.wake:
                    self.drain_wake()
                    self.reap()
                elif fd == self.listener.fileno():
                    had_connection = self.accept() or had_connection
                else:
                    self.serve(fd)

    def drain_wake(self) -> None:
        """Signals have come: SIGTERM ends the zygote, SIGCHLD has `reap` look, others mean nothing to it."""
        try:
            self.ending = self.ending or signal.SIGTERM in os.read(self.wake, 512)
        except BlockingIOError:
            return

    def accept(self) -> bool:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return False
        connection.setblocking(False)
        self.connections[connection.fileno()] = connection
        self.poll.register(connection.fileno(), select.EPOLLIN)
        return True

    def serve(self, fd: int) -> None:
        connection = self.connections.get(fd)
        if connection is None:
            return
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 64, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.poll.unregister(fd)
            del self.connections[fd]
            connection.close()
            return
        try:
            if data == b"start" and len(descriptors) >= 2:
                self.start(descriptors)
        except OSError as error:
            say(f"cannot fork: {error}")
        finally:
            for descriptor in descriptors[1:]:
                os.close(descriptor)

    def start(self, descriptors: list[int]) -> None:
        launch = unseal(descriptors[0])
        threads = (
            os.stat("/proc/self/task").st_nlink - 2
        )  # proc counts `.`, `..` and a directory each
        assert threads == 1, f"{threads} threads in the zygote: a forked worker would hang"
        pid = fork(launch)
        if pid == 0:
            self.become_worker(launch, descriptors)
        if launch["mode"] == EXEC:
            self.workers[pid] = "", []
        else:
            self.workers[pid] = launch["directory"], launch["cgroups"]

    def become_worker(self, launch: dict, descriptors: list[int]) -> None:
        """In the child: shed what is the zygote's, then be the worker. Never returns."""
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self.wake, self.wake_write):
                os.close(fd)
            self.poll.close()
            self.listener.close()
            for connection in self.connections.values():
                connection.close()
            status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptors[1])
            Worker(self.warm, launch, status, descriptors[2:]).main()
        except BaseException:  # the root of this process: nothing may run the zygote's code on
            say(traceback.format_exc())
        finally:
            os._exit(70)

    def reap(self) -> None:
        while self.workers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            directory, cgroups = self.workers.pop(pid, ("", []))
            if directory:
                self.record(directory, cgroups, os.waitstatus_to_exitcode(status))
            for connection in list(self.connections.values()):
                try:
                    connection.send(b"exit%d" % pid)
                except OSError:
                    continue  # it has gone, which its own event says; it reads the record when it comes back

    def record(self, directory: str, cgroups: list[str], code: int) -> None:
        """Complete the exit record of a worker that was killed."""
        try:
            if exits.read(directory) is not None or not os.path.isdir(directory):
                return
            if code >= 0:
                exits.replace(
                    directory, code, "Error", "the worker ended without a record; see zygote.log"
                )
            elif code == -signal.SIGKILL and out_of_memory(cgroups):
                exits.replace(
                    directory, 137, "OOMKilled", "the memory limit of the container was reached"
                )
            else:
                name = signal.Signals(-code).name
                exits.replace(directory, 128 - code, "Error", f"killed by {name}")
        except (OSError, ValueError) as error:
            say(f"cannot record the end of {directory}: {error}")


def fork(launch: dict) -> int:
    """A worker, in its cgroup already if that is one of v2; otherwise it joins by itself."""
    joins = launch["cgroups"]
    if len(joins) == 1 and os.path.exists(f"{joins[0]}/cgroup.controllers"):
        try:
            cgroup = os.open(joins[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                pid = linux.fork_into(cgroup)
            finally:
                os.close(cgroup)
            if pid == 0:
                launch["cgroups"] = []
            return pid
        except OSError as error:
            say(f"{error}; the worker joins {joins[0]} itself")
    return os.fork()


def out_of_memory(cgroups: list[str]) -> bool:
    """Whether the kernel's memory killer acted in one of these cgroups."""
    for directory in cgroups:
        for name in ("memory.events", "memory.oom_control"):
            try:
                with open(f"{directory}/{name}", "rb") as file:
                    fields = dict(line.split() for line in file.read().splitlines() if line)
            except (OSError, ValueError):
                continue
            if int(fields.get(b"oom_kill", 0)) > 0:
                return True
    return False


def say(text: str) -> None:
    """Into zygote.log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{stamp} {text.rstrip()}\n")
    sys.stderr.flush()


def vault() -> int:
    """The namespace that workers enter, -1 without root or where none can be made: each then makes its own."""
    if os.geteuid() != 0:
        return -1
    try:
        return isolation.make_vault()
    except OSError as error:
        say(f"no empty mount namespace: {error}")
        return -1


def main(library: str, descriptor: int) -> None:
    """Be the zygote, on the listening socket `descriptor`, with wasmtime's shared `library`."""
    os.umask(0o077)
    os.environ["TOKIO_WORKER_THREADS"] = "1"  # of each worker, once it runs a guest
    isolation.limit()
    isolation.landlock_version()
    warm = Engine(library), vault(), seccomp.filters()
    zygote = Zygote(warm, socket.socket(fileno=descriptor))
    gc.collect()
    gc.disable()
    gc.freeze()  # collections in a worker would copy every shared page
    zygote.run()
