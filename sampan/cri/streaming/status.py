"""What goes over a session's error channel at its end: a `v1 Status`, with the exit code where there is one."""

from __future__ import annotations

import json
from typing import Any

SUCCESS: dict[str, Any] = {"metadata": {}, "status": "Success"}


def of_exit(code: int) -> dict[str, Any]:
    if code == 0:
        return SUCCESS
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def of_error(error: BaseException) -> dict[str, Any]:
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {error}",
        "reason": "InternalError",
        "details": {"causes": [{"message": str(error)}]},
        "code": 500,
    }


def encode(status: dict[str, Any]) -> bytes:
    return json.dumps(status).encode()


def plain(status: dict[str, Any]) -> bytes:
    """For protocols before v4, whose error channel is text: nothing when all went well."""
    return b"" if status["status"] == "Success" else str(status["message"]).encode()
