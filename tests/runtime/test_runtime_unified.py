"""A host with cgroup v2 alone: what is left of the host's groups to be seen, which limits bite, and that no group stays.

Where v1 is mounted as well, that is a mount namespace in which /sys/fs/cgroup is a cgroup2 and nothing else; of the limits, those
work there whose controllers v1 has not taken.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sampan.linux.cgroups import TOP, layout

HIDE = f"umount -R {TOP} 2>/dev/null || umount -l {TOP}; mount -t cgroup2 none {TOP}; "
TESTS = Path(__file__).with_name("unified_host.py")


@pytest.mark.root
def test_on_a_host_with_v2_alone() -> None:
    script = 'exec "$0" -m pytest -q -p no:cacheprovider -p no:xdist "$1"'
    command = ["sh", "-c", script if layout().unified else HIDE + script]
    if not layout().unified:
        command = ["unshare", "--mount", "--propagation=private", *command]
    done = subprocess.run(
        [*command, sys.executable, str(TESTS)],
        capture_output=True, text=True, check=False, cwd=TESTS.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "..." in done.stdout and "SKIPPED" not in done.stdout, done.stdout
