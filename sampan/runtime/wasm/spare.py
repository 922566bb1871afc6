"""A worker that was forked before anybody asked for it: a start then needs no fork, a millisecond or two.

The zygote keeps one, from its first start on, and forks the next after it has given one away. It waits on a socket for its
launch, and ends with the zygote. Where cgroups are version 2 it is of no use: a worker is born in its cgroup, since moving there
takes longer than a fork (linux.fork_into).
"""

from __future__ import annotations

import os
import socket

from sampan.runtime.wasm.launch import MAX_DESCRIPTORS, read, unseal


class Spare:
    """Seen from the zygote."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel

    def give(self, descriptors: list[int], line: socket.socket | None) -> bool:
        """Make it the worker of a launch: its memory file, its status socket and what else is given. False: it is gone."""
        word = b"start" if line is None else b"line"
        last = [] if line is None else [line.fileno()]
        try:
            socket.send_fds(self.channel, [word], [*descriptors, *last])
        except OSError:
            return False
        finally:
            self.channel.close()
        return True


def wait(channel: socket.socket) -> tuple[dict, list[int], socket.socket | None]:
    """In the spare: its launch, the status socket and what else is given, and its line. Ends with the zygote."""
    word, descriptors, _, _ = socket.recv_fds(channel, 16, MAX_DESCRIPTORS + 1)
    channel.close()
    if not word:
        os._exit(0)
    line = socket.socket(fileno=descriptors.pop()) if word == b"line" else None
    launch = unseal(read(descriptors[0]))
    os.close(descriptors[0])
    return launch, descriptors[1:], line
