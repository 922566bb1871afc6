"""A container's environment, command and arguments: pure, from the pod and the objects that it refers to.

What is declared first can be used by what follows as `$(NAME)`; `$$(NAME)` stays literal and an unknown name stays as
it is written. Services' variables come last and never hide a declared one. A missing object or key that is not
optional is a ContainerError worded as kubelet words it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sampan.kube import objects
from sampan.kube.quantity import Quantity, parse
from sampan.node import podspec
from sampan.node.errors import ContainerError
from sampan.node.podspec import Object

CONFIG_ERROR = "CreateContainerConfigError"
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_NAME = re.compile(r"[^=\x00-\x1f\x7f]+")


class Lookup(Protocol):
    """ConfigMaps and Secrets of the pod's namespace, already fetched; None when there is none."""

    def configmap(self, name: str) -> Object | None: ...
    def secret(self, name: str) -> Object | None: ...


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What downward references may ask about the node."""

    host_ips: tuple[str, ...]
    allocatable: Mapping[str, str]


def expand(text: str, values: Mapping[str, str]) -> str:
    def substitute(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return values.get(match.group(1), match.group(0))

    return _REFERENCE.sub(substitute, text) if "$" in text else text


def arguments(container: Object, environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(command, args) with references expanded."""
    command = [expand(text, environment) for text in container.get("command") or ()]
    return command, [expand(text, environment) for text in container.get("args") or ()]


def make(
    pod: Object,
    container: Object,
    lookup: Lookup,
    services: Mapping[str, str],
    facts: NodeFacts,
    pod_ips: tuple[str, ...] = (),
) -> dict[str, str]:
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result.update(_env_from(pod, source, lookup))
    for item in container.get("env") or ():
        origin = item.get("valueFrom")
        if origin:
            value = _value_from(pod, container, origin, lookup, facts, pod_ips)
            if value is None:
                continue
        else:
            value = expand(item.get("value") or "", {**services, **result})
        result[item["name"]] = value
    for name, value in services.items():
        result.setdefault(name, value)
    return result


def _env_from(pod: Object, source: Object, lookup: Lookup) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    if ref := source.get("configMapRef"):
        found = lookup.configmap(ref["name"])
        if found is None and not ref.get("optional"):
            raise ContainerError(f'configmap "{ref["name"]}" not found', CONFIG_ERROR)
        data = (found or {}).get("data") or {}
    elif ref := source.get("secretRef"):
        found = lookup.secret(ref["name"])
        if found is None and not ref.get("optional"):
            raise ContainerError(f'secret "{ref["name"]}" not found', CONFIG_ERROR)
        data = {k: _text(v) for k, v in ((found or {}).get("data") or {}).items()}
    else:
        return {}
    return {prefix + k: v for k, v in sorted(data.items()) if _NAME.fullmatch(prefix + k)}


def _text(encoded: str) -> str:
    return base64.b64decode(encoded or "").decode("utf-8", "surrogateescape")


def _value_from(
    pod: Object,
    container: Object,
    origin: Object,
    lookup: Lookup,
    facts: NodeFacts,
    pod_ips: tuple[str, ...],
) -> str | None:
    namespace = pod["metadata"]["namespace"]
    if ref := origin.get("configMapKeyRef"):
        return _key(lookup.configmap(ref["name"]), ref, "configmap", "ConfigMap", namespace)
    if ref := origin.get("secretKeyRef"):
        value = _key(lookup.secret(ref["name"]), ref, "secret", "Secret", namespace)
        return None if value is None else _text(value)
    if ref := origin.get("fieldRef"):
        try:
            return field_value(pod, ref["fieldPath"], facts, pod_ips)
        except KeyError:
            text = f"field label not supported: {ref['fieldPath']}"
            raise ContainerError(text, CONFIG_ERROR) from None
    if ref := origin.get("resourceFieldRef"):
        named = podspec.find(pod, ref["containerName"]) if ref.get("containerName") else None
        return resource_value(named.container if named else container, ref, facts)
    return ""


def _key(found: Object | None, ref: Object, word: str, kind: str, namespace: str) -> str | None:
    if found is None:
        if ref.get("optional"):
            return None
        raise ContainerError(f'{word} "{ref["name"]}" not found', CONFIG_ERROR)
    value = (found.get("data") or {}).get(ref["key"])
    if value is None and not ref.get("optional"):
        text = f"couldn't find key {ref['key']} in {kind} {namespace}/{ref['name']}"
        raise ContainerError(text, CONFIG_ERROR)
    return value


def field_value(pod: Object, path: str, facts: NodeFacts, pod_ips: tuple[str, ...] = ()) -> str:
    """A downward field as text. KeyError for a path that the API does not have."""
    if match := _SUBSCRIPT.fullmatch(path):
        return (pod["metadata"].get(match.group(1)) or {}).get(match.group(2), "")
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = sorted((pod["metadata"].get(path[9:]) or {}).items())
        return "\n".join(f'{key}="{_quoted(value)}"' for key, value in pairs)
    if not pod_ips:
        status = pod.get("status") or {}
        pod_ips = tuple(item["ip"] for item in status.get("podIPs") or ())
    values = {
        "metadata.name": objects.name(pod),
        "metadata.namespace": objects.namespace(pod),
        "metadata.uid": objects.uid(pod),
        "spec.nodeName": pod["spec"].get("nodeName") or "",
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName") or "",
        "status.hostIP": facts.host_ips[0],
        "status.hostIPs": ",".join(facts.host_ips),
        "status.podIP": pod_ips[0] if pod_ips else "",
        "status.podIPs": ",".join(pod_ips),
    }
    return values[path]


def _quoted(value: str) -> str:
    """As Go's %q for what labels and annotations hold."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return "".join(escapes.get(char, char) for char in value)


def resource_value(container: Object, ref: Object, facts: NodeFacts) -> str:
    """`limits.cpu` and its like in units of the divisor, rounded up. Without a limit: what the node has."""
    kind, _, resource = ref["resource"].partition(".")
    resources = container.get("resources") or {}
    given = (resources.get(kind) or {}).get(resource)
    if given is None and kind == "requests":
        given = (resources.get("limits") or {}).get(resource)
    if given is None:
        given = facts.allocatable.get(resource, "0") if kind == "limits" else "0"
    divisor = parse(ref.get("divisor") or "1")
    if divisor.nanos() == 0:
        divisor = Quantity.of(1)
    return str(-(-parse(given).nanos() // divisor.nanos()))


def service_variables(pod: Object, services: Iterable[Object]) -> dict[str, str]:
    """Of the pod's namespace, unless enableServiceLinks is false; of `kubernetes` always."""
    namespace = pod["metadata"]["namespace"]
    links = pod["spec"].get("enableServiceLinks", True)
    result: dict[str, str] = {}
    chosen: dict[str, Object] = {}
    for service in services:
        home, name = objects.namespace(service), objects.name(service)
        address = service["spec"].get("clusterIP")
        if not address or address == "None" or not service["spec"].get("ports"):
            continue
        master = home == "default" and name == "kubernetes"
        if (links and home == namespace) or (master and name not in chosen):
            chosen[name] = service
    for name, service in sorted(chosen.items()):
        result.update(_service(name, service["spec"]))
    return result


def _service(name: str, spec: dict[str, Any]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    address, ports = spec["clusterIP"], spec["ports"]
    shown = f"[{address}]" if ":" in address else address
    result = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    for port in ports:
        if port.get("name"):
            key = f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"
            result[key] = str(port["port"])
    for index, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{shown}:{port['port']}"
        if index == 0:
            result[f"{prefix}_PORT"] = url
        base = f"{prefix}_PORT_{port['port']}_{protocol.upper()}"
        result[base] = url
        result[f"{base}_PROTO"] = protocol.lower()
        result[f"{base}_PORT"] = str(port["port"])
        result[f"{base}_ADDR"] = address
    return result
