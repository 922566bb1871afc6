"""A WAGI service: one worker that serves HTTP, with a fresh instance of the module for every request.

One thread, the leader, runs an epoll loop and runs each request's guest itself: nothing is handed over on the way of a
request that is answered quickly. While a guest runs, a second thread keeps watch: a guest that takes longer than a tick
costs its thread the lead, and another thread goes on with the loop; when the guest ends, its thread leaves the answer to
the leader and waits to be promoted again. The same watch counts the epoch, which ends a guest at its time-out, and has
504 answered even when the guest hangs in a host call. With no request under way nothing wakes.

Guest's stdin is bytes in memory; its stdout a file of the thread's own, in a scratch directory that only the worker
reaches, since that is the one output of wasmtime's C API that is written directly and not over another thread; stderr a
pipe into the log. Connection state is touched by the leader alone; `gate` guards who that is.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import select
import signal
import socket
import time

from sampan.runtime.wasm import capi, wire
from sampan.runtime.wasm.engine import EngineError, Interrupted, Program, Trap, Wasi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.wasm.worker import Worker

TICK = 0.02  # s: how long a guest may hold the lead; the grain of time-outs
THREADS = 32  # guests at once
HEAD_TIMEOUT = 30.0  # s, for a whole request to arrive
IDLE_TIMEOUT = 75.0  # s, between requests
SWEEP = 5.0
LINGER = 2.0  # s, for a client to take its last answer and close
MAX_CONNECTIONS = 3000  # below the limit of descriptors
_READ = 65536
_RESPONSE_LIMIT = 64 << 20
_KEEP_SCRATCH = 1 << 20


class Connection:
    __slots__ = (
        "busy", "closing", "data", "fd", "lingers", "out", "peer", "request", "seen", "socket", "start",
    )  # fmt: skip

    def __init__(self, connection: socket.socket, peer: bytes) -> None:
        self.socket = connection
        self.fd = connection.fileno()
        self.peer = peer
        self.data = bytearray()
        self.out = b""
        self.request: wire.Request | None = None  # its head is read, its body not yet
        self.start = 0  # where the body begins in `data`
        self.closing = False  # close once `out` is sent
        self.lingers = False  # the last answer is sent; what still comes is thrown away
        self.busy = False  # its guest runs in a thread that does not lead
        self.seen = time.monotonic()


class Run:
    """A guest at work."""

    __slots__ = ("answered", "connection", "deadline", "detached", "request", "started")

    def __init__(
        self, connection: Connection, request: wire.Request, now: float, timeout: float
    ) -> None:
        self.connection = connection
        self.request = request
        self.started = now
        self.deadline = now + timeout
        self.detached = False  # its thread has lost the lead
        self.answered = False  # with 504, while it was still running


class Seat:
    """A thread that can lead: its output file, and the lock that it waits on while it does not."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.output = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.run: Run | None = None


class Server:
    def __init__(
        self, worker: Worker, listener: socket.socket, program: Program, wasi: Wasi
    ) -> None:
        http = worker.launch["http"]
        self.worker, self.listener, self.program, self.wasi = worker, listener, program, wasi
        self.engine, self.console, self.poll = worker.engine, worker.console, worker.poll
        self.timeout: float = http["timeout"]
        self.max_body: int = http["max_body"]
        wasi.prepare(wire.cgi_constants(b"%d" % listener.getsockname()[1]), wire.VARYING)
        self.ticks = int(self.timeout / TICK) + 2
        self.gate = _thread.allocate_lock()
        self.watch_bell = _thread.allocate_lock()
        self.watch_bell.acquire()
        self.watching = False
        self.seats = [Seat("0")]
        self.spare: list[Seat] = []
        self.leader = self.seats[0]
        self.finished: list[tuple[Run, bytes]] = []
        self.connections: dict[int, Connection] = {}
        self.ready: list[Connection] = []  # with more pipelined requests in hand
        self.draining = False
        self.swept = time.monotonic()
        self.date_second = 0
        self.date = b""
        self.stderr = -1

    def run(self) -> tuple[int, str, str]:
        """Serve until told to end. The main thread's seat is the first; the process may end in another."""
        self.stderr, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        os.dup2(write, 2, inheritable=False)
        os.close(write)
        self.poll.register(self.stderr, select.EPOLLIN)
        self.poll.register(self.listener.fileno(), select.EPOLLIN)
        _thread.start_new_thread(self.watch, ())
        self.sit(self.seats[0], leading=True)
        return 0, "Completed", ""

    def sit(self, seat: Seat, leading: bool = False) -> None:
        """A thread's life: lead, lose the lead, wait for the bell."""
        while True:
            if not leading:
                seat.bell.acquire()
            leading = False
            try:
                self.lead(seat)
                with self.gate:
                    self.spare.append(seat)
            except BaseException as error:  # the root of this thread, and the end of the process
                os.write(2, f"sampan: the HTTP worker failed: {error!r}\n".encode())
                self.drain_stderr()
                self.worker.finish(70, "Error", f"the HTTP worker failed: {error!r}")

    # -- the leader's loop ----------------------------------------------------------------------------------------

    def lead(self, seat: Seat) -> None:
        """Return when the lead is lost."""
        while True:
            if self.draining and not self.busy():
                self.end()
            timeout = 0.0 if self.ready else SWEEP if self.connections else None
            events = self.poll.poll(timeout)
            ready, self.ready = self.ready, []
            for connection in ready:
                if connection.fd in self.connections and not self.advance(connection, seat):
                    return
            for fd, event in events:
                connection_of = self.connections.get(fd)
                if connection_of is not None:
                    if not self.converse(connection_of, event, seat):
                        return
                elif fd == self.listener.fileno():
                    self.accept()
                else:
                    self.attend(fd, event)
            if self.connections:
                self.sweep()

    def attend(self, fd: int, event: int) -> None:
        if fd == self.worker.wake_read:
            number = self.worker.signalled()
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                self.drain()
            elif number:
                self.worker.finish(128 + number, "Error")
            self.collect()
        elif fd == self.stderr:
            self.drain_stderr()
        else:
            self.console.handle(fd, event)

    def accept(self) -> None:
        for _ in range(64):
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            if len(self.connections) >= MAX_CONNECTIONS:
                connection.close()
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            address = peer[0].removeprefix("::ffff:").encode()
            known = Connection(connection, address)
            self.connections[known.fd] = known
            self.poll.register(known.fd, select.EPOLLIN)

    def converse(self, connection: Connection, event: int, seat: Seat) -> bool:
        """Serve an event of a connection. False: the lead was lost meanwhile."""
        if event & select.EPOLLOUT:
            if not self.flush(connection):
                return True
            if connection.data:
                return self.advance(connection, seat)
            return True
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            self.close(connection)
            return True
        if not data:
            self.close(connection)
            return True
        if connection.lingers:
            return True
        connection.data += data
        return self.advance(connection, seat)

    def advance(self, connection: Connection, seat: Seat) -> bool:
        """Serve one request if a whole one is there. False: the lead was lost meanwhile."""
        if connection.out or connection.closing:
            return True
        try:
            request = self.take(connection)
        except wire.Malformed as error:
            connection.closing = True
            self.send(connection, self.failure(error.status, str(error), keep_alive=False))
            return True
        if request is None:
            return True
        connection.seen = time.monotonic()
        return self.answer(connection, request, seat)

    def take(self, connection: Connection) -> wire.Request | None:
        """The next whole request, taken out of the connection's data. Raises Malformed."""
        data = connection.data
        request = connection.request
        if request is None:
            end = wire.head_end(data)
            if not end:
                return None
            request = wire.parse_head(bytes(data[:end]))
            if request.length > self.max_body:
                raise wire.Malformed(413, f"the body is larger than {self.max_body} bytes")
            connection.start = end
            if request.expects and len(data) == end and (request.length or request.chunked):
                self.send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.chunked:
            taken = wire.take_chunked(data, connection.start, self.max_body)
            if taken is None:
                connection.request = request
                return None
            request.body, end = taken
            request.length = len(request.body)
        else:
            end = connection.start + request.length
            if len(data) < end:
                connection.request = request
                return None
            request.body = bytes(data[connection.start : end])
        del data[:end]
        connection.request = None
        return request

    # -- a request ------------------------------------------------------------------------------------------------

    def answer(self, connection: Connection, request: wire.Request, seat: Seat) -> bool:
        """Run the guest and send what it says. False: the lead was lost meanwhile."""
        run = seat.run = Run(connection, request, time.monotonic(), self.timeout)
        if not self.watching:
            self.watching = True
            self.watch_bell.release()
        output = self.execute(run, seat)
        with self.gate:
            seat.run = None
            detached = run.detached
        if detached:
            self.finished.append((run, output))
            self.wake()
            return False
        self.deliver(run, output)
        return True

    def execute(self, run: Run, seat: Seat) -> bytes:
        """The whole answer for the wire. Runs in any thread; touches nothing of the connection but constants."""
        request = run.request
        head, keep = request.method == b"HEAD", request.keep_alive and not self.draining
        try:
            output = self.guest(run, seat)
            status, lines, body = wire.parse_cgi(output)
        except Interrupted:
            self.complain(request, f"no answer within {self.timeout:g} s")
            return self.failure(
                504, "the module did not answer in time", keep_alive=False, head=head
            )
        except (Trap, EngineError) as error:
            self.complain(request, f"the module failed: {error}")
            return self.failure(500, "the module failed", keep_alive=keep, head=head)
        except ValueError as error:
            self.complain(request, str(error))
            return self.failure(500, "the module gave no valid answer", keep_alive=keep, head=head)
        return wire.response(status, lines, body, date=self.now(), keep_alive=keep, head=head)

    def guest(self, run: Run, seat: Seat) -> bytes:
        c = self.engine.c
        config = self.wasi.configure(wire.cgi_environment(run.request, run.connection.peer))
        if run.request.body:  # without, the guest reads the end of its input
            body = capi.ByteVec()
            c.wasm_byte_vec_new(ctypes.byref(body), len(run.request.body), run.request.body)
            c.wasi_config_set_stdin_bytes(config, ctypes.byref(body))
        if not c.wasi_config_set_stdout_file(config, seat.name):
            c.wasi_config_delete(config)
            raise EngineError("the scratch directory is full or gone")
        c.wasi_config_inherit_stderr(config)
        self.program.run(config, memory=self.worker.launch["memory"], deadline=self.ticks)
        output = os.pread(seat.output, _READ, 0)
        if len(output) == _READ:
            size = os.fstat(seat.output).st_size
            output = os.pread(seat.output, min(size, _RESPONSE_LIMIT), 0)
            if size > _KEEP_SCRATCH:
                os.ftruncate(seat.output, 0)
        return output

    def deliver(self, run: Run, output: bytes) -> None:
        connection = run.connection
        if run.answered:
            return
        run.answered = True
        if (
            not run.request.keep_alive
            or self.draining
            or b"\r\nconnection: close\r\n" in output[:512]
        ):
            connection.closing = True
        connection.seen = time.monotonic()
        self.send(connection, output)
        if connection.data and connection.fd in self.connections and not connection.out:
            self.ready.append(connection)

    def complain(self, request: wire.Request, text: str) -> None:
        """Into the log, over the pipe that the leader reads; several threads may."""
        method, path = (
            request.method.decode("ascii", "replace"),
            request.path[:200].decode("utf-8", "replace"),
        )
        os.write(2, f"sampan: {method} {path}: {text}\n".encode("utf-8", "replace")[:4000])

    def failure(self, status: int, reason: str, *, keep_alive: bool, head: bool = False) -> bytes:
        return wire.failure(status, reason, date=self.now(), keep_alive=keep_alive, head=head)

    def now(self) -> bytes:
        """The Date header's value, RFC 9110 section 5.6.7."""
        second = int(time.time())
        if second != self.date_second:
            self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(second)).encode()
            self.date_second = second
        return self.date

    # -- the watch ------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """The second thread: asleep while no guest runs."""
        while True:
            self.watch_bell.acquire()
            while True:
                time.sleep(TICK)
                self.engine.tick()
                with self.gate:
                    runs = [(seat, seat.run) for seat in self.seats if seat.run is not None]
                    if not runs:
                        self.watching = False
                        break
                    self.look(runs, time.monotonic())

    def look(self, runs: list[tuple[Seat, Run]], now: float) -> None:
        """Promote another thread when the leader is held up, answer for guests whose time is over. Under the gate."""
        expired = False
        for seat, run in runs:
            if seat is self.leader and now - run.started >= TICK:
                self.promote(run)
            # An endless guest is ended by its epoch; one in a host call is only answered for.
            if run.detached and not run.answered and now > run.deadline + 2 * TICK:
                self.finished.append((run, b""))
                expired = True
        if expired:
            self.wake()

    def promote(self, run: Run) -> None:
        if not self.spare and len(self.seats) >= THREADS:
            return
        run.detached = run.connection.busy = True
        self.poll.unregister(run.connection.fd)  # its events wait until its answer is there
        if self.spare:
            seat = self.spare.pop()
            self.leader = seat
            seat.bell.release()
            return
        seat = Seat(str(len(self.seats)))
        self.seats.append(seat)
        self.leader = seat
        _thread.start_new_thread(self.sit, (seat, True))

    def collect(self) -> None:
        """Deliver the answers of threads that lost the lead."""
        while self.finished:
            run, output = self.finished.pop(0)
            if run.answered or self.connections.get(run.connection.fd) is not run.connection:
                continue
            if not output:
                self.complain(run.request, f"no answer within {self.timeout:g} s")
                output = self.failure(504, "the module did not answer in time", keep_alive=False)
            run.connection.busy = False
            self.poll.register(run.connection.fd, select.EPOLLIN)
            self.deliver(run, output)

    def wake(self) -> None:
        try:
            os.write(self.worker.wake_write, b"\0")
        except BlockingIOError:
            return  # full of wake-ups already

    # -- connections ----------------------------------------------------------------------------------------------

    def send(self, connection: Connection, data: bytes) -> None:
        if not connection.out:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(connection)
                return
            if sent == len(data):
                if connection.closing:
                    self.finish_sending(connection)
                return
            data = data[sent:]
            self.poll.modify(connection.fd, select.EPOLLOUT)
        connection.out += data

    def flush(self, connection: Connection) -> bool:
        """Send what waits; True when all of it went and the connection goes on."""
        try:
            sent = connection.socket.send(connection.out)
        except BlockingIOError:
            return False
        except OSError:
            self.close(connection)
            return False
        connection.out = connection.out[sent:]
        connection.seen = time.monotonic()
        if connection.out:
            return False
        if connection.closing:
            self.finish_sending(connection)
            return False
        self.poll.modify(connection.fd, select.EPOLLIN)
        return True

    def finish_sending(self, connection: Connection) -> None:
        """Close without losing the answer: input that nobody reads would make the kernel reset the connection."""
        try:
            connection.socket.shutdown(socket.SHUT_WR)
            connection.lingers = True
            connection.seen = time.monotonic()
            self.poll.modify(connection.fd, select.EPOLLIN)
        except OSError:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        if self.connections.pop(connection.fd, None) is not None:
            if not connection.busy:
                self.poll.unregister(connection.fd)
            connection.socket.close()

    def sweep(self) -> None:
        """Close connections that idle too long; 408 for those that began a request and do not go on."""
        now = time.monotonic()
        if now - self.swept < SWEEP:
            return
        self.swept = now
        for connection in list(self.connections.values()):
            if connection.busy:
                continue
            begun = bool(connection.data) or connection.request is not None
            if begun and not connection.out and now - connection.seen > HEAD_TIMEOUT:
                connection.closing = True
                self.send(
                    connection,
                    self.failure(408, "the request did not arrive in time", keep_alive=False),
                )
            elif now - connection.seen > (LINGER if connection.lingers else IDLE_TIMEOUT):
                self.close(connection)

    # -- the end --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more connections, finish what is under way."""
        if self.draining:
            return
        self.draining = True
        self.poll.unregister(self.listener.fileno())
        self.listener.close()
        for connection in list(self.connections.values()):
            if not (connection.data or connection.out or connection.busy or connection.request):
                self.close(connection)

    def busy(self) -> bool:
        """Whether somebody still waits for an answer."""
        return bool(self.finished) or not all(known.lingers for known in self.connections.values())

    def end(self) -> None:
        self.drain_stderr()
        self.console.close()
        self.worker.finish(0, "Completed")

    def drain_stderr(self) -> None:
        for _ in range(16):
            try:
                data = os.read(self.stderr, _READ)
            except BlockingIOError:
                return
            self.console.write(b"stderr", data)
