"""`wasi:http` behind the server of http.py: the guest has the connection while it runs, and answers on it itself."""

from __future__ import annotations

import os

from sampan.runtime.wasm.component import tls
from sampan.runtime.wasm.component.command import Setting
from sampan.runtime.wasm.component.exchange import Exchange, RequestBody
from sampan.runtime.wasm.component.names import Names
from sampan.runtime.wasm.component.proxy import ProxyProgram
from sampan.runtime.wasm.engine import EngineError, Interrupted, Limits, Trap
from sampan.runtime.wasm.http import Run, Seat, Server

CALLS_OUT = "wasi:http/outgoing-handler"


class Proxy:
    """A component behind a server, as its http.Service."""

    whole = False

    def __init__(self, server: Server, program: ProxyProgram, limits: Limits) -> None:
        self.server, self.program, self.limits = server, program, limits
        self.names = _names(server.worker.launch)
        calls = self.names is not None and CALLS_OUT in program.world.uses
        self.bundle = tls.open_first([*tls.BUNDLES]) if calls else -1  # the host's

    def open(self, preopens: list[tuple[str, str, bool]]) -> None:
        """Give its instances the launch's world, with these directories: (path, name in the guest, readonly)."""
        launch = self.server.worker.launch
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        opened = [(os.open(path, flags), name, readonly) for path, name, readonly in preopens]
        if self.bundle >= 0 and preopens:
            own = tls.open_first([dict(launch["env"]).get(tls.VARIABLE, ""), *tls.BUNDLES])
            if own >= 0:  # the image's or a volume's, by the container's own paths
                os.close(self.bundle)
                self.bundle = own
        self.program.world.setting = Setting(
            *(launch["args"], launch["env"], opened, 2, 2, self.names),
            authorities=tls.Authorities(self.bundle),
        )

    def seat(self, number: int) -> None:
        return None

    def execute(self, run: Run, seat: Seat) -> tuple[bytes, bool]:
        server, request, connection = self.server, run.request, run.connection
        body = RequestBody(connection.socket, connection.data, request, server.max_body)
        exchange = Exchange(connection.socket, request, body, server.now())
        if server.draining:
            exchange.keep_alive = False
        status, why = 0, ""
        try:
            self.program.handle(
                exchange, limits=self.limits, ticks=server.ticks, deadline=run.deadline
            )
            if exchange.response is None:
                status, why = exchange.refusal or 500, "the module gave no answer"
            elif not exchange.finished:
                status, why = 500, "the module did not finish its answer"
        except Interrupted:
            status, why = 504, "the module did not answer in time"
            server.complain(request, f"no answer within {server.timeout:g} s")
        except (Trap, EngineError) as error:
            status, why = 500, "the module failed"
            server.complain(request, f"the module failed: {error}")
        else:
            if status and not exchange.refusal:
                server.complain(request, why)
        if status and exchange.begun:
            return b"", False  # the head has gone out: only a broken connection can say it now
        if status:
            if body.too_large:
                status, why = 413, f"the body is larger than {server.max_body} bytes"
            exchange.finished, exchange.broken = True, False
            keep = exchange.settle()
            head = request.method == b"HEAD"
            return server.failure(status, why, keep_alive=keep, head=head), keep
        return exchange.out, exchange.settle()


def _names(launch: dict) -> Names | None:
    """The pod's DNS, read while the host's paths are in sight; None where guests may not call out."""
    if not launch["network"]:
        return None
    sources = {target: source for source, target, _ in launch["mounts"]}
    texts = []
    for target in ("/etc/resolv.conf", "/etc/hosts"):
        try:
            with open(sources.get(target, ""), encoding="utf-8", errors="replace") as file:
                texts.append(file.read())
        except OSError:
            texts.append("")  # not mounted: numeric addresses still work
    return Names(*texts)
