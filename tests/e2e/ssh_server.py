"""An image with Debian's OpenSSH server on top of `box:container`: program, libraries and settings, without its package.

The package, installed, would start a daemon: `tools/setup.sh dev` unpacks it into `.cache/openssh`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from cluster import ROOT

UNPACKED = ROOT / ".cache" / "openssh"
DOCKERFILE = 'FROM box:container\nCOPY root /\nENTRYPOINT ["/bin/box"]\n'
USERS = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"


def missing() -> str:
    """What keeps the image from being built, "" when nothing does."""
    if not (UNPACKED / "usr/sbin/sshd").exists() or not shutil.which("ssh-keygen"):
        return "no OpenSSH to build an image of; to have it: sh tools/setup.sh dev"
    return ""


def build(place: Path) -> Path:
    """The build context, with a `Dockerfile`."""
    root = place / "root"
    server = UNPACKED / "usr/sbin/sshd"
    keygen = Path(shutil.which("ssh-keygen") or "/usr/bin/ssh-keygen")
    for program, path in ((server, "usr/sbin/sshd"), (keygen, "usr/bin/ssh-keygen")):
        copy(program, root / path)
        listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
        for library in re.findall(r"(/\S+) \(0x", listing.stdout):
            copy(Path(library), root / library[1:])
    (root / "etc/ssh").mkdir(parents=True)
    (root / "etc/ssh/sshd_config").write_text("PasswordAuthentication no\n")
    (root / "etc/passwd").write_text(USERS)
    (place / "Dockerfile").write_text(DOCKERFILE)
    return place


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
