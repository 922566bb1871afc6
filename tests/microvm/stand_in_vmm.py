"""Stands in for a VMM with an HTTP API: answers as a recording of the API's definitions says, and keeps what it was asked.

    stand_in_vmm.py RECORDING.json …the VMM's own arguments…

Works in its current directory, as the driver starts it: `control` is the API's socket, `vsock` the guest's, `asked` the
journal. A file `refuse` makes it answer with the recorded failure.
"""

from __future__ import annotations

import json
import os
import socketserver
import struct
import sys
import threading
from pathlib import Path
from typing import Any

KINDS = {"integer": int, "string": str, "boolean": bool}
VERSIONS = {"firecracker": "Firecracker v1.10.1", "cloud-hypervisor": "cloud-hypervisor v42.0"}
# A refusal in either's own form: an object with one text, or a list of causes.
FAILURES: dict[str, tuple[int, Any]] = {
    "firecracker": (400, {"fault_message": "The requested operation is not supported after starting the microVM."}),
    "cloud-hypervisor": (500, ["Error from API", "The VM could not boot", "Cannot load the kernel"]),
}  # fmt: skip
PLACES = {"drives": "{drive_id}", "network-interfaces": "{iface_id}"}


def check(wanted: Any, found: Any, where: str = "body") -> str:
    """What is wrong with a value by its definition (tools/vmm_schemas.py), "" when nothing is."""
    if wanted is None:
        return "" if found is None else f"{where} where none belongs"
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return f"{where} is no object"
        if missing := [n[:-1] for n in wanted if n.endswith("!") and n[:-1] not in found]:
            return f"{where}: missing {missing}"
        known = {name.removesuffix("!"): each for name, each in wanted.items()}
        if unknown := sorted(set(found) - set(known)):
            return f"{where}: unknown {unknown}"
        wrongs = (check(known[name], value, f"{where}.{name}") for name, value in found.items())
        return next(filter(None, wrongs), "")
    if isinstance(wanted, list):
        if not isinstance(found, list):
            return f"{where} is no list"
        return next(filter(None, (check(wanted[0], value, f"{where}[]") for value in found)), "")
    kind, _, bounds = wanted.partition(" ")
    if kind not in KINDS:
        return "" if found in kind.split("|") else f"{where}: {found!r} is none of {kind}"
    if type(found) is not KINDS[kind]:
        return f"{where}: {found!r} is no {kind}"
    least, _, most = bounds.partition("..")
    if (least and found < int(least)) or (most and found > int(most)):
        return f"{where}: {found} is not in {bounds}"
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
        parts = target.split("/")
        if parts[1] in PLACES:
            if parts[2] not in (body or {}).values():
                return 400, {"fault_message": f"the path names {parts[2]}, and the body another"}
            parts[2] = PLACES[parts[1]]
        call = f"{method} {'/'.join(parts)}"
        if call not in RECORDING["calls"]:
            return 404, {"fault_message": f"no such path: {call}"}
        definition = RECORDING["calls"][call]
        if wrong := check(definition["body"], body):
            return 400, {"fault_message": wrong}
        if os.path.exists("refuse"):
            return FAILURES[NAME]
        self.act(call, body)
        return int(next(code for code in definition["answers"] if code.startswith("2"))), None

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
    NAME = Path(sys.argv[1]).stem
    RECORDING = json.loads(Path(sys.argv[1]).read_text())
    if "--version" in sys.argv:
        print(VERSIONS[NAME])
        sys.exit()
    guest = Server("vsock", Guest)
    threading.Thread(target=guest.serve_forever, daemon=True).start()
    Server("control", API).serve_forever()
