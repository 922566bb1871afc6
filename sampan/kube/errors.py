"""API errors: what the server answers when it does not do what was asked, as `v1.Status` objects and as exceptions.

    ApiError                 one class; `code` and `reason` tell the cases apart, as they do on the wire
    └── made by functions    not_found, already_exists, conflict, invalid, bad_request, …

Wording follows k8s.io/apimachinery `api/errors` and `util/validation/field`, because users and client tools match on
it. A `Cause` is one field error; `invalid` wraps a list of them into the 422 that kubectl prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Cause(NamedTuple):
    """One field error. `message` is the text after "field: "."""

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Exception):
    """A request that failed, with everything a v1.Status carries."""

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = details or {}
        self.warnings: list[str] = []  # what else the client should know; sent in headers

    def status(self) -> dict[str, Any]:
        """The v1.Status object for the body of the response."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if not self.reason:
            del status["reason"]
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status

    @classmethod
    def from_status(cls, status: dict[str, Any]) -> ApiError:
        """The error that a v1.Status received from some server stands for."""
        code = status.get("code")
        details = status.get("details")
        return cls(
            code if isinstance(code, int) and code else 500,
            str(status.get("reason") or ""),
            str(status.get("message") or status.get("reason") or "unknown error"),
            details if isinstance(details, dict) else {},
        )

    def __repr__(self) -> str:
        return f"ApiError({self.code}, {self.reason!r}, {self.message!r})"


def qualified(resource: str, group: str) -> str:
    """`deployments.apps`; the core group adds nothing."""
    return f"{resource}.{group}" if group else resource


def _details(resource: str, name: str, group: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if resource:
        details["kind"] = resource
    details.update(more)
    return details


def not_found(resource: str, name: str, group: str = "") -> ApiError:
    message = f"{qualified(resource, group)} {quote(name)} not found"
    return ApiError(404, "NotFound", message, _details(resource, name, group))


def path_not_found() -> ApiError:
    """404 for a path that no resource is served at."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(resource: str, name: str, group: str = "") -> ApiError:
    message = f"{qualified(resource, group)} {quote(name)} already exists"
    return ApiError(409, "AlreadyExists", message, _details(resource, name, group))


def conflict(resource: str, name: str, message: str, group: str = "") -> ApiError:
    text = f"Operation cannot be fulfilled on {qualified(resource, group)} {quote(name)}: {message}"
    return ApiError(409, "Conflict", text, _details(resource, name, group))


def invalid(kind: str, name: str, causes: Sequence[Cause], group: str = "") -> ApiError:
    """422 with every cause; the same text twice is shown once."""
    message = f"{qualified(kind, group)} {quote(name)} is invalid"
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    if len(texts) == 1:
        message += f": {texts[0]}"
    elif texts:
        message += f": [{', '.join(texts)}]"
    listed = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    details = _details(kind, name, group)
    if listed:
        details["causes"] = listed
    return ApiError(422, "Invalid", message, details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized(message: str = "Unauthorized") -> ApiError:
    return ApiError(401, "Unauthorized", message or "not authorized")


def forbidden(resource: str, name: str, message: str, group: str = "") -> ApiError:
    if not resource:
        text = f"forbidden: {message}"
    elif not name:
        text = f"{qualified(resource, group)} is forbidden: {message}"
    else:
        text = f"{qualified(resource, group)} {quote(name)} is forbidden: {message}"
    return ApiError(403, "Forbidden", text, _details(resource, name, group))


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def gone(message: str) -> ApiError:
    return ApiError(410, "Gone", message)


def method_not_allowed(resource: str, verb: str, group: str = "") -> ApiError:
    text = f'{verb} is not supported on resources of kind "{qualified(resource, group)}"'
    return ApiError(405, "MethodNotAllowed", text, _details(resource, "", group))


def too_large(message: str) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity is too large: {message}")


def unsupported_media_type(message: str) -> ApiError:
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable(message: str) -> ApiError:
    return ApiError(406, "NotAcceptable", message)


def too_many_requests(message: str, retry_after: int = 1) -> ApiError:
    return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": retry_after})


def timeout(message: str, retry_after: int = 0) -> ApiError:
    details = {"retryAfterSeconds": retry_after} if retry_after else {}
    return ApiError(504, "Timeout", f"Timeout: {message}", details)


def server_timeout(
    resource: str, operation: str, retry_after: int = 0, group: str = ""
) -> ApiError:
    text = (
        f"The {operation} operation against {qualified(resource, group)} "
        "could not be completed at this time, please try again."
    )
    more = {"retryAfterSeconds": retry_after} if retry_after else {}
    return ApiError(500, "ServerTimeout", text, _details(resource, operation, group, **more))


def internal(message: str) -> ApiError:
    text = f"Internal error occurred: {message}"
    return ApiError(500, "InternalError", text, {"causes": [{"message": message}]})


def service_unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)


# --- field errors, worded as field.Error words them -------------------------------------------------


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
            "\t": "\\t", "\v": "\\v"}  # fmt: skip


def quote(text: str) -> str:
    """A string as Go's %q shows it."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if (short := _ESCAPES.get(character)) is not None:
        return short
    if character.isprintable():
        return character
    number = ord(character)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def render(value: Any) -> str:
    """A bad value as it appears in a message: strings quoted, the rest as JSON."""
    if isinstance(value, str):
        return quote(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _body(kind: str, detail: str) -> str:
    return f"{kind}: {detail}" if detail else kind


def required(field: str, detail: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", _body("Required value", detail))


def invalid_value(field: str, value: Any, detail: str) -> Cause:
    return Cause(field, "FieldValueInvalid", _body(f"Invalid value: {render(value)}", detail))


def type_invalid(field: str, value: Any, detail: str) -> Cause:
    return Cause(field, "FieldValueTypeInvalid", _body(f"Invalid value: {render(value)}", detail))


def not_supported(field: str, value: Any, allowed: Iterable[str]) -> Cause:
    texts = ", ".join(quote(item) for item in allowed)
    detail = f"supported values: {texts}" if texts else ""
    return Cause(
        field, "FieldValueNotSupported", _body(f"Unsupported value: {render(value)}", detail)
    )


def duplicate(field: str, value: Any, detail: str = "") -> Cause:
    return Cause(field, "FieldValueDuplicate", _body(f"Duplicate value: {render(value)}", detail))


def forbidden_field(field: str, detail: str) -> Cause:
    return Cause(field, "FieldValueForbidden", _body("Forbidden", detail))


def not_found_value(field: str, value: Any, detail: str = "") -> Cause:
    return Cause(field, "FieldValueNotFound", _body(f"Not found: {render(value)}", detail))


def too_long(field: str, value: Any, maximum: int) -> Cause:
    """`value` is not shown: it is too long."""
    del value
    if maximum < 0:
        return Cause(field, "FieldValueTooLong", "Too long: value is too long")
    unit = "byte" if maximum == 1 else "bytes"
    return Cause(field, "FieldValueTooLong", f"Too long: may not be more than {maximum} {unit}")


def too_many(field: str, count: int, maximum: int) -> Cause:
    unit = "item" if maximum == 1 else "items"
    text = f"Too many: {count}: must have at most {maximum} {unit}"
    return Cause(field, "FieldValueTooMany", text)
