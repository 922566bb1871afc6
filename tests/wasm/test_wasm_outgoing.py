"""What a `wasi:http` component does on the pod's network: calls out over HTTP and HTTPS, sockets of its own, names."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from wasm_lab import Lab, Mount, artifact
from wasm_service import parse, unchunked

from sampan.network.pods import Attachment
from sampan.runtime.wasm.sandbox import WasmSandbox

pytestmark = [
    pytest.mark.timeout(600),  # the first run on a machine builds and compiles for minutes
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


PEER = """
import http.server, json, socket, ssl, struct, sys, threading
class Peer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self): self.answer(b"")
    def do_POST(self):
        body = b""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size); self.rfile.readline()
            self.rfile.readline()
        self.answer(body)
    def answer(self, body):
        facts = [self.command, self.path, self.headers["host"], self.headers["x-from"], len(body)]
        data = json.dumps(facts).encode()
        self.send_response(203)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked"); self.end_headers()
            for n in range(0, len(data), 7):
                piece = data[n:n + 7]; self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
            self.wfile.write(b"0\\r\\n\\r\\n")
        else:
            self.send_header("Content-Length", str(len(data))); self.end_headers(); self.wfile.write(data)
def dns():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); server.bind(("127.0.0.53", 53))
    while True:
        query, peer = server.recvfrom(512)
        known = query[12:].startswith(b"\\x04peer\\x04test\\x03svc")
        answer = query[:2] + struct.pack("!5H", 0x8180 if known else 0x8183, 1, int(known), 0, 0) + query[12:]
        if known: answer += struct.pack("!HHHIH4s", 0xC00C, 1, 1, 5, 4, socket.inet_aton("127.0.0.9"))
        server.sendto(answer, peer)
threading.Thread(target=dns, daemon=True).start()
secure = http.server.ThreadingHTTPServer(("127.0.0.9", 443), Peer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
threading.Thread(target=secure.serve_forever, daemon=True).start()
server = http.server.ThreadingHTTPServer(("127.0.0.9", 80), Peer)
print("ready", flush=True)
server.serve_forever()
"""


def certificate(directory: Path) -> tuple[Path, Path]:
    """(key and certificate of the peer, the authority that signed it), as files."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("ca", "peer")]
    made = []
    for key, name, ca in zip(keys, names, (True, False), strict=True):
        builder = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.9"))
            other = x509.SubjectAlternativeName([x509.DNSName("peer"), address])
            builder = builder.add_extension(other, critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret = keys[1].private_bytes(serialization.Encoding.PEM, *form)
    peer, authority = directory / "peer.pem", directory / "ca.pem"
    peer.write_bytes(secret + made[1])
    authority.write_bytes(made[0])
    authority.chmod(0o644)
    return peer, authority


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return certificate(tmp_path)[1]


@pytest.fixture
def network(tmp_path: Path, authority: Path) -> Iterator[Path]:
    """A network namespace in which a web server, with TLS and without, and a name server answer."""
    script = (
        f"ip link set lo up && exec {sys.executable} -c '{PEER}' {authority.with_name('peer.pem')}"
    )
    peer = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE)
    assert peer.stdout is not None
    assert peer.stdout.readline() == b"ready\n"
    yield Path(f"/proc/{peer.pid}/ns/net")
    peer.kill()
    peer.wait()
    peer.stdout.close()


class Pod:
    """A pod in that network, and requests to it."""

    def __init__(self, sandbox: WasmSandbox, port: int = 8080) -> None:
        self.sandbox, self.port = sandbox, port

    async def get(self, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        async with asyncio.timeout(30):
            reader, writer = await self.sandbox.port(self.port)
            writer.write(
                f"{method} {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            status, headers, answer = parse(await reader.read())
            writer.close()
            if headers.get("transfer-encoding") == "chunked":
                answer, _ = unchunked(answer)
            return status, answer


async def start(lab: Lab, module: Path, network: Path, tmp_path: Path, **changes: object) -> Pod:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.53\nsearch test.svc svc\noptions ndots:5\n")
    port = 8000 + lab.count  # the pods of a test are in one network
    sandbox = await lab.pod(
        network=Attachment(str(network), ("10.1.2.3",)),
        annotations={"sampan.dev/http-port": str(port)},
    )
    mounts = (Mount(resolv, "/etc/resolv.conf", readonly=True), *changes.pop("mounts", ()))
    await sandbox.start(lab.container("app", mounts=mounts, **changes), artifact(module))
    return Pod(sandbox, port)


@pytest.fixture
async def pod(http_lab: Lab, app: Path, network: Path, tmp_path: Path) -> AsyncIterator[Pod]:
    yield await start(http_lab, app, network, tmp_path)


async def test_calls_out_of_the_pods_network(pod: Pod) -> None:
    status, answer = await pod.get("/call?127.0.0.9/a?b=c")
    assert (status, json.loads(answer)) == (203, ["GET", "/a?b=c", "127.0.0.9", "guest", 0])
    status, answer = await pod.get("/call?peer:80/chunked", "POST", b"x" * 200_000)
    assert (status, json.loads(answer)) == (203, ["POST", "/chunked", "peer:80", "guest", 200_000])
    assert await pod.get("/call?127.0.0.9:81/") == (502, b"ErrorCode_ConnectionRefused\n")
    assert await pod.get("/call?nobody/") == (502, b"ErrorCode_DnsError\n")


async def test_calls_over_tls(
    http_lab: Lab, app: Path, network: Path, authority: Path, tmp_path: Path, pod: Pod
) -> None:
    mounts = (Mount(authority, BUNDLE, readonly=True),)
    trusting = await start(http_lab, app, network, tmp_path, mounts=mounts)
    status, answer = await trusting.get("/call?s:127.0.0.9/a")
    assert (status, json.loads(answer)) == (203, ["GET", "/a", "127.0.0.9", "guest", 0])
    status, answer = await trusting.get("/call?s:peer/chunked", "POST", b"x" * 300_000)
    assert (status, json.loads(answer)) == (203, ["POST", "/chunked", "peer", "guest", 300_000])
    bad_name = b"ErrorCode_TlsCertificateError\n"
    assert await trusting.get("/call?s:peer.test.svc./") == (502, bad_name), "it is not its name"
    assert await trusting.get("/call?s:127.0.0.9:80/") == (502, b"ErrorCode_TlsProtocolError\n")
    assert await pod.get("/call?s:127.0.0.9/") == (502, bad_name), (
        "the host does not know this authority"
    )
    mounts = (Mount(authority, "/trust/ca.pem", readonly=True),)
    env = {"SSL_CERT_FILE": "/trust/ca.pem"}
    named = await start(http_lab, app, network, tmp_path, mounts=mounts, env=env)
    assert (await named.get("/call?s:127.0.0.9/"))[0] == 203


async def test_sockets(pod: Pod) -> None:
    expected = [["GET", "/tcp", None, None, 0]] * 2
    answers = [await pod.get(f"/tcp?{peer}:80") for peer in ("127.0.0.9", "peer")]
    assert [json.loads(body) for _, body in answers] == expected
    assert await pod.get("/tcp?127.0.0.9:81") == (502, b"ConnectionRefusedError\n")
    assert await pod.get("/tcp?nobody:80") == (502, b"gaierror\n")
    for family, address in (("4", "127.0.0.1"), ("6", "::1")):
        said = f"True {address} 300000 b'' DATAGRAM\n".encode()
        assert await pod.get(f"/serve?{family}") == (200, said)


async def test_no_sockets_in_the_hosts_network(http_lab: Lab, app: Path) -> None:
    sandbox = await http_lab.pod()
    await sandbox.start(http_lab.container("app"), artifact(app))
    assert await Pod(sandbox).get("/tcp?127.0.0.1:22") == (502, b"PermissionError\n")


async def test_javascript_calls_out(http_lab: Lab, js: Path, network: Path, tmp_path: Path) -> None:
    pod = await start(http_lab, js, network, tmp_path)
    status, answer = await pod.get("/call?127.0.0.9/chunked")
    assert (status, json.loads(answer)) == (203, ["GET", "/chunked", "127.0.0.9", "guest", 0])
