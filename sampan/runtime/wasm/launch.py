"""What the runtime tells the zygote to start: one launch, marshalled into a memory file.

marshal needs no import and both ends are the same interpreter: the zygote's socket carries the version in its name, so
a zygote of another installation is never asked.
"""

from __future__ import annotations

import marshal
import os

PROTOCOL = 4
RUN, HTTP, EXEC = "run", "http", "exec"
WAGI, WASI = "wagi", "wasi"  # protocols of an HTTP service
NO_LIMIT = -1
MAX_DESCRIPTORS = 5  # the launch itself, a status socket, three of stdio

FIELDS = {
    "mode": "run | http | exec",
    "id": "container id",
    "program": "path of the compiled module",
    "component": "bool",
    "args": "list of str",
    "env": "list of (name, value)",
    "directory": "state directory of the container; empty for exec",
    "control": "path of the control socket; empty for exec",
    "log": "path of the log, empty: discard",
    "stdin": "bool: keep stdin open for attach",
    "stdin_once": "bool: the first attached client's end of input is the container's",
    "namespace": "path of the network namespace, empty: stay",
    "cgroups": "list of cgroup directories to join",
    "root": "empty directory to mount the root on; empty: not privileged",
    "layers": "list of image layer directories, lowest first",
    "mounts": "list of (source, target, readonly)",
    "uid": "user to become, 0: stay",
    "gid": "group to become",
    "groups": "list of supplementary groups",
    "limits": "of one instance, see engine.Limits: memory (bytes), table_elements, instances, tables, memories; -1: none",
    "network": "bool: the guest may use sockets (preview 2)",
    "http": "protocol (wagi | wasi), address, port, timeout (s), max_body (bytes), concurrency, processes, most",
    "slot": "place in its crew (crew.py), 0: the first",
}


def seal(launch: dict[str, object]) -> int:
    """A memory file that holds the launch; the caller closes the descriptor."""
    missing = FIELDS.keys() - launch.keys()
    if missing:
        raise ValueError(f"the launch lacks {', '.join(sorted(missing))}")
    fd = os.memfd_create("launch", os.MFD_CLOEXEC)
    data = marshal.dumps(launch)
    while data:
        data = data[os.write(fd, data) :]
    return fd


def read(fd: int) -> bytes:
    """What `seal` made, as bytes."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def unseal(data: bytes) -> dict:
    launch = marshal.loads(data)
    assert isinstance(launch, dict)
    return launch
