"""What object-backed volumes hold: configMap, secret, downwardAPI and projected turned into files. Pure.

Tokens are asked for before and passed in by their path: this module never waits.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from sampan.node import environment, podspec
from sampan.node.environment import Lookup, NodeFacts
from sampan.node.errors import VolumeError
from sampan.node.podspec import Object
from sampan.node.volumes.atomic import File, Payload

KINDS = ("configMap", "secret", "downwardAPI", "projected")
DEFAULT_MODE = 0o644
TOKEN_MODE = 0o600


def make(
    pod: Object, volume: Object, lookup: Lookup, facts: NodeFacts, tokens: Mapping[str, str]
) -> Payload:
    """Files of the volume. Raises VolumeError when an object or key is missing that is not optional."""
    if source := volume.get("configMap"):
        return _configmap(source, source.get("name", ""), _mode(source), lookup)
    if source := volume.get("secret"):
        return _secret(source, source.get("secretName", ""), _mode(source), lookup)
    if (source := volume.get("downwardAPI")) is not None:
        return _downward(source, _mode(source), pod, facts)
    files: Payload = {}
    source = volume["projected"]
    mode = _mode(source)
    for part in source.get("sources") or ():
        if item := part.get("configMap"):
            files |= _configmap(item, item.get("name", ""), mode, lookup)
        elif item := part.get("secret"):
            files |= _secret(item, item.get("name", ""), mode, lookup)
        elif (item := part.get("downwardAPI")) is not None:
            files |= _downward(item, mode, pod, facts)
        elif item := part.get("serviceAccountToken"):
            owner = _single_user(pod)
            shared = owner is None and _group(pod) is None
            files[item["path"]] = File(
                tokens[item["path"]].encode(),
                mode if shared else TOKEN_MODE,
                -1 if owner is None else owner,
            )
        elif part:
            raise VolumeError(f"projected source {next(iter(part))} is not supported")
    return files


def token_requests(volume: Object) -> list[Object]:
    """The serviceAccountToken sources of a projected volume."""
    sources = (volume.get("projected") or {}).get("sources") or ()
    return [part["serviceAccountToken"] for part in sources if part.get("serviceAccountToken")]


def _mode(source: Object) -> int:
    given = source.get("defaultMode")
    return DEFAULT_MODE if given is None else int(given)


def _group(pod: Object) -> int | None:
    return (pod["spec"].get("securityContext") or {}).get("fsGroup")


def _single_user(pod: Object) -> int | None:
    """The user that every container runs as, when the spec says one (KEP-1205: who may read the token)."""
    shared = (pod["spec"].get("securityContext") or {}).get("runAsUser")
    users = {
        (named.container.get("securityContext") or {}).get("runAsUser", shared)
        for named in podspec.containers(pod)
    }
    return users.pop() if len(users) == 1 else None


def _configmap(source: Object, name: str, mode: int, lookup: Lookup) -> Payload:
    found = lookup.configmap(name)
    if found is None:
        if source.get("optional"):
            return {}
        raise VolumeError(f'configmap "{name}" not found')
    data = {k: v.encode() for k, v in (found.get("data") or {}).items()}
    data |= {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}
    return _select(data, source, mode)


def _secret(source: Object, name: str, mode: int, lookup: Lookup) -> Payload:
    found = lookup.secret(name)
    if found is None:
        if source.get("optional"):
            return {}
        raise VolumeError(f'secret "{name}" not found')
    data = {k: base64.b64decode(v or "") for k, v in (found.get("data") or {}).items()}
    return _select(data, source, mode)


def _select(data: Mapping[str, bytes], source: Object, mode: int) -> Payload:
    items = source.get("items")
    if not items:
        return {name: File(content, mode) for name, content in data.items()}
    files: Payload = {}
    for item in items:
        if item["key"] not in data:
            if source.get("optional"):
                continue
            raise VolumeError(f"references non-existent config key: {item['key']}")
        own = item.get("mode")
        files[item["path"]] = File(data[item["key"]], mode if own is None else int(own))
    return files


def _downward(source: Object, mode: int, pod: Object, facts: NodeFacts) -> Payload:
    files: Payload = {}
    for item in source.get("items") or ():
        own = item.get("mode")
        files[item["path"]] = File(
            _downward_value(item, pod, facts).encode(), mode if own is None else int(own)
        )
    return files


def _downward_value(item: dict[str, Any], pod: Object, facts: NodeFacts) -> str:
    if ref := item.get("fieldRef"):
        try:
            return environment.field_value(pod, ref["fieldPath"], facts)
        except KeyError:
            raise VolumeError(f"field label not supported: {ref['fieldPath']}") from None
    ref = item["resourceFieldRef"]
    named = podspec.find(pod, ref.get("containerName") or "")
    if named is None:
        raise VolumeError(f"container {ref.get('containerName')!r} not found in the pod")
    return environment.resource_value(named.container, ref, facts)
