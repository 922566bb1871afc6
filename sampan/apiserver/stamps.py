"""What the server puts on a new object: the time, a uid, and a name when it is to generate one."""

from __future__ import annotations

import os
import random
import time

from sampan.kube import objects

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
NAME_LIMIT = 63


class Clock:
    """The present second as the API writes it, formatted once."""

    second = 0
    text = ""

    @classmethod
    def now(cls) -> str:
        second = int(time.time())
        if second != cls.second:
            cls.second, cls.text = second, objects.now()
        return cls.text


def generated_name(base: str) -> str:
    """generateName with five random letters, never above 63."""
    suffix = "".join(random.choices(SUFFIX_ALPHABET, k=SUFFIX_LENGTH))
    return base[: NAME_LIMIT - SUFFIX_LENGTH] + suffix


_entropy = bytearray()
os.register_at_fork(after_in_child=_entropy.clear)  # two processes must not give the same uid


def new_uid() -> str:
    """A version 4 UUID (RFC 9562). The kernel is asked for many at a time: the call costs more than the bytes."""
    if len(_entropy) < 16:
        _entropy.extend(os.urandom(4096))
    raw = _entropy[-16:]
    del _entropy[-16:]
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
