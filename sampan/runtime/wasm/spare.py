"""A worker that was forked before anybody asked for it: a start then needs no fork, a millisecond or two.

The zygote keeps one, from its first start on, and forks the next when all that were started have begun, so as not to take the
processor from them. It waits on a socket for its launch, and ends with the zygote; closing the socket says that it has begun. Where cgroups are version 2 it is of no use: a worker is born in its cgroup, since moving there
takes longer than a fork (linux.fork_into).
"""

from __future__ import annotations

import os
import socket

from sampan.runtime.wasm.launch import MAX_DESCRIPTORS, read, unseal


class Spare:
    """Seen from the zygote."""

    def __init__(self, pid: int, channel: socket.socket, shared: frozenset[str]) -> None:
        self.pid = pid
        self.channel = channel
        self.shared = shared  # what it has from the zygote (programs.py)

    def give(self, descriptors: list[int], line: socket.socket | None) -> bool:
        """Make it the worker of a launch: its memory file, its status socket and what else is given. False: it is gone."""
        word = b"start" if line is None else b"line"
        last = [] if line is None else [line.fileno()]
        try:
            socket.send_fds(self.channel, [word], [*descriptors, *last])
        except OSError:
            return False
        return True


# A launch, the status socket and what else is given, its line, and what to close when it has begun.
Launched = tuple[dict, list[int], socket.socket | None, socket.socket | None]


def wait(channel: socket.socket) -> Launched:
    """In the spare. Ends with the zygote."""
    word, descriptors, _, _ = socket.recv_fds(channel, 16, MAX_DESCRIPTORS + 1)
    if not word:
        os._exit(0)
    line = socket.socket(fileno=descriptors.pop()) if word == b"line" else None
    launch = unseal(read(descriptors[0]))
    os.close(descriptors[0])
    return launch, descriptors[1:], line, channel
