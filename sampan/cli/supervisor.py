"""Supervisor: the warm parent of `server`, `runtime` and `node`, which it forks, watches and forks again.

It imports what the parts share, once, so that they share that memory; it stays single-threaded and runs no event loop, so
that forking is safe at any time. It holds no state that matters: parts keep theirs on disk, and pods belong to nobody
here. A part that dies is forked again at once, then with a growing pause when it keeps dying. When the supervisor itself
is killed, the parts see their lifeline close and stop; pods keep running, and the next `sampan up` adopts them.
A part that keeps dying before the cluster was ever ready is a mistake in the set-up, not a crash: then it gives up.

Control: one JSON object a line on `<run>/supervisor.sock` (0600): {"op": "status"} or {"op": "stop", "pods": true}.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.cli.asked import ControlSocket, reply
from sampan.cli.becoming import (
    Notifier,
    end_with_parent,
    name_process,
    redirect_output,
)
from sampan.cli.config import Config
from sampan.cli.control import BUSY
from sampan.cli.warm import SERVER, WARM, begin_pki, end_pki, live_out, read_orders, warm

STOP_GRACE = 10.0  # seconds between SIGTERM and SIGKILL of a part
STABLE = 10.0  # a part that lived this long starts again without a pause
LONGEST_PAUSE = 5.0
GIVE_UP = 5  # deaths in a row of a part that has not become ready, while the cluster starts
DRAIN_SLACK = 5.0  # seconds beyond the time that pods were given when the node shuts down
RUNTIME_PATIENCE = 30.0  # seconds for the runtime to come back when its pods are to be stopped
API_PATIENCE = 3.0  # seconds that the node part waits at start for the API server

# The report by which a part says that it has become ready.
READY = {"server": "ready", "runtime": "cri", "node": "registered"}


@dataclass
class Part:
    name: str
    pid: int = 0
    started: float = 0.0
    restarts: int = 0
    pause: float = 0.0
    due: float = 0.0  # when to fork it again; 0: not waiting
    exit: str = ""  # how it ended last
    failures: int = 0  # deaths in a row without having become ready
    reports: dict[str, str] = field(default_factory=dict)
    pidfd: int = -1
    pipe: int = -1
    buffer: bytes = b""


class Supervisor:
    def __init__(self, config: Config, events: int = -1, born: float | None = None) -> None:
        self.config = config
        self.events = events  # file descriptor that is told each step, as JSON lines
        self.born = born if born is not None else time.time()
        self.parts = {name: Part(name) for name in WARM}
        self.selector = selectors.DefaultSelector()
        self.stopping = False
        self.stop_pods = False
        self.was_ready = False
        self.failed = False
        self.asked = 0  # how often somebody asked to stop: more than once means now
        self.waiting: list[socket.socket] = []  # clients that asked to stop
        self.made = -1  # a pipe that ends when the certificates are made

    def run(self) -> bool:
        """Supervise until told to stop; False when it gave up or could not stop the pods."""
        wake = self.set_up()
        pki, self.made = begin_pki(self.config)
        try:
            warm("server")
            self.fork(self.parts["server"])
            # On two processors: the server imports what it alone has, while this process imports what the others share.
            # They begin when the API is there; a third process beside these two would only hold it up.
            warm("runtime")
            warm("node")
            os.close(self.made)
            self.made = -1
            end_pki(self.config, pki)
            self.wait_for_api(wake)
            self.fork(self.parts["runtime"])
            self.fork(self.parts["node"])
            self.loop(wake)
        finally:
            self.finish(wake)
        return not self.failed

    def clear(self) -> bool:
        """Stop the pods that a killed supervisor left, and remove what they need. True when nothing is left."""
        wake = self.set_up()
        self.stop_pods = True
        try:
            warm("server")
            warm("runtime")
        finally:
            self.finish(wake)
        return not self.failed

    # Set-up

    def set_up(self) -> int:
        self.lock()
        self.control = ControlSocket(self.config.control_socket, self.selector, self.answer)
        self.lifeline, self.lifeline_end = os.pipe()
        return self.catch_signals()

    @property
    def pid_file(self) -> Path:
        return self.config.run_dir / "supervisor.pid"

    def lock(self) -> None:
        """One supervisor a data directory. The lock goes with the process, however it ends."""
        self.lock_fd = os.open(
            self.config.run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        deadline = time.monotonic() + 0.5  # `sampan up` tries it for a moment, to see who runs
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SystemExit(BUSY) from None
                time.sleep(0.02)
        self.pid_file.touch(mode=0o600)
        self.pid_file.write_text(f"{os.getpid()}\n")

    def catch_signals(self) -> int:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.selector.register(reader, selectors.EVENT_READ, None)
        return reader

    # The loop

    def loop(self, wake: int) -> None:
        while not self.stopping:
            self.turn(wake, self.timeout())

    def turn(self, wake: int, timeout: float | None) -> None:
        for key, _ in self.selector.select(timeout):
            if key.fd == wake:
                self.on_signals(os.read(wake, 64))
            else:
                key.data()
        now = time.monotonic()
        for part in self.parts.values():
            if part.due and part.due <= now:
                self.fork(part)

    def wait_for_api(self, wake: int) -> None:
        """A node that starts before its API server spends its first second asking in vain. It starts without one too."""
        deadline = time.monotonic() + API_PATIENCE
        while "api" not in self.parts["server"].reports and not self.stopping:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.turn(wake, left)

    def timeout(self) -> float | None:
        due = [part.due for part in self.parts.values() if part.due]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def on_signals(self, numbers: bytes) -> None:
        if signal.SIGINT in numbers:  # somebody at a terminal ends it: pods too
            self.stopping = self.stop_pods = True
            self.asked += 1
        if signal.SIGTERM in numbers:  # the service is restarted or upgraded: pods stay
            self.stopping = True
            self.asked += 1

    # Parts

    def fork(self, part: Part) -> None:
        gc.freeze()  # a child that looked for garbage here would copy every page
        reader, writer = os.pipe2(os.O_CLOEXEC)
        part.due = 0.0
        try:
            pid = os.fork()
        except OSError as error:  # the machine is out of processes or memory: that passes
            os.close(reader)
            os.close(writer)
            part.due, part.exit = time.monotonic() + 1, f"cannot fork: {error.strerror}"
            self.tell(part.name, "ended", part.exit)
            return
        if pid == 0:
            os.close(reader)
            live_out(lambda: self.become(part.name, writer))
        os.close(writer)
        os.set_blocking(reader, False)
        part.pid, part.started, part.pipe, part.buffer = pid, time.monotonic(), reader, b""
        part.reports = {}
        part.pidfd = os.pidfd_open(pid)
        self.selector.register(part.pidfd, selectors.EVENT_READ, lambda: self.on_exit(part))
        self.selector.register(reader, selectors.EVENT_READ, lambda: self.on_report(part))
        self.tell(part.name, "started")

    def become(self, name: str, notify: int) -> None:
        """In the child: leave everything of the supervisor, and be the part until it ends."""
        os.setpgid(0, 0)  # a Ctrl-C at the terminal is the supervisor's to handle
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self.selector.close()
        self.control.close()
        os.close(self.lock_fd)
        os.close(self.lifeline_end)
        gc.enable()
        if self.events >= 0:
            os.close(self.events)
        for other in self.parts.values():
            for fd in (other.pidfd, other.pipe):
                if fd >= 0:
                    os.close(fd)
        redirect_output(self.config.logs / f"{name}.log")
        name_process(f"sampan-{name}")
        if self.made >= 0:
            importlib.import_module(SERVER)  # takes as long as the certificates, which it needs
            os.read(self.made, 1)
            os.close(self.made)
        parts = importlib.import_module("sampan.cli.parts")
        parts.run(name, self.config, Notifier(notify), self.lifeline)

    def on_report(self, part: Part) -> None:
        try:
            data = os.read(part.pipe, 4096)
        except BlockingIOError:
            return
        if not data:
            self.selector.unregister(part.pipe)
            os.close(part.pipe)
            part.pipe = -1
            return
        *lines, part.buffer = (part.buffer + data).split(b"\n")
        for line in lines:
            step, _, detail = line.decode(errors="replace").partition(" ")
            part.reports[step] = detail
            self.was_ready = self.was_ready or (part.name, step) == ("server", READY["server"])
            self.tell(part.name, step, detail)

    def on_exit(self, part: Part) -> None:
        _, status = os.waitpid(part.pid, 0)
        self.forget(part)
        code = os.waitstatus_to_exitcode(status)
        part.exit = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lived = time.monotonic() - part.started
        part.pause = 0.0 if lived >= STABLE else min(LONGEST_PAUSE, max(0.05, part.pause * 2))
        part.due = time.monotonic() + part.pause
        part.restarts += 1
        part.failures = 0 if READY[part.name] in part.reports else part.failures + 1
        if part.failures >= GIVE_UP and not self.was_ready:
            self.stopping = self.failed = True
            self.tell(part.name, "failed", part.exit)
        else:
            self.tell(part.name, "ended", part.exit)

    def forget(self, part: Part) -> None:
        if part.pipe >= 0:
            self.on_report(part)
        for fd in (part.pidfd, part.pipe):
            if fd >= 0:
                self.selector.unregister(fd)
                os.close(fd)
        part.pid, part.pidfd, part.pipe = 0, -1, -1

    # The end

    def finish(self, wake: int) -> None:
        try:
            self.stop_parts(wake)
        finally:
            for client in self.waiting:
                reply(client, {"stopped": True, "failed": self.failed})
            for path in (self.config.control_socket, self.pid_file):
                path.unlink(missing_ok=True)

    def stop_parts(self, wake: int) -> None:
        """Those that act first, then, when pods end too, the pods, then the runtime that holds them."""
        for part in self.parts.values():
            part.due = 0.0
        if self.stop_pods:
            self.drain(wake)
        self.end(self.parts["node"], self.parts["server"])
        if self.stop_pods:
            self.tell("pods", "stopping")
            self.failed = not (self.runtime_back(wake) and self.in_child("sweep"))
        self.end(self.parts["runtime"])
        if not self.config.has_pods:
            self.failed = not self.in_child("clear") or self.failed

    def drain(self, wake: int) -> None:
        """Graceful node shutdown, where it has a time: pods end while there is an API server to tell. Asked again: no more."""
        node, asked = self.parts["node"], self.asked
        grace = float(node.reports.get("graceful", 0))
        if not node.pid or not grace or READY["node"] not in node.reports:
            return
        self.tell("pods", "draining", f"up to {grace:g} s")
        node.reports.pop("drained", None)
        os.kill(node.pid, signal.SIGPWR)
        deadline = time.monotonic() + grace + DRAIN_SLACK
        while "drained" not in node.reports and node.pid and self.asked == asked:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.turn(wake, left)
        for part in self.parts.values():
            part.due = 0.0

    def runtime_back(self, wake: int) -> bool:
        """Pods can be stopped only by a runtime that answers; it may have been killed a moment ago."""
        runtime = self.parts["runtime"]
        deadline = time.monotonic() + RUNTIME_PATIENCE
        while READY["runtime"] not in runtime.reports or not runtime.pid:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if not runtime.pid and not runtime.due:
                self.fork(runtime)
            pause = self.timeout()
            self.turn(wake, left if pause is None else min(left, pause))
        return True

    def end(self, *parts: Part) -> None:
        for part in parts:
            if part.pid:
                os.kill(part.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE
        for part in parts:
            if not part.pid:
                continue
            with selectors.DefaultSelector() as selector:
                selector.register(part.pidfd, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    os.kill(part.pid, signal.SIGKILL)
            os.waitpid(part.pid, 0)
            self.forget(part)
            self.tell(part.name, "stopped")

    def in_child(self, name: str) -> bool:
        """Run `name` of parts in a child, so that what it imports and starts stays out of the supervisor."""

        def work() -> None:
            signal.set_wakeup_fd(-1)
            redirect_output(self.config.logs / "supervisor.log")
            getattr(importlib.import_module("sampan.cli.parts"), name)(self.config)

        pid = os.fork()
        if pid == 0:
            live_out(work)
        _, status = os.waitpid(pid, 0)
        if status:
            self.tell(name, "failed", f"see {self.config.logs}/supervisor.log")
        return status == 0

    # Telling

    def tell(self, part: str, step: str, detail: str = "") -> None:
        """One step, to whoever started the supervisor. Nobody listening is no reason to stop."""
        if self.events < 0:
            return
        event = {
            "part": part,
            "step": step,
            "detail": detail,
            "after": round(time.time() - self.born, 3),
        }
        try:
            os.write(self.events, json.dumps(event).encode() + b"\n")
        except OSError:
            os.close(self.events)
            self.events = -1

    def answer(self, request: dict[str, Any], client: socket.socket) -> dict[str, Any] | None:
        if request["op"] == "status":
            return self.status()
        if request["op"] == "stop":
            self.stopping, self.stop_pods = True, request.get("pods") is not False
            self.asked += 1
            self.waiting.append(client)  # it is answered when all has stopped
            return None
        return {"error": f"op {request['op']!r} is not known; ask for status or stop"}

    def status(self) -> dict[str, Any]:
        now = time.monotonic()
        parts = {
            part.name: {
                "pid": part.pid,
                "up": round(now - part.started, 1) if part.pid else 0.0,
                "restarts": part.restarts,
                "lastExit": part.exit,
                "reports": part.reports,
            }
            for part in self.parts.values()
        }
        return {
            "pid": os.getpid(),
            "ready": self.was_ready,
            "dataDir": str(self.config.data_dir),
            "parts": parts,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sampan.cli.supervisor")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--clear", action="store_true", help="stop the pods that were left, and end"
    )
    parser.add_argument("--orders-fd", type=int, help="where to read what to run; see launch.py")
    parser.add_argument("--events-fd", type=int, default=-1)
    parser.add_argument("whose", nargs="*", help="the command line that this is for")
    arguments = parser.parse_args()
    gc.disable()  # importing makes many objects and no garbage; each part collects for itself
    data_dir, born = arguments.data_dir, None
    if arguments.orders_fd is not None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it has something to end in order
        warm("server")
        orders = read_orders(arguments.orders_fd)
        data_dir, born = Path(orders["data_dir"]), orders["born"]
        redirect_output(Path(orders["log"]))
        if orders["foreground"]:
            end_with_parent()
        else:
            os.setsid()
    config = Config.load(data_dir)
    # gRPC, which the node imports for a probe that needs it, is never there when we fork.
    os.environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
    name_process("sampan")
    if arguments.events_fd >= 0:
        os.set_inheritable(arguments.events_fd, False)
    supervisor = Supervisor(config, arguments.events_fd, born)
    raise SystemExit(0 if (supervisor.clear() if arguments.clear else supervisor.run()) else 1)


if __name__ == "__main__":
    main()
