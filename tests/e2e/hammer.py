"""A client that never rests: asks a Service again and again over new connections until its stdin closes.

Prints one JSON line a failed request as it happens, and at the end {"served": n, "names": {pod: n}}.
"""

from __future__ import annotations

import collections
import json
import re
import select
import socket
import sys
import time

PAUSE = 0.01  # between two requests: a steady client, not a load test


def ask(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if b" 200 " not in answer.split(b"\r\n", 1)[0]:
        raise ValueError(f"answered {answer[:80]!r}")
    found = re.search(rb"pod (\S+),", answer)
    if found is None:
        raise ValueError(f"answered {answer[-80:]!r}")
    return found[1].decode()


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    names: collections.Counter[str] = collections.Counter()
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        try:
            names[ask(host, port)] += 1
        except (OSError, ValueError) as error:
            print(json.dumps({"at": time.time(), "error": repr(error)}), flush=True)
    print(json.dumps({"served": names.total(), "names": names}), flush=True)


if __name__ == "__main__":
    main()
