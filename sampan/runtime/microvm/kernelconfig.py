"""The settings that a kernel was built with, where it carries them: CONFIG_IKCONFIG puts its `.config` into the image.

    IKCFG_ST  gzip of the file  IKCFG_ED          (kernel/configs.c)

Distributions leave it out as a rule (theirs are in a file beside the kernel); guest kernels of one's own mostly have it.
"""

from __future__ import annotations

import re
import zlib

BEGIN, END = b"IKCFG_ST", b"IKCFG_ED"
LARGEST = 4 << 20  # bytes; all settings of a distribution's kernel are 300 KB
SETTING = re.compile(rb"^(CONFIG_\w+)=(.*)$", re.MULTILINE)


def embedded(image: bytes) -> dict[str, str]:
    """What is set, `y`, `m` or a value; empty when the image does not say."""
    begin = image.find(BEGIN + b"\x1f\x8b")
    end = image.find(END, begin)
    if begin < 0 or end < 0:
        return {}
    engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = engine.decompress(image[begin + len(BEGIN) : end], LARGEST)
    except zlib.error:
        return {}
    return {name.decode(): value.decode(errors="replace") for name, value in SETTING.findall(text)}
