"""Where a connection goes: pure decisions for log, exec, attach, port-forward and proxy.

From a pod, node or service and the request's query to a `Target`: address, path and query of the node's endpoint (the
kubelet's API) or of the pod itself. Raises ApiError worded as Kubernetes words it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from sampan.client.transport import Request
from sampan.kube import errors, objects
from sampan.kube.errors import ApiError, Cause

Object = dict[str, Any]

NODE_PORT = 10250
ADDRESS_TYPES = ("InternalIP", "ExternalIP", "InternalDNS", "ExternalDNS", "Hostname")
TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})


@dataclass(frozen=True, slots=True)
class Target:
    """An HTTP address. `server_name` is what its certificate must say; "" when nothing is verified."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""
    server_name: str = ""
    node: bool = False  # the node's endpoint: the API server shows its client certificate

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


# --- nodes --------------------------------------------------------------------------------------------


def node_target(node: Object, path: str, query: str = "") -> Target:
    """The kubelet's API of a node. Raises ApiError when the node has told no address."""
    status = node.get("status") or {}
    addresses = {each.get("type"): each.get("address") for each in status.get("addresses") or ()}
    host = next((addresses[kind] for kind in ADDRESS_TYPES if addresses.get(kind)), "")
    name = objects.name(node)
    if not host:
        kinds = " ".join(ADDRESS_TYPES)
        raise errors.internal(
            f"no preferred addresses found; known addresses: [] ({kinds}) of node {name}"
        )
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    port = endpoint.get("Port") or NODE_PORT
    return Target("https", host, port, path, query, server_name=name, node=True)


# --- containers ---------------------------------------------------------------------------------------


def container_of(pod: Object, wanted: str) -> str:
    """The container meant: the one named, else the only one."""
    spec, name = pod.get("spec") or {}, objects.name(pod)

    def names(key: str) -> list[str]:
        return [each["name"] for each in spec.get(key) or ()]

    containers, init = names("containers"), names("initContainers")
    if wanted:
        if wanted not in (*containers, *init, *names("ephemeralContainers")):
            raise errors.bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(containers) == 1:
        return containers[0]
    text = f"a container name must be specified for pod {name}"
    if containers:
        text += f", choose one of: [{' '.join(containers)}]"
        if init:
            text += f" or one of the init containers: [{' '.join(init)}]"
    raise errors.bad_request(text)


def truth(request: Request, name: str) -> bool:
    return request.param(name) in TRUE


# --- pods/log -----------------------------------------------------------------------------------------

LOG_FLAGS = ("follow", "previous", "timestamps", "insecureSkipTLSVerifyBackend")
# Name → (least value, what is said of a smaller one)
LOG_NUMBERS = {
    "sinceSeconds": (1, "must be greater than 0"),
    "tailLines": (0, "must be greater than or equal to 0"),
    "limitBytes": (1, "must be greater than 0"),
}


def log_path(pod: Object, request: Request) -> tuple[str, str]:
    """Path and query of a container's log on its node."""
    query = _log_query(objects.name(pod), request)
    container = container_of(pod, request.param("container"))
    return f"/containerLogs/{_place(pod)}/{quote(container)}", urlencode(query)


def _place(pod: Object) -> str:
    return f"{quote(objects.namespace(pod))}/{quote(objects.name(pod))}"


def _log_query(name: str, request: Request) -> list[tuple[str, str]]:
    query = [(key, "true") for key in LOG_FLAGS[:3] if truth(request, key)]
    causes: list[Cause] = []
    for key, (least, problem) in LOG_NUMBERS.items():
        text = request.param(key)
        if not text:
            continue
        try:
            number = int(text)
        except ValueError as error:
            raise errors.bad_request(
                f'strconv.ParseInt: parsing "{text}": invalid syntax'
            ) from error
        if number < least:
            causes.append(errors.invalid_value(key, number, problem))
        query.append((key, text))
    since = request.param("sinceTime")
    if since:
        try:
            datetime.fromisoformat(since)
        except ValueError as error:
            raise errors.bad_request(
                f'parsing time "{since}" as "2006-01-02T15:04:05Z07:00": cannot parse'
            ) from error
        query.append(("sinceTime", since))
        if request.param("sinceSeconds"):
            causes.append(
                errors.forbidden_field(
                    "", "at most one of `sinceTime` or `sinceSeconds` may be specified"
                )
            )
    stream = request.param("stream")
    if stream:
        if stream not in ("All", "Stdout", "Stderr"):
            causes.append(errors.not_supported("stream", stream, ["All", "Stderr", "Stdout"]))
        query.append(("stream", stream))
    if causes:
        raise errors.invalid("PodLogOptions", name, causes)
    return query


# --- exec, attach, portforward ------------------------------------------------------------------------

STREAMS = {"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"}


def stream_path(kind: str, pod: Object, request: Request) -> tuple[str, str]:
    """Path and query of `exec`, `attach` or `portforward` on the pod's node."""
    if kind == "portforward":
        ports = [each for value in request.params("ports") for each in value.split(",") if each]
        query = [("port", port) for port in ports]
        return f"/portForward/{_place(pod)}", urlencode(query)
    wanted = {key: truth(request, key) for key in STREAMS}
    if "stdout" not in dict(request.pairs()) and kind == "attach":
        wanted["stdout"] = True
    command = request.params("command")
    causes = []
    if not any(wanted[key] for key in ("stdin", "stdout", "stderr")):
        causes.append("you must specify at least 1 of stdin, stdout, stderr")
    if kind == "exec" and not command:
        causes.append("you must specify a command")
    if causes:
        raise errors.bad_request("; ".join(causes))
    container = container_of(pod, request.param("container"))
    query = [(STREAMS[key], "1") for key in STREAMS if wanted[key]]
    query += [("command", word) for word in command] if kind == "exec" else []
    return f"/{kind}/{_place(pod)}/{quote(container)}", urlencode(query)


def node_of(pod: Object) -> str:
    """The pod's node; ApiError when it has none yet."""
    node = (pod.get("spec") or {}).get("nodeName") or ""
    if not node:
        raise errors.bad_request(f"pod {objects.name(pod)} does not have a host assigned")
    return str(node)


# --- proxy --------------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str, str]:
    """(scheme, name, port) of `name`, `name:port` or `scheme:name:port`; what is not said is ""."""
    parts = name.split(":")
    if len(parts) == 1:
        return "", parts[0], ""
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("http", "https", ""):
        return parts[0], parts[1], parts[2]
    raise errors.bad_request(f'invalid name "{name}": expected [scheme:]name[:port]')


def pod_target(pod: Object, scheme: str, port: str, path: str, query: str) -> Target:
    addresses = (pod.get("status") or {}).get("podIPs") or ()
    host = addresses[0].get("ip", "") if addresses else (pod.get("status") or {}).get("podIP") or ""
    if not host:
        raise errors.bad_request("address not allowed")
    ports = [
        each
        for container in (pod.get("spec") or {}).get("containers") or ()
        for each in container.get("ports") or ()
    ]
    number = _pod_port(ports, port)
    return Target(scheme or "http", host, number, path, query)


def _pod_port(ports: Sequence[Object], wanted: str) -> int:
    if not wanted:
        return int(ports[0]["containerPort"]) if ports else 80
    if wanted.isdigit() and 0 < int(wanted) < 65536:
        return int(wanted)
    raise errors.bad_request(f'invalid port "{wanted}"')


def service_targets(
    service: Object, slices: Iterable[Object], scheme: str, port: str, path: str, query: str
) -> list[Target]:
    """One target per ready endpoint of the service's port. Raises ApiError 503 when there is none."""
    name = objects.name(service)
    ports = (service.get("spec") or {}).get("ports") or []
    chosen = None
    for each in ports:
        if (not port and len(ports) == 1) or port in (each.get("name") or "", str(each["port"])):
            chosen = each
            break
    if chosen is None:
        if not port and ports:
            chosen = next((each for each in ports if not each.get("name")), None)
        if chosen is None:
            raise errors.service_unavailable(f'no service port "{port}" found for service "{name}"')
    found = []
    for each in slices:
        number = _slice_port(each, chosen.get("name") or "")
        if not number:
            continue
        for endpoint in each.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            found += [
                Target(scheme or "http", host, number, path, query)
                for host in endpoint.get("addresses") or ()
            ]
    if not found:
        raise errors.service_unavailable(f'no endpoints available for service "{name}"')
    return found


def _slice_port(piece: Object, name: str) -> int:
    for each in piece.get("ports") or ():
        if (each.get("name") or "") == name and each.get("port"):
            return int(each["port"])
    return 0


def refused(code: int, text: str) -> ApiError:
    """What a backend said with a status of 400 or more, as an error of ours."""
    text = text.strip() or "unknown"
    makers = {
        400: errors.bad_request,
        401: errors.unauthorized,
        503: errors.service_unavailable,
        500: errors.internal,
    }
    if code in makers:
        return makers[code](text)
    reasons = {403: "Forbidden", 404: "NotFound", 409: "Conflict", 429: "TooManyRequests"}
    return ApiError(code, reasons.get(code, ""), text)
