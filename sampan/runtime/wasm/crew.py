"""The processes of a busy service: the first asks the zygote for more like itself while one core is not enough.

All of a crew accept from one listening socket; a connection that stays open is moved between requests, so that clients who
keep theirs are shared out too. The first is the container's process: it has the log, the control socket, the signals and
the exit record. The others have a line to it each, write their complaints into its pipe, and end with it, or by themselves
when nobody has asked them anything for a while. What all must know is on a board, a page that they share: the guests that
hold a thread, and the connections that each has.

Lines are SOCK_SEQPACKET. Between the first and the zygote: `more<slot>` with the listener, the pipe and the board goes, `extra<slot>`
with a line comes back, or `none`. Between the first and another: `ready` and `error…` from the other once; `take` with a
connection either way; `bye` from the other, answered with `go`; from the first `leave`, when there are too many, and
`end`, to finish what is under way.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.wasm.connections import Connection
    from sampan.runtime.wasm.http import Server

WINDOW = 0.1  # s: how long business is measured
BUSY = 0.75  # of that time: the loop had something to do
IDLE = 3.0  # s without a request, after which another than the first goes
RETRY = 5.0  # s, after the zygote could not
_ITEM = 4  # bytes of a number on the board


def make_board(most: int) -> int:
    """The board of a crew of `most`, as a descriptor."""
    board = os.memfd_create("board", os.MFD_CLOEXEC)
    os.ftruncate(board, 2 * most * _ITEM)
    return board


class Crew:
    """This process's part in it. Everything here is done by the thread that leads, but for counting in `held`."""

    def __init__(
        self,
        server: Server,
        slot: int,
        most: int,
        board: int,
        line: socket.socket | None,
        allowed: int,
    ) -> None:
        """`line`: to the zygote for the first (slot 0), to the first for the others; None: nobody to ask.
        `most` there is room for, `allowed` may be, until that is changed."""
        self.allowed = allowed
        self.server, self.slot, self.most, self.board = server, slot, most, board
        numbers = memoryview(mmap.mmap(board, 2 * most * _ITEM)).cast("i")
        self.held, self.open = numbers[:most], numbers[most:]  # by slot
        self.zygote = line if slot == 0 else None
        self.lines: dict[int, socket.socket] = {}  # slot: to whom connections can go
        self.slots: dict[int, int] = {}  # descriptor of a line: slot
        self.absent: set[int] = (
            set()
        )  # slots that take no connections: not ready yet, or about to go
        self.parting = False  # this one is about to go
        self.ask_from = 0.0
        self.since, self.waited = time.monotonic(), 0.0
        self.asked_at = self.since  # when a request came last
        if self.zygote is not None:
            self.zygote.setblocking(False)
            server.poll.register(self.zygote.fileno(), select.EPOLLIN)
        elif line is not None:
            self._add(0, line)

    @property
    def patience(self) -> float | None:
        """How long to wait for a connection when there is none."""
        return IDLE if self.slot else None

    def others(self) -> bool:
        """Whether the first must still wait for somebody."""
        return self.slot == 0 and bool(self.lines)

    def look(self, now: float) -> None:
        """After each round of the loop: note, share out, grow, go."""
        own = len(self.server.connections.open)
        if self.open[self.slot] != own:  # at once: an idle loop does not come by again
            self.open[self.slot] = own
        window = now - self.since
        if window < WINDOW:
            return
        busy = 1 - self.waited / window
        self.since, self.waited = now, 0.0
        if self.server.draining:
            return
        if busy >= BUSY and own > 1:
            self._relieve(own, now)
        elif self.slot and now - self.asked_at > IDLE:
            self._part()

    def allow(self, number: int) -> None:
        """In the first: the CPU limit was changed. Those that are too many give their connections back, and go."""
        self.allowed = max(1, min(number, self.most))
        present = [slot for slot in sorted(self.lines) if slot not in self.absent]
        for slot in present[self.allowed - 1 :]:
            self._say(slot, b"leave")

    def _part(self) -> None:
        if not self.parting:
            self.parting = True
            self.server.poll.unregister(self.server.listener.fileno())
            self._say(0, b"bye")

    def _relieve(self, own: int, now: float) -> None:
        """Too much to do, for more than one client: move connections to whom has fewest, else ask for another process."""
        least = min(
            (slot for slot in self.lines if slot not in self.absent),
            key=lambda slot: self.open[slot],
            default=-1,
        )
        if least >= 0 and own - self.open[least] > 1:
            self._give(least, (own - self.open[least]) // 2)
        elif (
            self.zygote is not None and len(self.lines) + 1 < self.allowed and now >= self.ask_from
        ):
            self.ask_from = now + RETRY
            slot = next(slot for slot in range(1, self.most) if slot not in self.lines)
            descriptors = [self.server.listener.fileno(), 2, self.board]
            try:
                socket.send_fds(self.zygote, [b"more%d" % slot], descriptors)
            except OSError:
                return  # the zygote is busy or gone, which its own event says

    # -- lines ----------------------------------------------------------------------------------------------------

    def handle(self, fd: int) -> bool:
        """Serve an event; False when the descriptor is none of its own."""
        slot = self.slots.get(fd, -1)
        if slot >= 0:
            self._hear(slot)
            return True
        if self.zygote is None or fd != self.zygote.fileno():
            return False
        self._hear_zygote(self.zygote)
        return True

    def _hear_zygote(self, zygote: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(zygote, 64, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if data.startswith(b"extra") and descriptors:
            self._add(int(data[5:]), socket.socket(fileno=descriptors[0]))
        elif not data:
            self.server.poll.unregister(zygote.fileno())
            zygote.close()
            self.zygote = None

    def _add(self, slot: int, line: socket.socket) -> None:
        line.setblocking(False)
        self.lines[slot], self.slots[line.fileno()] = line, slot
        if self.slot == 0:
            self.absent.add(slot)
        self.server.poll.register(line.fileno(), select.EPOLLIN)

    def _hear(self, slot: int) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.lines[slot], 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if descriptors:
            self.server.connections.adopt(socket.socket(fileno=descriptors[0]))
            self.asked_at = time.monotonic()
        elif not data and self.slot:
            self.server.worker.finish(137, "Error")  # the first has gone, so has the container
        elif not data:
            self._remove(slot)
        elif data == b"ready":
            self.absent.discard(slot)
            self.ask_from = 0.0
            if self.server.draining:
                self._say(slot, b"end")
            else:
                self._give(slot, len(self.server.connections.open) // (len(self.lines) + 1))
        elif data.startswith(b"error"):
            os.write(2, b"sampan: no further process: %s\n" % data[5:])
        elif data == b"bye":
            self.absent.add(slot)
            self._say(slot, b"go")
        elif data == b"leave" and not self.server.draining:
            self._part()
        elif data == b"go":
            self._give(0, len(self.server.connections.open))
            self.server.drain(listening=False)
        elif data == b"end":
            self.server.drain(listening=not self.parting)

    def _remove(self, slot: int) -> None:
        line = self.lines.pop(slot)
        del self.slots[line.fileno()]
        self.server.poll.unregister(line.fileno())
        line.close()
        self.absent.discard(slot)
        self.held[slot] = self.open[slot] = 0

    def _say(self, slot: int, what: bytes) -> None:
        try:
            self.lines[slot].send(what)
        except OSError:
            return  # its end is an event of its own

    def drain(self) -> None:
        """The container ends: so will all others, once they have finished what is under way."""
        for slot in self.lines if self.slot == 0 else ():
            self._say(slot, b"end")

    def _give(self, slot: int, count: int) -> None:
        """Move up to `count` connections that are between two requests."""
        connections = self.server.connections
        for connection in list(connections.open.values()):
            if count <= 0:
                return
            if not _rests(connection):
                continue
            try:
                socket.send_fds(self.lines[slot], [b"take"], [connection.fd])
            except OSError:
                return  # its buffer is full, or it has gone
            connections.close(connection)
            self.open[slot] += 1
            count -= 1


def _rests(connection: Connection) -> bool:
    return not (
        connection.data
        or connection.out
        or connection.busy
        or connection.request
        or connection.closing
        or connection.lingers
    )
