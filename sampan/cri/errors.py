"""Errors of CRI, the same on both ends: the server turns them into gRPC codes, the client turns codes back.

CRIError
├── InvalidArgument      the request cannot be meant so
├── NotFound             no such sandbox, container or image
├── AlreadyExists
├── FailedPrecondition   the thing is there, in the wrong state (exec in an exited container)
├── DeadlineExceeded     the caller's time is over (ExecSync's timeout, too)
├── ResourceExhausted
├── Unimplemented        the method, or this kind of sandbox for this method
├── Unavailable          the runtime is away, or is starting or stopping: try again
├── Cancelled
└── Internal             everything else
"""

from __future__ import annotations


class CRIError(Exception):
    """Root; `code` is the name of the gRPC status code."""

    code = "UNKNOWN"


class InvalidArgument(CRIError):
    code = "INVALID_ARGUMENT"


class NotFound(CRIError):
    code = "NOT_FOUND"


class AlreadyExists(CRIError):
    code = "ALREADY_EXISTS"


class FailedPrecondition(CRIError):
    code = "FAILED_PRECONDITION"


class DeadlineExceeded(CRIError):
    code = "DEADLINE_EXCEEDED"


class ResourceExhausted(CRIError):
    code = "RESOURCE_EXHAUSTED"


class Unimplemented(CRIError):
    code = "UNIMPLEMENTED"


class Unavailable(CRIError):
    code = "UNAVAILABLE"


class Cancelled(CRIError):
    code = "CANCELLED"


class Internal(CRIError):
    code = "INTERNAL"


BY_CODE: dict[str, type[CRIError]] = {
    error.code: error
    for error in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        DeadlineExceeded,
        ResourceExhausted,
        Unimplemented,
        Unavailable,
        Cancelled,
        Internal,
    )
}


def from_code(code: str, message: str) -> CRIError:
    return BY_CODE.get(code, CRIError)(message)
