"""`?timeout=`: how long the client is willing to wait for an answer (client-go's `Timeout`, kubectl's `--request-timeout`)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from sampan.client.transport import Request, Response
from sampan.kube import errors

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}  # fmt: skip
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"[-+]?(?:{_PART.pattern})+", re.ASCII)


def seconds(text: str) -> float:
    """A duration as Go writes it (`1m30s`). Raises ValueError worded as Go's time.ParseDuration."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"time: invalid duration {errors.quote(text)}")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -total if text.startswith("-") else total


async def within(
    request: Request, work: Awaitable[Response], gave_up: Callable[[], None]
) -> Response:
    """The answer, or ApiError 504 when the client's patience ends first. 400 for what is no duration."""
    text = request.param("timeout")
    try:
        limit = seconds(text)
    except ValueError as error:
        work.close()  # type: ignore[attr-defined]
        raise errors.bad_request(
            f"invalid timeout specified in the request URL - {error}"
        ) from None
    if limit <= 0:
        return await work
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        gave_up()
        raise errors.timeout(
            "request did not complete within requested timeout - context deadline exceeded"
        ) from None
