"""How a patch fails, in the words and codes of Kubernetes' PATCH handler."""

from __future__ import annotations

from sampan.kube.errors import ApiError, bad_request


def does_not_apply(reason: str) -> ApiError:
    """422 for a well-formed patch that this object refuses. The message is Kubernetes' own, the cause says why."""
    return ApiError(
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
        {"causes": [{"reason": "UnexpectedServerResponse", "message": reason}]},
    )


def malformed(reason: str) -> ApiError:
    return bad_request(reason)
