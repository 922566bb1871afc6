"""`python -m bench [NAME …]`: run the benches one after another, each in a process of its own, and print their tables.

All together also write docs/benchmarks.md; with names, only `--write` does, and the other benches' tables stay as they were
measured last (bench/out/ holds them). A bench that fails is named at the end and keeps no other from running.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.report import DOCUMENT, write
from bench.table import BUSY, RESULTS, Section, busy

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "bench" / "out"
LONGEST = 900  # seconds for one bench
CLEANING = 120  # seconds that an interrupted one may take to clean up


@dataclass(frozen=True)
class Bench:
    what: str
    root: bool = False  # cannot run at all without


# In the order in which they run: from the parts up to the whole.
BENCHES = {
    "store": Bench("durable writes, reads, watches of the store"),
    "apiserver": Bench("requests, lists, watches and memory of the API server"),
    "scheduler": Bench("thousands of pods on a thousand nodes"),
    "image": Bench("unpacking of images"),
    "network": Bench("pod networks and service tables", root=True),
    "cri": Bench("pods over CRI: start, memory"),
    "microvm": Bench("microVMs over CRI: cold boot, clone, warm machine, idle cost", root=True),
    "wasm": Bench("services in WebAssembly: requests a second, a thousand pods"),
    "cluster": Bench("a whole cluster: start, idle, apply to rolled out, scale"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure and print figures beside their budgets.",
        epilog="\n".join(f"{name:12}{bench.what}" for name, bench in BENCHES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all, when none is named")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name} nevertheless")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHES]:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    names = arguments.names or list(BENCHES)
    failed = [name for name in names if not run(name)]
    if arguments.write or not arguments.names:
        sections = {name: saved(name) for name in BENCHES}
        write({name: found for name, found in sections.items() if found})
        print(f"\nwrote {DOCUMENT.relative_to(ROOT)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str) -> bool:
    """Run one bench; its sections are in bench/out/ afterwards. True when it went well or was skipped."""
    bench = BENCHES[name]
    before = busy()
    print(f"\n== {name}: {bench.what} (processors {before:.0f} % busy before)", flush=True)
    if bench.root and os.geteuid() != 0:
        print("skipped: needs root")
        return True
    OUT.mkdir(exist_ok=True)
    fresh = OUT / f"{name}.new"
    fresh.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {RESULTS: str(fresh), BUSY: f"{before:.1f}", "PYTHONPATH": path}
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", f"bench.{name}"], cwd=ROOT, env=environment)
    try:
        status = process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        print(f"{name} took longer than {LONGEST} s", file=sys.stderr)
        process.send_signal(signal.SIGINT)
        return False
    finally:
        end(process)
    print(f"({name}: {time.monotonic() - began:.0f} s)")
    if status == 0 and fresh.exists():
        fresh.rename(OUT / f"{name}.jsonl")
        return True
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Let a bench that was interrupted remove what it made."""
    try:
        process.wait(CLEANING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def saved(name: str) -> list[Section]:
    path = OUT / f"{name}.jsonl"
    return (
        [Section.from_json(line) for line in path.read_text().splitlines()] if path.exists() else []
    )


if __name__ == "__main__":
    sys.exit(main())
