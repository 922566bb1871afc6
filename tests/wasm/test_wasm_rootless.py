"""The same tests as an ordinary user: no namespaces, no cgroups, Landlock instead of a mount tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from wasm_lab import CACHE, compiled, componentized

from sampan.runtime.wasm.aot import Cache

HERE = Path(__file__).parent
NOBODY = 65534
# What an ordinary user's worker does in another way: files, scratch, users, limits, ends, adoption.
DIFFERENT = (
    "probe or output or kill or stop or memory or component or attach or volumes or single_file or image_with or start"
    " or exec or stats or answers_when or environment or keep_alive or big or locked_in or adopts or outlive or goes"
)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: the other tests ran rootless already")
def test_everything_works_without_root() -> None:
    """Only reading is kept as a capability, since the interpreter may lie in root's home; workers drop that, too."""
    for name in ("cli.c", "web.c", "component.wat"):
        compiled(name)
    check(("command", "http", "isolation", "recovery"), DIFFERENT)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: the other tests ran rootless already")
@pytest.mark.timeout(600)
async def test_components_work_without_root(tmp_path: Path) -> None:
    await Cache(CACHE / "aot").get(componentized("python"))
    check(("component",), "fresh or both_ways or files or environment or hosts_network")


def check(modules: tuple[str, ...], select: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sampan-rootless-") as name:
        base = Path(name)
        os.chown(base, NOBODY, NOBODY)
        done = run(base, modules, select)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def run(base: Path, modules: tuple[str, ...], select: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
            *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                f"--basetemp={base}/t",
            ),
            *(
                "-m",
                "not root",
                "-k",
                select,
                *(str(HERE / f"test_wasm_{name}.py") for name in modules),
            ),
        ],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(base), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
