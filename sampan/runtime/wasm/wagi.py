"""WAGI: a preview 1 module as a CGI program, RFC 3875.

Guest's stdin is bytes in memory; its stdout a file of the thread's own, in a scratch directory that only the worker
reaches, since that is the one output of wasmtime's C API that is written directly and not over another thread; stderr a
pipe into the log.
"""

from __future__ import annotations

import ctypes
import os

from sampan.runtime.wasm import capi, wire
from sampan.runtime.wasm.engine import EngineError, Interrupted, Limits, Program, Trap, Wasi
from sampan.runtime.wasm.http import Run, Seat, Server

_READ = 65536
_RESPONSE_LIMIT = 64 << 20
_KEEP_SCRATCH = 1 << 20


class Scratch:
    """The output file of one thread."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.output = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


class Wagi:
    """A module behind a server, as its http.Service."""

    whole = True

    def __init__(self, server: Server, program: Program, limits: Limits) -> None:
        self.server, self.program, self.limits = server, program, limits
        self.engine = server.engine

    def open(self, wasi: Wasi) -> None:
        """Give its instances their world."""
        self.wasi = wasi
        port = self.server.listener.getsockname()[1]
        wasi.prepare(wire.cgi_constants(b"%d" % port), wire.VARYING)

    def seat(self, number: int) -> Scratch:
        return Scratch(
            f"{self.server.crew.slot}-{number}"
        )  # without root, a crew's are in one place

    def execute(self, run: Run, seat: Seat) -> tuple[bytes, bool]:
        server, request = self.server, run.request
        head, keep = request.method == b"HEAD", request.keep_alive and not server.draining
        scratch = seat.equipment
        assert isinstance(scratch, Scratch)
        try:
            output = self.guest(run, scratch)
            status, lines, body = wire.parse_cgi(output)
        except Interrupted:
            server.complain(request, f"no answer within {server.timeout:g} s")
            late = "the module did not answer in time"
            return server.failure(504, late, keep_alive=False, head=head), False
        except (Trap, EngineError) as error:
            server.complain(request, f"the module failed: {error}")
            return server.failure(500, "the module failed", keep_alive=keep, head=head), keep
        except ValueError as error:
            server.complain(request, str(error))
            bad = "the module gave no valid answer"
            return server.failure(500, bad, keep_alive=keep, head=head), keep
        date = server.now()
        return wire.response(status, lines, body, date=date, keep_alive=keep, head=head), keep

    def guest(self, run: Run, scratch: Scratch) -> bytes:
        c = self.engine.c
        config = self.wasi.configure(wire.cgi_environment(run.request, run.connection.peer))
        if run.request.body:  # without, the guest reads the end of its input
            body = capi.ByteVec()
            c.wasm_byte_vec_new(ctypes.byref(body), len(run.request.body), run.request.body)
            c.wasi_config_set_stdin_bytes(config, ctypes.byref(body))
        if not c.wasi_config_set_stdout_file(config, scratch.name):
            c.wasi_config_delete(config)
            raise EngineError("the scratch directory is full or gone")
        c.wasi_config_inherit_stderr(config)
        self.program.run(config, limits=self.limits, deadline=self.server.ticks)
        output = os.pread(scratch.output, _READ, 0)
        if len(output) == _READ:
            size = os.fstat(scratch.output).st_size
            output = os.pread(scratch.output, size, 0) if size <= _RESPONSE_LIMIT else b""
            if size > _KEEP_SCRATCH:
                os.ftruncate(scratch.output, 0)
            if not output:
                raise ValueError(f"the answer is larger than {_RESPONSE_LIMIT >> 20} MiB")
        return output
