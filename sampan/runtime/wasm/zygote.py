"""The zygote: a small warm process that forks a worker per container, reaps it, and writes how it ended.

It is its own session, holds no pipe of the runtime and survives it; a restarted runtime finds it again by its socket.
It ends when nobody is connected and its last worker has gone, or by SIGTERM; workers live on without it.

It stays single-threaded, which is asserted before every fork: a child forked while another thread holds one of
wasmtime's locks hangs. So it never compiles and never runs a guest.

Socket: SOCK_SEQPACKET. A request is one packet `start` with the launch (a memory file), a status socket for the worker
and, for an exec, its stdio. The worker answers on the status socket; if the fork failed it just closes. When a worker has
ended and its record is written, every connected runtime gets a packet `exit<pid>`.

A service that may have several processes has a line to the zygote, and asks for more of itself on it (crew.py): the launch
is the one that the runtime gave, so a worker gets nothing by asking but its own like, and no more of them than it may have.
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
from sampan.runtime.wasm.launch import EXEC, HTTP, MAX_DESCRIPTORS, read, unseal
from sampan.runtime.wasm.programs import Programs
from sampan.runtime.wasm.spare import Spare, wait
from sampan.runtime.wasm.worker import Warm, Worker, hear_signals, rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.runtime.wasm.spare import Launched

GROWTH = 0.05  # s between two growths of a crew: it measures longer before it asks


class Child:
    """A worker, and what is needed when it ends or asks for more of itself."""

    __slots__ = (
        "cgroups",
        "crew",
        "data",
        "directory",
        "first",
        "grown",
        "line",
        "most",
        "program",
    )

    def __init__(
        self, launch: dict, program: str, line: socket.socket | None, data: bytes, first: int
    ) -> None:
        self.program = program  # key
        recorded = launch["mode"] != EXEC and not launch["slot"]
        self.directory: str = launch["directory"] if recorded else ""
        self.cgroups: list[str] = launch["cgroups"]
        self.line = line
        self.data = data if line is not None else b""  # the launch, as it came
        self.most = launch["http"]["most"] if line is not None else 0
        self.crew: set[int] = set()  # pids of the others
        self.first = first  # pid of the first, 0: this is one
        self.grown = 0.0  # time.monotonic()


class Zygote:
    def __init__(self, warm: Warm, listener: socket.socket) -> None:
        self.warm = warm
        self.listener = listener
        self.connections: dict[int, socket.socket] = {}
        self.workers: dict[int, Child] = {}  # by pid
        self.lines: dict[int, int] = {}  # descriptor of its line: pid
        self.programs = warm[0]
        self.starting: dict[
            int, socket.socket
        ] = {}  # by descriptor: ends when the worker has begun
        self.spare: Spare | None = None
        self.wants_spare = False
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
                elif fd in self.lines:
                    self.hear(fd)
                elif fd in self.starting:
                    self.begun(fd)
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
            for descriptor in descriptors:
                os.close(descriptor)

    def start(self, descriptors: list[int]) -> None:
        data = read(descriptors[0])
        launch = unseal(data)
        program = self.programs.enter(launch)
        line = theirs = None
        if launch["mode"] == HTTP and launch["http"]["most"] > 1:
            line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = self.worker(launch, descriptors, [line.fileno()] if line else [], theirs)
        except BaseException:
            self.programs.leave(program)
            if line is not None:
                line.close()
            raise
        finally:
            if theirs is not None:
                theirs.close()
        self.workers[pid] = Child(launch, program, line, data, 0)
        if line is not None:
            line.setblocking(False)
            self.lines[line.fileno()] = pid
            self.poll.register(line.fileno(), select.EPOLLIN)

    def worker(
        self, launch: dict, descriptors: list[int], shed: list[int], line: socket.socket | None
    ) -> int:
        """The pid of a worker with this launch, descriptors and line: the spare, else a new one. Raises OSError."""
        spare, self.spare = self.spare, None
        self.wants_spare = not born_in_cgroup(launch)
        if spare is not None:
            fits = self.wants_spare and self.programs.suits(launch, spare.shared)
            if fits and spare.give(descriptors, line):
                self.await_begin(spare.channel)
                return spare.pid
            spare.channel.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                shed = [descriptors[0], ours.fileno(), *shed]
                pid = self.fork(launch, descriptors[1:], shed, line, theirs)
            except BaseException:
                ours.close()
                raise
        self.await_begin(ours)
        return pid

    def fork(
        self,
        launch: dict,
        descriptors: list[int],
        shed: list[int],
        line: socket.socket | None = None,
        begun: socket.socket | None = None,
    ) -> int:
        """A worker with these descriptors and this line, without those that it is to shed. Raises OSError."""
        alone()
        pid = fork(launch)
        if pid == 0:
            for fd in shed:
                os.close(fd)
            self.become_worker(lambda: (launch, descriptors, line, begun))
        return pid

    def await_begin(self, channel: socket.socket) -> None:
        self.starting[channel.fileno()] = channel
        self.poll.register(channel.fileno(), select.EPOLLIN)

    def begun(self, fd: int) -> None:
        """A worker runs its guest now, or has ended. After the last, there is time for what may come."""
        self.poll.unregister(fd)
        self.starting.pop(fd).close()
        if not self.starting and self.spare is None:
            self.programs.foresee()
            if self.wants_spare:
                self.keep_spare()

    def keep_spare(self) -> None:
        """Have a spare. Where none can be forked, each start tries by itself, and says so."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            alone()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                return
            if pid == 0:
                ours.close()
                self.become_worker(lambda: self.wait_as_spare(theirs))
        self.spare = Spare(pid, ours, self.programs.shared())

    def wait_as_spare(self, channel: socket.socket) -> Launched:
        rehearse(self.programs.engine)
        return wait(channel)

    def hear(self, fd: int) -> None:
        """The first of a crew has something to say, or has gone."""
        child = self.workers[self.lines[fd]]
        assert child.line is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(child.line, 64, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        try:
            if data.startswith(b"more") and len(descriptors) == 3:
                self.grow(self.lines[fd], child, int(data[4:]), descriptors)
            else:
                self.hang_up(child)
        except (OSError, ValueError) as error:
            say(f"no further process for {child.directory}: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def grow(self, first: int, child: Child, slot: int, descriptors: list[int]) -> None:
        """Another process of this crew, with a line to its first. Raises OSError. Who asks for too much is heard no more."""
        assert child.line is not None
        now = time.monotonic()
        if not 0 < slot < child.most or now - child.grown < GROWTH:
            self.hang_up(child)
            return
        if len(child.crew) >= child.most - 1:
            return  # the last to go is not reaped yet
        child.grown = now
        launch = unseal(child.data)
        launch["slot"] = slot
        program = self.programs.enter(launch)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            try:
                pid = self.fork(launch, [theirs.fileno(), *descriptors], [ours.fileno()])
            except BaseException:
                self.programs.leave(program)
                raise
            self.workers[pid] = Child(launch, program, None, b"", first)
            child.crew.add(pid)
            socket.send_fds(child.line, [b"extra%d" % slot], [ours.fileno()])

    def hang_up(self, child: Child) -> None:
        if child.line is not None:
            del self.lines[child.line.fileno()]
            self.poll.unregister(child.line.fileno())
            child.line.close()
            child.line = None

    def become_worker(self, launched: Callable[[], Launched]) -> None:
        """In the child: shed what is the zygote's, then be the worker. Never returns."""
        try:
            signal.set_wakeup_fd(-1)
            for fd in (self.wake, self.wake_write, *self.lines, *self.starting):
                os.close(fd)
            self.poll.close()
            self.listener.close()
            for connection in self.connections.values():
                connection.close()
            launch, descriptors, line, begun = launched()
            status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptors[0])
            Worker(self.warm, launch, status, descriptors[1:], line, begun).main()
        except BaseException:  # the root of this process: nothing may run the zygote's code on
            say(traceback.format_exc())
        finally:
            os._exit(70)

    def reap(self) -> None:
        self.reap_all()
        if self.spare is not None and not self.spare.shared <= self.programs.shared():
            self.spare.channel.close()  # it would keep what nobody runs any more
            self.spare = None

    def reap_all(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.spare is not None and pid == self.spare.pid:
                self.spare.channel.close()
                self.spare = None
                continue
            child = self.workers.pop(pid, None)
            if child is None:
                continue
            self.hang_up(child)
            self.programs.leave(child.program)
            if child.first in self.workers:
                self.workers[child.first].crew.discard(pid)
            if child.directory:
                self.record(child.directory, child.cgroups, os.waitstatus_to_exitcode(status))
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


def alone() -> None:
    """Before each fork: one thread, and no other."""
    threads = os.stat("/proc/self/task").st_nlink - 2  # `.` and `..`, and a directory each
    assert threads == 1, f"{threads} threads in the zygote: a forked worker would hang"


def born_in_cgroup(launch: dict) -> bool:
    """Whether its cgroup is one of version 2, where a worker is forked into it."""
    joins = launch["cgroups"]
    return len(joins) == 1 and os.path.exists(f"{joins[0]}/cgroup.controllers")


def fork(launch: dict) -> int:
    """A worker, in its cgroup already if that is one of v2; otherwise it joins by itself."""
    joins = launch["cgroups"]
    if born_in_cgroup(launch):
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
    warm = Programs(Engine(library)), vault(), seccomp.filters()
    zygote = Zygote(warm, socket.socket(fileno=descriptor))
    gc.collect()
    gc.disable()
    gc.freeze()  # collections in a worker would copy every shared page
    zygote.run()
