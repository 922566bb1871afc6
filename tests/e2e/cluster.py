"""A real cluster for a test: `sampan up` in a temporary directory, in a network namespace of its own when root.

Everything is done as a user would: by running `sampan` and kubectl. `stop` checks that nothing was left behind.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import machine_templates
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = ROOT / ".cache" / "clients" / "kubectl"
HELLO = ROOT / "examples" / "hello"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
AS_ROOT = os.geteuid() == 0


class Cluster:
    python = sys.executable  # what runs `sampan`

    def __init__(self, *, rootless: bool = not AS_ROOT) -> None:
        self.rootless = rootless
        self.directory = Path(tempfile.mkdtemp(prefix="sampan-e2e-"))
        self.data = self.directory / "data"
        self.microvms = self.data / "runtime" / "microvm"
        self.namespace: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBE")}
        self.environment |= {
            "KUBECONFIG": str(self.data / "kubeconfig.yaml"),
            "HOME": str(self.directory),
            "PATH": f"{KUBECTL.parent}:{os.environ['PATH']}",
        }

    # Life

    def start(self, *options: str) -> str:
        """What `sampan up` printed."""
        self.open_network()
        self.ports = self.ports if hasattr(self, "ports") else (free_port(), free_port())
        port, node_port = self.ports
        arguments = [
            "up",
            "--port",
            str(port),
            "--node-port",
            str(node_port),
            "--node-name",
            "boat",
            "--cni-conf-dir",  # whatever this machine has for others
            str(self.directory / "cni"),
        ]
        if self.rootless:
            arguments.append("--rootless")
        said = self.sampan(*arguments, *options, timeout=60)
        if not self.rootless:
            machine_templates.lend(self.microvms)
        return said

    def open_network(self) -> None:
        """A network namespace of the cluster's own, when root. Idempotent."""
        if AS_ROOT and self.namespace is None:
            script = "ip link set lo up && echo up && exec sleep infinity"
            self.namespace = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE
            )
            assert self.namespace.stdout is not None
            assert self.namespace.stdout.readline() == b"up\n"
            self.prefix = ["nsenter", f"--net=/proc/{self.namespace.pid}/ns/net"]

    def close_network(self) -> None:
        if self.namespace is not None:
            self.namespace.kill()
            self.namespace.wait()
            self.namespace = None

    def stop(self) -> None:
        try:
            if (self.data / "config.json").exists():
                self.sampan("down", timeout=120)
            if not self.rootless:
                machine_templates.keep(self.microvms)
        finally:
            self.close_network()

    def remove(self) -> None:
        """Delete everything; SAMPAN_E2E_KEEP leaves data and logs for whoever looks for a mistake."""
        if os.environ.get("SAMPAN_E2E_KEEP"):
            return
        shutil.rmtree(self.directory, ignore_errors=True)

    # Commands

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 60,
        stdin: str | bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        text = stdin.decode() if isinstance(stdin, bytes) else stdin
        done = subprocess.run(
            [*self.prefix, *command],
            env=self.environment, input=text, capture_output=True, text=True, timeout=timeout,
            check=False, cwd=self.directory,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def sampan(self, *arguments: str, timeout: float = 60) -> str:
        head, *rest = arguments
        nested = [rest.pop(0)] if head == "image" else []
        command = [
            self.python,
            "-m",
            "sampan",
            head,
            *nested,
            "--data-dir",
            str(self.data),
            *rest,
        ]
        return self.run(*command, timeout=timeout).stdout

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        return self.run(str(KUBECTL), *arguments, stdin=stdin, timeout=timeout).stdout

    def kubectl_fails(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl said on standard error, when it had to fail."""
        done = self.run(str(KUBECTL), *arguments, stdin=stdin, check=False)
        assert done.returncode, f"kubectl {' '.join(arguments)} went well:\n{done.stdout}"
        return done.stderr

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.prefix, *command], env=self.environment, text=True, cwd=self.directory, **options
        )

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, manifest: str | dict[str, Any]) -> str:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.kubectl("apply", "-f", "-", stdin=text)

    def http(self, url: str, timeout: float = 5) -> str:
        """GET from inside the cluster's network namespace; AssertionError when it goes wrong."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def ask() -> str:
            with opener.open(url, timeout=timeout) as answer:
                return str(answer.read().decode())

        try:
            return self.inside(ask)
        except (OSError, http.client.HTTPException) as error:
            raise AssertionError(f"GET {url}: {error}") from error

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        """(HTTP status, body) of a raw request to the API as the admin; far cheaper than a kubectl."""
        address, context = self.door()
        headers = {"Content-Type": content_type}

        def send() -> tuple[int, bytes]:
            connection = http.client.HTTPSConnection(address, context=context, timeout=20)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return self.inside(send)

    def read(self, path: str) -> Any:
        """The object or list at an API path; AssertionError when it is not there, or nobody answers."""
        try:
            status, body = self.request("GET", path)
        except (OSError, http.client.HTTPException) as error:
            raise AssertionError(f"GET {path}: {error}") from error
        assert status == 200, body.decode()
        return json.loads(body)

    @cache  # noqa: B019  a cluster lives as long as its tests
    def door(self) -> tuple[str, ssl.SSLContext]:
        """Host and port of the API, and the admin's TLS."""
        config = yaml.safe_load((self.data / "kubeconfig.yaml").read_text())
        user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
        authority = base64.b64decode(server["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        parts = (base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
        with tempfile.NamedTemporaryFile(dir=self.directory) as pem:
            pem.write(b"".join(parts))
            pem.flush()
            context.load_cert_chain(pem.name)
        return urlsplit(server["server"]).netloc, context

    def inside(self, work: Callable[[], Any]) -> Any:
        """`work` in a thread of its own, which is in the cluster's network namespace; so are sockets made there."""

        def enter_and_work() -> Any:
            if self.namespace is not None:
                with open(f"/proc/{self.namespace.pid}/ns/net") as entered:
                    if LIBC.setns(entered.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
            return work()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter_and_work).result()

    def status(self) -> dict[str, Any]:
        """The supervisor's own account of its parts."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.data / "run" / "supervisor.sock"))
            client.sendall(b'{"op": "status"}\n')
            return json.loads(client.makefile("rb").readline())


def wait_for(check: Callable[[], Any], timeout: float = 30, what: str = "") -> Any:
    """The first true answer of `check`; AssertionError at the deadline. For effects that no event tells a test of."""
    deadline = time.monotonic() + timeout
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = check()
        except AssertionError as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"{what or check} did not come true within {timeout} s; last: {last}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
