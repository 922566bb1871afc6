"""Discovery: what is served, told in the two forms that clients ask for, both made from the resource table.

`/api` and `/apis` answer with the aggregated form (KEP-3352, `apidiscovery.k8s.io/v2`) when the Accept header prefers
it, which is one round trip for a whole `kubectl`; else with the old tree of group, version and resource lists, as JSON
or YAML. Every document is encoded once and kept until the table changes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

from sampan.apiserver.documents import Document, media_types
from sampan.apiserver.negotiate import JSON, YAML, YAML_TYPES, speaks_only
from sampan.apiserver.present import to_yaml
from sampan.apiserver.resources import Table
from sampan.apiserver.resources.model import Resource
from sampan.client.transport import Request, Response
from sampan.kube import errors

AGGREGATED_GROUP = "apidiscovery.k8s.io"
AGGREGATED_KIND = "APIGroupDiscoveryList"
AGGREGATED_VERSION = "v2"
AGGREGATED_TYPE = (
    f"application/json;g={AGGREGATED_GROUP};v={AGGREGATED_VERSION};as={AGGREGATED_KIND}"
)

AGGREGATED = (AGGREGATED_GROUP, AGGREGATED_VERSION, AGGREGATED_KIND)
ANYTHING = ("application/*", "*/*")


class Discovery:
    """Answers GET of /api, /apis and what is below them down to a version. `address` is told to pod-side clients."""

    def __init__(self, table: Table, address: str = "") -> None:
        self.table = table
        self.address = address
        self._documents: dict[str, Document] = {}
        self._generation = -1

    def respond(self, request: Request) -> Response | None:
        """The answer; None when the path is not one of discovery's. Raises ApiError for a group that is not there."""
        parts = request.path.strip("/").split("/")
        if parts[0] not in ("api", "apis") or len(parts) > (2 if parts[0] == "api" else 3):
            return None
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed("", request.method)
        key = "/".join(parts)
        form = wanted_form(request.header("accept"), root=len(parts) == 1)
        return self._document(key, parts, form).respond(request)

    def _document(self, key: str, parts: list[str], form: str) -> Document:
        if self._generation != self.table.generation:
            self._documents.clear()
            self._generation = self.table.generation
        key += form
        document = self._documents.get(key)
        if document is None:
            if form == AGGREGATED_TYPE:
                content = aggregated_list(self.table, core=parts[0] == "api")
            else:
                content = self._legacy(parts)
            document = self._documents[key] = in_form(content, form)
        return document

    def _legacy(self, parts: list[str]) -> dict[str, Any]:
        groups = dict(self.table.groups())
        match parts:
            case ["api"]:
                return {
                    "kind": "APIVersions",
                    "versions": groups.get("", []),
                    "serverAddressByClientCIDRs": [
                        {"clientCIDR": "0.0.0.0/0", "serverAddress": self.address}
                    ],
                }
            case ["api", version] if version in groups.get("", ()):
                return resource_list("", version, self.table.in_version("", version))
            case ["apis"]:
                listed = [api_group(name, versions) for name, versions in groups.items() if name]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
            case ["apis", group] if group and group in groups:
                return {"kind": "APIGroup", "apiVersion": "v1"} | api_group(group, groups[group])
            case ["apis", group, version] if group and version in groups.get(group, ()):
                return resource_list(group, version, self.table.in_version(group, version))
        raise errors.path_not_found()


def wanted_form(accept: str, *, root: bool) -> str:
    """The content type that a client wants most of those we have. Raises ApiError 406 when it takes none.

    Only a root document has the aggregated form.
    """
    for name, parameters in media_types(accept or "*/*"):
        if "as" in parameters:
            asked = parameters.get("g"), parameters.get("v"), parameters["as"]
            if root and name == JSON and asked == AGGREGATED:
                return AGGREGATED_TYPE
        elif name == JSON or name in ANYTHING:
            return JSON
        elif name in YAML_TYPES:
            return YAML
    raise speaks_only(JSON, YAML)


def in_form(content: dict[str, Any], form: str) -> Document:
    body = orjson.dumps(content)
    return Document(to_yaml(body) if form == YAML else body, form)


def api_group(name: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def resource_list(group: str, version: str, rows: Iterable[Resource]) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    for row in rows:
        entry: dict[str, Any] = {
            "name": row.name,
            "singularName": row.singular,
            "namespaced": row.namespaced,
            "kind": row.kind,
            "verbs": shown_verbs(row),
        }
        if row.short_names:
            entry["shortNames"] = list(row.short_names)
        if row.categories:
            entry["categories"] = list(row.categories)
        if "get" in row.verbs and "create" in row.verbs:
            entry["storageVersionHash"] = storage_version_hash(row)
        listed.append(entry)
        for sub in row.subresources:
            other = {"group": sub.group, "version": sub.version} if sub.version else {}
            listed.append(
                {
                    "name": f"{row.name}/{sub.name}",
                    "singularName": "",
                    "namespaced": row.namespaced,
                    **other,
                    "kind": sub.kind,
                    "verbs": list(sub.verbs),
                }
            )
    listed.sort(key=lambda entry: entry["name"])
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": listed,
    }


def shown_verbs(row: Resource) -> list[str]:
    """Of a kind whose definition is being deleted, clients are shown only what still makes sense."""
    if row.custom is not None and row.custom.definition.terminating:
        return [verb for verb in row.verbs if verb not in ("create", "patch", "update")]
    return list(row.verbs)


def storage_version_hash(row: Resource) -> str:
    """As kube-apiserver derives it, so that a storage migrator sees the same values."""
    group, _, version = row.storage_version.rpartition("/")
    name = f"{group}/{version}/{row.kind}"
    return base64.b64encode(hashlib.sha256(name.encode()).digest()[:8]).decode()


def aggregated_list(table: Table, *, core: bool) -> dict[str, Any]:
    items = []
    for group, versions in table.groups():
        if (group == "") != core:
            continue
        items.append(
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": version,
                        "resources": [_aggregated(row) for row in table.in_version(group, version)],
                        "freshness": "Current",
                    }
                    for version in versions
                ],
            }
        )
    return {
        "kind": AGGREGATED_KIND,
        "apiVersion": f"{AGGREGATED_GROUP}/{AGGREGATED_VERSION}",
        "metadata": {},
        "items": items,
    }


def _aggregated(row: Resource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "resource": row.name,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": shown_verbs(row),
    }
    if row.short_names:
        entry["shortNames"] = list(row.short_names)
    if row.categories:
        entry["categories"] = list(row.categories)
    if row.subresources:
        entry["subresources"] = [
            {
                "subresource": sub.name,
                "responseKind": {
                    "group": sub.group if sub.version else row.group,
                    "version": sub.version or row.version,
                    "kind": sub.kind,
                },
                "verbs": list(sub.verbs),
            }
            for sub in sorted(row.subresources, key=lambda sub: sub.name)
        ]
    return entry
