"""Probes and lifecycle hooks: exactly one way to act, and numbers that make sense."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOK_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "sleep")
_SCHEMES: Final = frozenset(("HTTP", "HTTPS"))
_NUMBERS: Final = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)
_SIGNALS_WINDOWS: Final = frozenset(("SIGTERM", "SIGKILL"))
SIGNALS: Final = frozenset(
    (
        *(f"SIG{name}" for name in ["ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ"]),
        *(f"SIGRTMIN{plus}" for plus in ("", *(f"+{n}" for n in range(1, 16)))),
        *(f"SIGRTMAX{minus}" for minus in ("", *(f"-{n}" for n in range(1, 15)))),
    )
)  # fmt: skip


def _handler(
    holder: Object, causes: Causes, path: str, kinds: tuple[str, ...], grace: int | None
) -> None:
    given = [field for field in kinds if holder.get(field) is not None]
    if not given:
        causes.append(required(path, "must specify a handler type"))
        return
    for extra in given[1:]:
        text = "may not specify more than 1 handler type"
        causes.append(forbidden_field(f"{path}.{extra}", text))
    field = given[0]
    handler, where = holder[field], f"{path}.{field}"
    if field == "exec":
        if not handler.get("command"):
            causes.append(required(f"{where}.command"))
    elif field == "httpGet":
        _http_get(handler, causes, where)
    elif field == "tcpSocket":
        rules.port_or_name(causes, f"{where}.port", handler.get("port"))
    elif field == "grpc":
        rules.name(causes, f"{where}.port", handler.get("port") or 0, names.port_number)
    else:
        seconds = handler.get("seconds") or 0
        if grace is not None and not 0 <= seconds <= grace:
            text = f"must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            causes.append(invalid_value(where, seconds, text))


def _http_get(handler: Object, causes: Causes, path: str) -> None:
    if not handler.get("path"):
        causes.append(required(f"{path}.path"))
    rules.port_or_name(causes, f"{path}.port", handler.get("port"))
    scheme = handler.get("scheme") or ""
    if scheme not in _SCHEMES:
        causes.append(not_supported(f"{path}.scheme", scheme, sorted(_SCHEMES)))
    for header in handler.get("httpHeaders") or ():
        rules.name(causes, f"{path}.httpHeaders", header.get("name") or "", names.http_header)


def probe(found: Object, causes: Causes, path: str, field: str) -> None:
    _handler(found, causes, path, _PROBE_HANDLERS, None)
    for number in _NUMBERS:
        value = found.get(number)
        if value is not None and value < 0:
            causes.append(invalid_value(f"{path}.{number}", value, rules.NOT_NEGATIVE))
    grace = found.get("terminationGracePeriodSeconds")
    where = f"{path}.terminationGracePeriodSeconds"
    if grace is not None and grace <= 0:
        causes.append(invalid_value(where, grace, "must be greater than 0"))
    if field == "readinessProbe":
        if grace is not None:
            causes.append(invalid_value(where, grace, "must not be set for readinessProbes"))
    elif (threshold := found.get("successThreshold") or 0) != 1:
        causes.append(invalid_value(f"{path}.successThreshold", threshold, "must be 1"))


def lifecycle(
    found: Object, causes: Causes, path: str, grace: int | None, system: str | None
) -> None:
    """`grace` is the pod's; `system` its operating system, when it says one."""
    for hook in ("postStart", "preStop"):
        if (handler := found.get(hook)) is not None:
            _handler(handler, causes, f"{path}.{hook}", _HOOK_HANDLERS, grace)
    signal = found.get("stopSignal")
    if signal is None:
        return
    where = f"{path}.stopSignal"
    if system is None:
        text = "may not be set for containers with empty `spec.os.name`"
        causes.append(forbidden_field(where, text))
    elif system == "windows" and signal not in _SIGNALS_WINDOWS:
        causes.append(not_supported(where, signal, sorted(_SIGNALS_WINDOWS)))
    elif signal not in SIGNALS:
        causes.append(not_supported(where, signal, sorted(SIGNALS)))
