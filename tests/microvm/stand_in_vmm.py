"""Stands in for a VMM with an HTTP API: answers as a recording of the API's definitions says, and keeps what it was asked.

    stand_in_vmm.py RECORDING.json …the VMM's own arguments…

Works in its current directory, as the driver starts it: `control` is the API's socket, `vsock` the guest's, `asked` the
journal. A file `refuse` makes it answer with the recorded failure.
"""

from __future__ import annotations

import json
import os
import re
import socketserver
import struct
import sys
import threading
from pathlib import Path
from typing import Any

KINDS = {"integer": int, "string": str, "boolean": bool, "object": dict, "array": list}
VERSIONS = {"firecracker": "Firecracker v1.10.1", "cloud-hypervisor": "cloud-hypervisor v42.0"}


def check(schema: dict[str, Any] | None, body: Any) -> str:
    """What is wrong with a body by its definition, "" when nothing is."""
    if schema is None:
        return "" if body is None else "a body where none belongs"
    missing = [name for name in schema["required"] if name not in (body or {})]
    if missing:
        return f"missing {missing}"
    for name, value in body.items():
        wanted = schema["properties"].get(name)
        if wanted is None:
            return f"unknown field {name}"
        if type(value) is not KINDS[wanted]:
            return f"{name} is no {wanted}"
    return ""


class API(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ", 2)
        size = 0
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                size = int(value)
        body = json.loads(self.rfile.read(size)) if size else None
        with open("asked", "a") as journal:
            journal.write(json.dumps({"call": f"{method} {target}", "body": body}) + "\n")
        status, answer = self.answer(method, target, body)
        data = json.dumps(answer).encode() if answer is not None else b""
        self.wfile.write(
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        general = re.sub(r"^/(drives|network-interfaces)/[^/]+$", r"/\1/{id}", target)
        call = f"{method} {general}"
        if call not in RECORDING["schemas"]:
            return 404, {"fault_message": f"no such path: {call}"}
        if wrong := check(RECORDING["schemas"][call], body):
            return 400, {"fault_message": wrong}
        if os.path.exists("refuse"):
            return RECORDING["failure"]["status"], RECORDING["failure"]["body"]
        self.act(call, body)
        return RECORDING["success"], None

    def act(self, call: str, body: Any) -> None:
        """What is left on disk by those calls that leave something."""
        if call == "PUT /snapshot/create":
            Path(body["snapshot_path"]).write_bytes(b"state")
            Path(body["mem_file_path"]).write_bytes(b"memory")
        elif call.endswith("vm.snapshot"):
            place = Path(body["destination_url"].removeprefix("file://"))
            (place / "config.json").write_text("{}")
            (place / "state.json").write_text("{}")
            (place / "memory-ranges").write_bytes(b"memory")
        elif call == "PUT /snapshot/load":
            assert Path(body["snapshot_path"]).read_bytes() == b"state"
            assert Path(body["mem_backend"]["backend_path"]).read_bytes().startswith(b"memory")
        elif call.endswith("vm.restore"):
            place = Path(body["source_url"].removeprefix("file://"))
            assert (place / "memory-ranges").read_bytes().startswith(b"memory")


class Guest(socketserver.StreamRequestHandler):
    """The other end of vsock: an agent that answers HELLO."""

    def handle(self) -> None:
        assert self.rfile.readline() == b"CONNECT 1024\n"
        self.wfile.write(b"OK 1073741824\n")
        size, channel, kind, _ = struct.unpack("<IIHH", self.rfile.read(12))
        self.rfile.read(size)
        assert kind == 1
        field = struct.pack("<HIQ", 3, 8, 1)
        self.wfile.write(struct.pack("<IIHH", len(field), channel, 64, 0) + field)
        self.rfile.read(1)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if __name__ == "__main__":
    RECORDING = json.loads(Path(sys.argv[1]).read_text())
    if "--version" in sys.argv:
        print(VERSIONS[Path(sys.argv[1]).stem])
        sys.exit()
    guest = Server("vsock", Guest)
    threading.Thread(target=guest.serve_forever, daemon=True).start()
    Server("control", API).serve_forever()
