#!/usr/bin/env python3
"""What `./run` shows: one service as WebAssembly, as a container and as a microVM, watched through a real kubectl.

Starts a cluster in a temporary directory, builds the example's images, applies it, calls it, scales it, kills a pod, prints
what it measured, and stops without leaving anything behind. Without root it does the same with WebAssembly alone; where
no guest boots, with the other two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HELLO = ROOT / "examples" / "hello"
CLIENTS = ROOT / ".cache" / "clients"
DEADLINE = 60.0  # seconds for any one step
# Pods of each kind to scale to: without KVM a guest's processor is emulated, and ten of them would take a while.
REPLICAS = {"wasm": 10, "container": 10, "microvm": 3}


class Failed(Exception):
    """A step did not work; the text says what was seen."""


class Job:
    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.directory = Path(tempfile.mkdtemp(prefix="sampan-run-"))
        self.data = self.directory / "data"
        self.environment = os.environ | {
            "KUBECONFIG": str(self.data / "kubeconfig.yaml"),
            "PATH": f"{CLIENTS}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.figures: list[tuple[str, str]] = []

    # Tools

    def say(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)

    def run(self, *command: str, show: bool = True, quiet: bool = False) -> str:
        if show:
            print(
                f"  $ {' '.join(Path(c).name if c.startswith(str(ROOT)) else c for c in command)}",
                flush=True,
            )
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE * 2,
        )
        if done.returncode:
            raise Failed(
                f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        if show and not quiet:
            print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
        return done.stdout

    def sampan(self, *arguments: str, quiet: bool = False) -> str:
        program = str(Path(sys.executable).parent / "sampan")
        return self.run(program, *arguments, "--data-dir", str(self.data), quiet=quiet)

    def kubectl(self, *arguments: str, show: bool = True, quiet: bool = False) -> str:
        return self.run("kubectl", *arguments, show=show, quiet=quiet)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json", show=False))

    def measure(self, what: str, seconds: float) -> None:
        self.figures.append((what, f"{seconds:.2f} s"))

    # Steps

    def main(self) -> None:
        self.say("Start a cluster")
        began = time.monotonic()
        self.up()
        self.measure("up, from nothing to node Ready", time.monotonic() - began)
        self.kubectl("get", "nodes")

        self.say(
            "Build two images of one small HTTP service"
            if len(self.kinds) > 1
            else "Build the image"
        )
        only = [] if "container" in self.kinds else ["--wasm"]
        self.run(sys.executable, str(HELLO / "build.py"), *only)
        for kind in (
            kind for kind in self.kinds if kind != "microvm"
        ):  # which runs the container's image
            dockerfile = str(HELLO / f"Dockerfile.{kind}")
            self.sampan("image", "build", "-t", f"hello:{kind}", "-f", dockerfile, str(HELLO))

        self.say("Apply one manifest")
        self.apply()
        self.kubectl("get", "pods", "-o", "wide", "-n", "hello")

        self.say("Call the Service: who answers?")
        self.call()

        self.say("Scale them")
        self.scale()

        self.say("Delete one pod by hand")
        self.replace()

        self.say("What it costs")
        self.memory()

    def up(self) -> None:
        command = [str(Path(sys.executable).parent / "sampan"), "up", "--data-dir", str(self.data)]
        if "container" not in self.kinds:
            command.append("--rootless")
        command += ["--port", str(free_port()), "--node-port", str(free_port())]
        print("  $ sampan up", flush=True)
        done = subprocess.run(command, env=self.environment, check=False, timeout=DEADLINE)
        if done.returncode:
            raise Failed("the cluster did not start")

    def manifests(self) -> list[str]:
        names = ["hello.yaml" if len(self.kinds) > 1 else "hello-wasm.yaml"]
        names += ["hello-microvm.yaml"] if "microvm" in self.kinds else []
        return [str(HELLO / name) for name in names]

    def apply(self) -> None:
        began = time.monotonic()
        for manifest in self.manifests():
            self.kubectl("apply", "-f", manifest)
        for kind in self.kinds:
            self.kubectl(
                "rollout",
                "status",
                f"deployment/hello-{kind}",
                "-n",
                "hello",
                "--timeout=60s",
                quiet=True,
            )
        self.measure("apply → rolled out, with kubectl's own time", time.monotonic() - began)
        for kind in self.kinds:
            name = f"hello-{kind}"
            self.kubectl(
                "delete", "deployment", name, "-n", "hello", "--cascade=foreground", show=False
            )
            spent = self.time_of_rollout(name)
            self.measure(f"apply → rolled out, one {kind} pod", spent)

    def time_of_rollout(self, name: str) -> float:
        """From the apply to the last transition that makes the Deployment available, by one watch."""
        watch = subprocess.Popen(
            ["kubectl", "get", "deployment", "-n", "hello", "-w", "-o",
             "jsonpath={.metadata.name} {.status.availableReplicas}{\"\\n\"}"],
            env=self.environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            documents = [
                d
                for manifest in self.manifests()
                for d in Path(manifest).read_text().split("\n---")
                if f"name: {name}\n" in d
            ]
            apply = subprocess.Popen(
                ["kubectl", "apply", "-f", "-"], env=self.environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert apply.stdin is not None
            assert watch.stdout is not None
            apply.stdin.write("\n---\n".join(documents))
            apply.stdin.close()
            created: float | None = None
            for line in watch.stdout:
                if not line.startswith(name):
                    continue
                created = created or time.monotonic()
                if line.split()[1:] == ["1"]:
                    return time.monotonic() - created
            raise Failed(f"{name} did not become available")
        finally:
            watch.kill()
            watch.wait()

    def address(self) -> str:
        spec = self.json("service", "hello", "-n", "hello")["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def call(self) -> None:
        url = f"http://{self.address()}/"
        print(f"  GET {url}")
        answers: dict[str, int] = {}
        wanted = set(self.kinds)
        deadline = time.monotonic() + DEADLINE
        while wanted or sum(answers.values()) < 12:
            answer = get(url)
            answers[answer] = answers.get(answer, 0) + 1
            wanted -= {kind for kind in wanted if f"hello from {kind}" in answer}
            if time.monotonic() > deadline:
                raise Failed(f"not every kind answered: {answers}")
        for answer, count in sorted(answers.items()):
            print(f"    {count:3} × {answer.strip()}")

    def scale(self) -> None:
        for kind in self.kinds:
            count = REPLICAS[kind]
            began = time.monotonic()
            self.kubectl(
                "scale",
                f"deployment/hello-{kind}",
                f"--replicas={count}",
                "-n",
                "hello",
                quiet=True,
            )
            self.kubectl(
                "rollout",
                "status",
                f"deployment/hello-{kind}",
                "-n",
                "hello",
                "--timeout=60s",
                quiet=True,
            )
            self.measure(
                f"scale {kind} 1 → {count}, with kubectl's own time", time.monotonic() - began
            )
        self.kubectl("get", "deployments", "-n", "hello")

    def replace(self) -> None:
        pods = self.json("pods", "-n", "hello")["items"]
        victim = pods[0]["metadata"]["name"]
        began = time.monotonic()
        self.kubectl("delete", "pod", victim, "-n", "hello", "--wait=false")
        while True:
            pods = self.json("pods", "-n", "hello")["items"]
            ready = [
                p for p in pods
                if p["metadata"]["name"] != victim
                and any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", ()))
            ]  # fmt: skip
            if len(ready) == sum(REPLICAS[kind] for kind in self.kinds):
                break
            if time.monotonic() - began > DEADLINE:
                raise Failed(f"{victim} was not replaced; {len(ready)} pods are ready")
        newest = max(ready, key=lambda p: p["metadata"]["creationTimestamp"])["metadata"]["name"]
        print(f"    {newest} took the place of {victim}")
        self.measure("a pod deleted by hand → replaced", time.monotonic() - began)

    def memory(self) -> None:
        out = self.sampan("status", quiet=True)
        print("".join(f"    {line}\n" for line in out.splitlines()))
        width = max(len(what) for what, _ in self.figures)
        for what, figure in self.figures:
            print(f"    {what:{width}}  {figure:>8}")

    def show_logs(self) -> None:
        """The end of each part's log, for whoever has to find out why."""
        for log in sorted((self.data / "logs").glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-12:]
            print("\n".join([f"--- {log.name}", *lines]), file=sys.stderr)

    def stop(self) -> None:
        self.say("Stop, and leave nothing behind")
        try:
            if (self.data / "config.json").exists():
                self.sampan("down")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        return f"no answer: {error}"


def kinds_here() -> tuple[str, ...]:
    """For root: microVMs too, where a guest boots."""
    from sampan.cli.doctor import probe_kind

    support = asyncio.run(probe_kind("microvm", Path("/nonexistent")))
    if support.usable:
        return ("wasm", "container", "microvm")
    mend = f"; to have them: {support.install}" if support.install else ""
    print(f"  without microVMs: {support.why}{mend}", file=sys.stderr)
    return ("wasm", "container")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rootless", action="store_true", help="WebAssembly alone, even as root")
    arguments = parser.parse_args()
    root = os.geteuid() == 0 and not arguments.rootless
    if not root:
        print("  without root: pods run as WebAssembly; containers need root", file=sys.stderr)
    job = Job(kinds_here() if root else ("wasm",))
    try:
        job.main()
    except (Failed, subprocess.TimeoutExpired) as error:
        print(f"\nrun: {error}", file=sys.stderr)
        job.show_logs()
        return 1
    finally:
        job.stop()
    print(
        "\nGo on:  . .venv/bin/activate && sampan up    then  sampan kubectl get pods -A    and  sampan down"
        "\nRead:   README.md, docs/architecture.md"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
