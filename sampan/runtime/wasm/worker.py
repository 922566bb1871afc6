"""One container: the child of a zygote's fork, from its launch to its exit record.

It opens what it needs while it still may, locks itself in, reports on the status socket and runs the guest. A command
runs in a thread of its own; the main thread is an epoll loop that copies the guest's output to the log and to attached
clients and takes signals, so a guest that spins for ever is ended as easily as one that waits. A WASI guest cannot handle
signals: one that asks for the end (SIGTERM and its like) ends it at once, with 128 + the number.

Nothing may be imported here after `isolate`: the files are out of reach.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import socket
import stat
import time

from sampan.runtime.wasm import exits, isolation, linux, seccomp
from sampan.runtime.wasm.console import Console
from sampan.runtime.wasm.crew import make_board
from sampan.runtime.wasm.engine import (
    TRAPPED,
    Engine,
    EngineError,
    Interrupted,
    Limits,
    Program,
    Trap,
    Wasi,
)
from sampan.runtime.wasm.http import Server
from sampan.runtime.wasm.launch import (
    EXEC,
    FIELDS,
    HTTP,
    MAX_DESCRIPTORS,
    WASI,
    read,
    seal,
    unseal,
)
from sampan.runtime.wasm.log import Log
from sampan.runtime.wasm.programs import Programs
from sampan.runtime.wasm.wagi import Wagi

STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
SIGNALS = frozenset(map(int, STOP_SIGNALS))
CANNOT_RUN = "ContainerCannotRun"
_CHUNK = 65536

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.wasm.component.service import Proxy

# What the zygote has made ready: programs, the empty mount namespace or -1, a filter by (files, network).
Warm = tuple[Programs, int, dict[tuple[bool, bool], seccomp.Filter]]


class Worker:
    """A launch, and what was opened for it. `main` never returns."""

    def __init__(
        self,
        warm: Warm,
        launch: dict,
        status: socket.socket,
        given: list[int],
        line: socket.socket | None,
        begun: socket.socket | None = None,
    ) -> None:
        """`given`: stdio for an exec; listener, stderr and board for another than the first of a crew.
        `line`: of the first of a crew to the zygote. `begun`: closed once the guest is about to run."""
        self.programs, self.vault, self.filters = warm
        self.engine: Engine = self.programs.engine
        self.begun = begun
        self.launch = launch
        self.status = status
        self.given = given
        self.line = line
        self.board = -1
        self.exit_fd = -1
        self.poll = select.epoll()
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.listener: socket.socket | None = None

    def main(self) -> None:
        os.setsid()
        try:
            self.prepare()
            service, command = None, None
            if self.launch["mode"] == HTTP:
                service = self.service()
            else:
                command = self.program()
            self.isolate()
            wasi = self.world()
            self.engine.c.wasi_config_delete(wasi.configure())  # are the directories there?
            if isinstance(service, Wagi):
                service.open(wasi)
            elif service is not None:
                service.open(self.preopens)
        except (EngineError, OSError) as error:
            self.refuse(str(error))
        self.take_signals()
        self.seal()
        self.report()
        if service is not None:
            self.finish(*service.server.run(service))
        assert command is not None
        self.finish(*Command(self, command, wasi).run())

    def program(self) -> Program:
        program = self.programs.own(self.launch)
        assert isinstance(program, Program)
        return program

    def service(self) -> Wagi | Proxy:
        assert self.listener is not None
        server, limits = Server(self, self.listener), Limits(**self.launch["limits"])
        if self.launch["http"]["protocol"] != WASI:
            return Wagi(server, self.program(), limits)
        from sampan.runtime.wasm.component.service import Proxy  # the zygote has it

        program = self.programs.own(self.launch)
        assert not isinstance(program, Program)
        return Proxy(server, program, limits)

    # -- before the guest runs ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Open files, sockets and records while the host's paths are in sight."""
        launch = self.launch
        self.pidfd = os.pidfd_open(os.getpid())
        self.started_at = time.time_ns()
        log, control = -1, None
        if launch["slot"]:
            listener, stderr, self.board = self.given
            self.listener, self.line = socket.socket(fileno=listener), self.status
            os.dup2(stderr, 2, inheritable=False)
            os.close(stderr)
        elif launch["mode"] != EXEC:
            self.exit_fd = exits.create(launch["directory"], os.getpid(), self.started_at)
            control = listen(launch["control"])
            if launch["log"]:
                log = os.open(
                    launch["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
                )
        isolation.join_cgroups(launch["cgroups"])
        if launch["namespace"]:
            linux.setns(launch["namespace"], linux.CLONE_NEWNET)
        if launch["mode"] == HTTP and self.listener is None:
            self.listener = bind(launch["http"]["address"], launch["http"]["port"])
            self.board = make_board(launch["http"]["most"])
        self.console = Console(Log(log), control, self.poll)
        os.umask(0o022)

    def isolate(self) -> None:
        """Everything of isolation.py, as far as this launch has the privilege."""
        launch = self.launch
        self.tree = bool(launch["root"])
        if self.tree:
            if launch["layers"] or self.vault < 0:
                isolation.enter_root(launch["root"], launch["layers"], launch["mounts"])
            else:
                isolation.enter_vault(self.vault, launch["mounts"])
            if launch["mode"] == HTTP:
                isolation.enter_scratch(launch["uid"])
        elif launch["mode"] == HTTP:
            scratch = launch["control"] + ".d"
            os.makedirs(scratch, 0o700, exist_ok=True)
            os.chdir(scratch)
        if self.vault >= 0:
            os.close(self.vault)
        isolation.no_new_privileges()
        isolation.become(launch["uid"], launch["gid"], launch["groups"])
        self.preopens = self.visible()
        paths = [(source, readonly) for source, _, readonly in self.preopens]
        if launch["mode"] == HTTP:
            paths.append((".", False))
        isolation.landlock(paths, network=launch["network"])

    def visible(self) -> list[tuple[str, str, bool]]:
        """What the guest may open: (path, name in the guest, readonly)."""
        launch = self.launch
        if self.tree:
            return [("/", "/", False)] if launch["layers"] or launch["mounts"] else []
        found = [(source, target, readonly) for source, target, readonly in launch["mounts"]]
        if len(launch["layers"]) == 1:
            found.append((launch["layers"][0], "/", True))
        # Without a tree of its own a guest is given directories only: WASI has no way to preopen a file.
        return [entry for entry in found if stat.S_ISDIR(os.stat(entry[0]).st_mode)]

    def world(self) -> Wasi:
        launch = self.launch
        return Wasi(
            self.engine, launch["args"], launch["env"], self.preopens, network=launch["network"]
        )

    def take_signals(self) -> None:
        """From now on a signal is a byte to read: the zygote has set the handlers, see `hear_signals`."""
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        self.poll.register(self.wake_read, select.EPOLLIN)

    def seal(self) -> None:
        files = bool(self.preopens) or self.launch["mode"] == HTTP
        seccomp.install(self.filters[files, self.launch["network"]])

    def report(self) -> None:
        """Tell the runtime, or the first, that the guest is about to run. Nobody there: the start was given up, so end."""
        try:
            if self.launch["slot"]:
                self.status.send(b"ready")
                return
            ready = b"ready%d %d" % (os.getpid(), self.started_at)
            socket.send_fds(self.status, [ready], [self.pidfd])
            os.close(self.pidfd)
            if self.begun is not None:
                self.begun.close()
        except OSError:
            self.finish(137, "Error", "the start was given up")

    def refuse(self, message: str) -> None:
        try:
            self.status.send(b"error" + message.encode("utf-8", "replace")[:4096])
        except OSError:
            pass
        self.finish(128, CANNOT_RUN, message)

    def finish(self, code: int, reason: str, message: str = "") -> None:
        """Write the exit record and end the process, threads and all."""
        if self.exit_fd >= 0:
            exits.fill(self.exit_fd, code, reason, message)
        if self.launch["mode"] == EXEC:
            try:
                self.status.send(b"exit%d" % code)
            except OSError:
                pass
        os._exit(code & 0xFF)

    def signalled(self) -> int:
        """The signal that woke the loop, 0 for another wake-up."""
        try:
            data = os.read(self.wake_read, 64)
        except BlockingIOError:
            return 0
        return max(SIGNALS.intersection(data), default=0)


class Command:
    """Run a command module once."""

    def __init__(self, worker: Worker, program: Program, wasi: Wasi) -> None:
        self.worker = worker
        self.program = program
        self.wasi = wasi
        self.outcome: tuple[int, str, str] | None = None
        self.pipes: dict[int, bytes] = {}

    def run(self) -> tuple[int, str, str]:
        worker = self.worker
        if worker.launch["mode"] == EXEC:
            for target, fd in enumerate(worker.given):
                os.dup2(fd, target, inheritable=False)
                os.close(fd)
            worker.poll.register(worker.status.fileno(), select.EPOLLHUP)
        else:
            self.connect_stdio()
        _thread.start_new_thread(self.guest, ())
        while self.outcome is None:
            for fd, events in worker.poll.poll():
                number = self.event(fd, events)
                if number:
                    self.drain()
                    worker.console.close()
                    return 128 + number, "Error", ""
        self.drain()
        if self.outcome[2] and worker.launch["mode"] != EXEC:
            worker.console.write(b"stderr", self.outcome[2].encode("utf-8", "replace") + b"\n")
        elif self.outcome[2]:
            os.write(2, self.outcome[2].encode("utf-8", "replace") + b"\n")
        worker.console.close()
        return self.outcome

    def connect_stdio(self) -> None:
        worker = self.worker
        for target, name in ((1, b"stdout"), (2, b"stderr")):
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read, False)
            os.dup2(write, target, inheritable=False)
            os.close(write)
            worker.poll.register(read, select.EPOLLIN)
            self.pipes[read] = name
        if worker.launch["stdin"]:
            read, write = os.pipe2(os.O_CLOEXEC)
            os.dup2(read, 0, inheritable=False)
            os.close(read)
            worker.console.stdin = write
            worker.console.stdin_once = worker.launch["stdin_once"]

    def event(self, fd: int, events: int) -> int:
        """Serve one event; the number of the signal that ends the guest, else 0."""
        worker = self.worker
        if fd == worker.wake_read:
            return worker.signalled()
        if fd in self.pipes:
            self.copy(fd)
        elif fd == worker.status.fileno():
            return signal.SIGKILL  # the client of this exec has gone
        else:
            worker.console.handle(fd, events)
        return 0

    def copy(self, fd: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.worker.console.write(self.pipes[fd], data)
        return bool(data)

    def drain(self) -> None:
        """What the guest wrote before its end is in the pipes by now."""
        for fd in self.pipes:
            for _ in range(64):  # a guest that is being stopped may still write
                if not self.copy(fd):
                    break

    def guest(self) -> None:
        """The guest's thread."""
        c, launch = self.worker.engine.c, self.worker.launch
        try:
            config = self.wasi.configure()
            if launch["stdin"] or launch["mode"] == EXEC:
                c.wasi_config_inherit_stdin(config)
            c.wasi_config_inherit_stdout(config)
            c.wasi_config_inherit_stderr(config)
            code = self.program.run(config, limits=Limits(**launch["limits"]))
            self.outcome = (code, "Completed" if code == 0 else "Error", "")
        except (Trap, Interrupted) as trap:
            self.outcome = (TRAPPED, "Error", f"the module trapped: {trap}")
        except EngineError as error:
            self.outcome = (128, CANNOT_RUN, str(error))
        finally:
            if self.outcome is None:
                self.outcome = (128, "Error", "the worker failed")
            os.write(self.worker.wake_write, b"\0")


def rehearse(engine: Engine) -> None:
    """In a spare, while nobody waits: what each start does and has no effect.

    Pages that are still the zygote's are copied at the first write to each, and a count of references is a write: a start
    would pay for some hundred of them.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, select.epoll() as poll:
        for fd in (os.pidfd_open(os.getpid()), *os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)):
            poll.register(fd, select.EPOLLIN)
            os.close(fd)
        sealed = seal(dict.fromkeys(FIELDS, ""))
        socket.send_fds(ours, [b"start"], [sealed, theirs.fileno()])
        _, descriptors, _, _ = socket.recv_fds(theirs, 16, MAX_DESCRIPTORS)
        unseal(read(descriptors[0]))
        for fd in (sealed, *descriptors):
            os.close(fd)
        exits.start_ticks(os.getpid())
        exits.encode(0, "Completed")
        Console(Log(-1), None, poll)
    wasi = Wasi(engine, ["rehearsal"], [("HOSTNAME", "")], [])
    engine.c.wasi_config_delete(wasi.configure())
    os.close(make_board(2))


def hear_signals() -> None:
    """Handlers that do nothing, so that a signal only wakes a loop; made once, before the forks."""
    for number in (*STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)


def listen(path: str) -> socket.socket:
    """A control socket at `path`, which may be longer than a socket's name: bound through its directory."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        short = f"/proc/self/fd/{fd}/{name}"
        try:
            listener.bind(short)
        except OSError:  # left by a worker that was killed
            os.unlink(short)
            listener.bind(short)
        listener.listen(16)
        return listener
    finally:
        os.close(fd)


def bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address == "::":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot listen on {address} port {port}: {error.strerror}"
        ) from error
    return listener
