"""gRPC's status: numbers, names, and how its message travels in a header (percent-encoded UTF-8)."""

from __future__ import annotations

from urllib.parse import quote, unquote

NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(NAMES)}

CONTENT_TYPE = "application/grpc"
MESSAGE_LIMIT = (
    4096  # characters of a status message; headers have to fit their peer's limit of 8 KiB
)
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def name(number: str) -> str:
    return NAMES[int(number)] if number.isdecimal() and int(number) < len(NAMES) else "UNKNOWN"


def trailers(code: str, message: str = "") -> list[tuple[str, str]]:
    found = [("grpc-status", str(NUMBERS.get(code, NUMBERS["UNKNOWN"])))]
    if message:
        found.append(("grpc-message", quote(message[:MESSAGE_LIMIT], safe=_PLAIN)))
    return found


def message(trailers: dict[str, str]) -> str:
    return unquote(trailers.get("grpc-message", ""))
