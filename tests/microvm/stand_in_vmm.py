"""Stands in for a VMM with an HTTP API: answers as the API's definitions say, and tells what it was asked and where it is.

`install` makes a program of it, for a Python of /usr: whole in one file, so that it runs in a jail as the VMM itself would.
It works in its current directory, as the driver starts it: `control` is the API's socket, `vsock` the guest's. On stderr
it says first what it finds of its surroundings, in /proc/self and by trying, then each request. A kernel that is `damaged`
makes it answer with the recorded failure.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socketserver
import struct
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

KINDS = {"integer": int, "string": str, "boolean": bool}
VERSIONS = {"firecracker": "Firecracker v1.10.1", "cloud-hypervisor": "cloud-hypervisor v42.0"}
# A refusal in either's own form: an object with one text, or a list of causes.
FAILURES: dict[str, tuple[int, Any]] = {
    "firecracker": (400, {"fault_message": "The requested operation is not supported after starting the microVM."}),
    "cloud-hypervisor": (500, ["Error from API", "The VM could not boot", "Cannot load the kernel"]),
}  # fmt: skip
DEVICES: set[str] = set()  # plugged in
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


def kernel_of(body: Any) -> str:
    wanted = (body or {}).get("payload", body or {})
    return str(wanted.get("kernel") or wanted.get("kernel_image_path") or "")


def tell(what: dict[str, Any]) -> None:
    sys.stderr.write(json.dumps(what) + "\n")
    sys.stderr.flush()


def surroundings() -> dict[str, Any]:
    """What a process may do here, as it can find out itself."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "ids": {int(each) for name in ("Uid", "Gid") for each in status[name].split()}.pop(),
        "alone": len({*status["Uid"].split(), *status["Gid"].split()}) == 1,
        "groups": [int(each) for each in status["Groups"].split()],
        "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")],
        "no_new_privs": status["NoNewPrivs"],
        "pid": status["NSpid"].split()[-1],
        "root": sorted(os.listdir("/")),
        "writable": sorted(row[4] for row in mounts if "rw" in row[5].split(",")),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "net", "pid", "ipc", "uts")},
        "others": [each for each in os.listdir("/proc") if each.isdigit() and os.stat(f"/proc/{each}").st_uid != os.getuid()],
        "files": sorted(os.listdir("files")),
        "may": [name for name, attempt in ATTEMPTS.items() if succeeds(attempt)],
    }  # fmt: skip


ATTEMPTS: dict[str, Callable[[], Any]] = {
    "write to files/": lambda: os.open("files/x", os.O_WRONLY | os.O_CREAT, 0o600),
    "write to /usr": lambda: os.open("/usr/x", os.O_WRONLY | os.O_CREAT, 0o600),
    "become root": lambda: os.setuid(0),
    "open KVM": lambda: os.open("/dev/kvm", os.O_RDWR),
    "open the tap's device": lambda: os.open("/dev/net/tun", os.O_RDWR),
    "make its socket": lambda: os.open("probe", os.O_WRONLY | os.O_CREAT, 0o600),
    "see the host's files": lambda: os.stat("/etc/passwd"),
}


def succeeds(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


class API(socketserver.StreamRequestHandler):
    name: ClassVar[str] = ""
    calls: ClassVar[dict[str, Any]] = {}

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ", 2)
        size = 0
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                size = int(value)
        body = json.loads(self.rfile.read(size)) if size else None
        tell({"call": f"{method} {target}", "body": body})
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
        if call not in self.calls:
            return 404, {"fault_message": f"no such path: {call}"}
        definition = self.calls[call]
        if wrong := check(definition["body"], body):
            return 400, {"fault_message": wrong}
        if (kernel := kernel_of(body)) and Path(kernel).read_bytes() == b"damaged":
            return FAILURES[self.name]
        status = int(next(code for code in definition["answers"] if code.startswith("2")))
        return status, self.act(call, body)

    def act(self, call: str, body: Any) -> Any:
        """What is left on disk by those calls that leave something; and the answer, where there is more than a status."""
        if call.endswith("vm.add-disk"):
            assert body["id"] not in DEVICES and Path(body["path"]).exists()
            DEVICES.add(body["id"])
            return {"id": body["id"], "bdf": "0000:00:06.0"}
        if call.endswith("vm.remove-device"):
            DEVICES.remove(body["id"])
        if call.endswith("vm.info"):
            return {"state": "Running", "device_tree": {name: {"id": name} for name in DEVICES}}
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
        return None


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


def serve(name: str, definitions: bytes) -> None:
    tell({"surroundings": surroundings()})
    API.name, API.calls = name, json.loads(definitions)["calls"]
    guest = Server("vsock", Guest)
    threading.Thread(target=guest.serve_forever, daemon=True).start()
    Server("control", API).serve_forever()


def interpreter() -> str | None:
    """A Python that a jail shows: it has the programs of /usr and no others."""
    return shutil.which("python3", path="/usr/bin:/bin")


def install(program: Path, definitions: Path) -> None:
    """An executable archive (PEP 441)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(__file__, "__main__.py")
        archive.write(definitions, "definitions.json")
    program.write_bytes(f"#!{interpreter()} -I\n".encode() + packed.getvalue())
    program.chmod(0o755)


if __name__ == "__main__":
    if "--version" in sys.argv:
        print(VERSIONS[Path(sys.argv[0]).name])
        sys.exit()
    with zipfile.ZipFile(sys.argv[0]) as archive:
        packed_definitions = archive.read("definitions.json")
    serve(Path(sys.argv[0]).name, packed_definitions)
