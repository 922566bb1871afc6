"""An HTTP service: one worker that serves HTTP/1.1, with a fresh instance of the module for every request.

One thread, the leader, runs an epoll loop and runs each request's guest itself: nothing is handed over on the way of a
request that is answered quickly. While a guest runs, a second thread keeps watch: a guest that takes longer than a tick
costs its thread the lead, and another thread goes on with the loop; when the guest ends, its thread leaves the answer to
the leader and waits to be promoted again. The same watch counts the epoch, which ends a guest at its time-out, and has
504 answered even when the guest hangs in a host call. With no request under way nothing wakes.

What a request is to a guest is its protocol's: wagi.py (CGI) or component/service.py (`wasi:http`). Connection state is
touched by the leader alone; `gate` guards who that is.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import socket
import time

from sampan.runtime.wasm import wire
from sampan.runtime.wasm.connections import SWEEP, Connection, Connections
from sampan.runtime.wasm.crew import Crew

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sampan.runtime.wasm.worker import Worker

    class Service(Protocol):
        """A protocol between requests and guests."""

        whole: bool  # a request is given when its body has arrived; else the guest reads it from the connection

        def seat(self, number: int) -> object:
            """What a thread needs to run guests. Called in the leader."""
            ...

        def execute(self, run: Run, seat: Seat) -> tuple[bytes, bool]:
            """The answer, or what is left of it to be sent, and whether the connection goes on. In any thread."""
            ...


TICK = 0.02  # s: how long a guest may hold the lead; the grain of time-outs
_READ = 65536


class Run:
    """A guest at work."""

    __slots__ = ("answered", "connection", "deadline", "detached", "expires", "request", "started")

    def __init__(
        self,
        service: Service,
        connection: Connection,
        request: wire.Request,
        now: float,
        timeout: float,
    ) -> None:
        self.connection = connection
        self.request = request
        self.started = now
        self.deadline = now + timeout
        self.detached = False  # its thread has lost the lead
        self.answered = False  # with 504, while it was still running
        self.expires = service.whole  # a guest that has the connection is not answered for


class Seat:
    """A thread that can lead: what its service gave it, and the lock that it waits on while it does not."""

    def __init__(self, equipment: object) -> None:
        self.equipment = equipment
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.run: Run | None = None


class Server:
    def __init__(self, worker: Worker, listener: socket.socket) -> None:
        http = worker.launch["http"]
        self.worker, self.listener = worker, listener
        self.engine, self.console, self.poll = worker.engine, worker.console, worker.poll
        self.timeout: float = http["timeout"]
        self.max_body: int = http["max_body"]
        self.concurrency: int = http["concurrency"]
        self.ticks = int(self.timeout / TICK) + 2  # a guest's epoch deadline
        self.gate = _thread.allocate_lock()
        self.watch_bell = _thread.allocate_lock()
        self.watch_bell.acquire()
        self.watching = False
        self.seats: list[Seat] = []
        self.spare: list[Seat] = []
        self.finished: list[tuple[Run, bytes, bool]] = []
        self.connections = Connections(
            self.poll,
            lambda: self.failure(408, "the request did not arrive in time", keep_alive=False),
        )
        self.ready: list[Connection] = []  # with more pipelined requests in hand
        self.draining = False
        self.date_second = 0
        self.date = b""
        self.stderr = -1
        slot, board, line = worker.launch["slot"], worker.board, worker.line
        self.crew = Crew(self, slot, http["most"], board, line, http["processes"])
        self.console.allow = self.crew.allow
        self.held = self.crew.held  # guests in threads that do not lead, of each process

    def run(self, service: Service) -> tuple[int, str, str]:
        """Serve until told to end. The main thread's seat is the first; the process may end in another."""
        self.service = service
        self.seats = [Seat(service.seat(0))]
        self.leader = self.seats[0]
        if self.crew.slot == 0:  # the others write into this one's
            self.stderr, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(write, True)
            os.dup2(write, 2, inheritable=False)
            os.close(write)
            self.poll.register(self.stderr, select.EPOLLIN)
        os.dup2(2, 1, inheritable=False)  # what was there is the zygote's log
        self.poll.register(self.listener.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
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
        crew = self.crew
        while True:
            if self.draining and not self.busy():
                self.end()
            timeout = 0.0 if self.ready else SWEEP if self.connections.open else crew.patience
            before = time.monotonic()
            events = self.poll.poll(timeout)
            crew.waited += time.monotonic() - before
            ready, self.ready = self.ready, []
            for connection in ready:
                if connection.fd in self.connections.open and not self.advance(connection, seat):
                    return
            for fd, event in events:
                connection_of = self.connections.open.get(fd)
                if connection_of is not None:
                    if not self.converse(connection_of, event, seat):
                        return
                elif fd == self.listener.fileno():
                    self.connections.accept(self.listener)
                else:
                    self.attend(fd, event)
            now = time.monotonic()
            if self.connections.open:
                self.connections.sweep(now)
            crew.look(now)

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
        elif not self.crew.handle(fd):
            self.console.handle(fd, event)

    def converse(self, connection: Connection, event: int, seat: Seat) -> bool:
        """Serve an event of a connection. False: the lead was lost meanwhile."""
        if event & select.EPOLLOUT:
            if not self.connections.flush(connection):
                return True
            if connection.data:
                return self.advance(connection, seat)
            return True
        try:
            data = connection.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            self.connections.close(connection)
            return True
        if not data:
            self.connections.close(connection)
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
            self.connections.send(
                connection, self.failure(error.status, str(error), keep_alive=False)
            )
            return True
        if request is None:
            return True
        connection.seen = self.crew.asked_at = time.monotonic()
        return self.answer(connection, request, seat)

    def take(self, connection: Connection) -> wire.Request | None:
        """The next request, taken out of the connection's data, with its body or without. Raises Malformed."""
        data = connection.data
        request = connection.request
        if request is None:
            end = wire.head_end(data)
            if not end:
                return None
            request = wire.parse_head(bytes(data[:end]))
            if request.length > self.max_body:
                raise wire.Malformed(413, f"the body is larger than {self.max_body} bytes")
            if not self.service.whole:
                del data[:end]
                return request
            connection.start = end
            if request.expects and len(data) == end and (request.length or request.chunked):
                self.connections.send(connection, b"HTTP/1.1 100 Continue\r\n\r\n")
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
        if sum(self.held) >= self.concurrency:
            self.refuse(connection, request)
            return True
        run = seat.run = Run(self.service, connection, request, time.monotonic(), self.timeout)
        if not self.watching:
            self.watching = True
            self.watch_bell.release()
        output, keep = self.service.execute(run, seat)
        with self.gate:
            seat.run = None
            detached = run.detached
            self.held[self.crew.slot] -= detached
        if detached:
            self.finished.append((run, output, keep))
            self.wake()
            return False
        self.deliver(run, output, keep)
        return True

    def refuse(self, connection: Connection, request: wire.Request) -> None:
        """As many guests are at work as may be."""
        whole = self.service.whole or not (request.length or request.chunked)
        if not (request.keep_alive and whole) or self.draining:
            connection.closing = True
        reason = f"{self.concurrency} requests are being served, which is all that may be at once"
        self.connections.send(
            connection,
            self.failure(
                *(503, reason, b"retry-after: 1"),
                keep_alive=not connection.closing,
                head=request.method == b"HEAD",
            ),
        )
        if connection.data and connection.fd in self.connections.open and not connection.out:
            self.ready.append(connection)

    def deliver(self, run: Run, output: bytes, keep: bool) -> None:
        connection = run.connection
        if run.answered:
            return
        run.answered = True
        if not keep or self.draining:
            connection.closing = True
        connection.seen = time.monotonic()
        self.connections.send(connection, output)
        if connection.data and connection.fd in self.connections.open and not connection.out:
            self.ready.append(connection)

    def complain(self, request: wire.Request, text: str) -> None:
        """Into the log, over the pipe that the leader reads; several threads may."""
        method, path = (
            request.method.decode("ascii", "replace"),
            request.path[:200].decode("utf-8", "replace"),
        )
        os.write(2, f"sampan: {method} {path}: {text}\n".encode("utf-8", "replace")[:4000])

    def failure(
        self, status: int, reason: str, *lines: bytes, keep_alive: bool, head: bool = False
    ) -> bytes:
        date = self.now()
        return wire.failure(status, reason, *lines, date=date, keep_alive=keep_alive, head=head)

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
            if run.detached and run.expires and now > run.deadline + 2 * TICK:
                run.expires = False
                late = self.failure(504, "the module did not answer in time", keep_alive=False)
                self.complain(run.request, f"no answer within {self.timeout:g} s")
                self.finished.append((run, late, False))
                expired = True
        if expired:
            self.wake()

    def promote(self, run: Run) -> None:
        if not self.spare and len(self.seats) > self.concurrency:
            return
        run.detached = run.connection.busy = True
        self.held[self.crew.slot] += 1
        self.poll.unregister(run.connection.fd)  # its events wait until its answer is there
        if self.spare:
            seat = self.spare.pop()
            self.leader = seat
            seat.bell.release()
            return
        seat = Seat(self.service.seat(len(self.seats)))
        self.seats.append(seat)
        self.leader = seat
        _thread.start_new_thread(self.sit, (seat, True))

    def collect(self) -> None:
        """Deliver the answers of threads that lost the lead."""
        while self.finished:
            run, output, keep = self.finished.pop(0)
            if run.answered or self.connections.open.get(run.connection.fd) is not run.connection:
                continue
            run.connection.busy = False
            self.poll.register(run.connection.fd, select.EPOLLIN)
            self.deliver(run, output, keep)

    def wake(self) -> None:
        try:
            os.write(self.worker.wake_write, b"\0")
        except BlockingIOError:
            return  # full of wake-ups already

    # -- the end --------------------------------------------------------------------------------------------------

    def drain(self, listening: bool = True) -> None:
        """Take no more connections, finish what is under way. `listening`: it takes them until now."""
        if self.draining:
            return
        self.draining = True
        if listening:
            self.poll.unregister(self.listener.fileno())
        if self.crew.slot == 0:
            self.listener.shutdown(socket.SHUT_RDWR)  # for all who share it
        self.listener.close()
        self.crew.drain()
        for connection in list(self.connections.open.values()):
            if not (connection.data or connection.out or connection.busy or connection.request):
                self.connections.close(connection)

    def busy(self) -> bool:
        """Whether somebody still waits for an answer."""
        if self.finished or self.crew.others():
            return True
        return not all(known.lingers for known in self.connections.open.values())

    def end(self) -> None:
        self.drain_stderr()
        self.console.close()
        self.worker.finish(0, "Completed")

    def drain_stderr(self) -> None:
        if self.stderr < 0:
            return
        for _ in range(16):
            try:
                data = os.read(self.stderr, _READ)
            except BlockingIOError:
                return
            self.console.write(b"stderr", data)
