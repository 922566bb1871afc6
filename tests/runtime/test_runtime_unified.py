"""A host with cgroup v2 alone: what is left of the host's groups to be seen, which limits bite, and that no group stays.

Where v1 is mounted as well, that is a mount namespace in which /sys/fs/cgroup is a cgroup2 and nothing else; of the limits, those
work there whose controllers v1 has not taken. And one whose mounts are shared, as systemd has them: what is mounted in a
container is mounted there alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sampan.linux.cgroups import TOP, layout

HIDE = f"umount -R {TOP} 2>/dev/null || umount -l {TOP}; mount -t cgroup2 none {TOP}; "
SHARE = "mount --make-rshared /; "
RUN = 'exec "$0" -m pytest -q -p no:cacheprovider -p no:xdist "$1"'


def run(name: str, script: str) -> str:
    """The file's tests on a host that the script makes of this one, in a mount namespace of their own."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script + RUN,
         sys.executable, str(Path(__file__).with_name(name))],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.root
def test_on_a_host_with_v2_alone() -> None:
    said = run("unified_host.py", "" if layout().unified else HIDE)
    assert "..." in said and "skipped" not in said, said


@pytest.mark.root
def test_on_a_host_whose_mounts_are_shared() -> None:
    run("shared_host.py", SHARE)
