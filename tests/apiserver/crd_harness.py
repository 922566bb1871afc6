"""Definitions for the tests of custom resources, and waiting for what the server does with them."""

from __future__ import annotations

import asyncio
from typing import Any

from apiserver_harness import Harness

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "shop.example.com"
BOATS = f"/apis/{GROUP}/v1/namespaces/default/boats"
STRING, INTEGER = {"type": "string"}, {"type": "integer"}

SPEC = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {**STRING, "maxLength": 10},
        "crew": {**INTEGER, "minimum": 0, "maximum": 10, "default": 1},
        "sail": {**STRING, "enum": ["lug", "gaff"]},
        "cargo": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
    "x-kubernetes-validations": [
        {"rule": "self.name == oldSelf.name", "message": "name is fixed", "fieldPath": ".name"}
    ],
}
STATUS = {
    "type": "object",
    "properties": {"crew": INTEGER, "selector": STRING, "phase": STRING},
}
SCHEMA = {"type": "object", "properties": {"spec": SPEC, "status": STATUS}}


def version(name: str = "v1", *, storage: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": storage,
        "schema": {"openAPIV3Schema": SCHEMA},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.crew",
                "statusReplicasPath": ".status.crew",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"},
            {"name": "Cargo", "type": "string", "jsonPath": ".spec.cargo", "priority": 1},
        ],
        "selectableFields": [{"jsonPath": ".spec.sail"}],
        **more,
    }


def definition(*versions: dict[str, Any], plural: str = "boats", kind: str = "Boat", **spec: Any) -> dict[str, Any]:  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": plural,
                "kind": kind,
                "shortNames": [f"{plural[:2]}"],
                "categories": ["fleet"],
            },
            "versions": list(versions) or [version()],
            **spec,
        },
    }


def boat(name: str, api_version: str = "v1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{api_version}",
        "kind": "Boat",
        "metadata": {"name": name},
        "spec": {"name": name, **spec},
    }


async def seen(api: Harness, path: str, wanted: Any, what: str) -> dict[str, Any]:
    """The object at `path`, once `wanted` is true of it."""
    async with asyncio.timeout(10):
        found = await api.call("GET", path)
        if wanted(found):
            return found
        collection, _, name = path.rpartition("/")
        since = found["metadata"]["resourceVersion"]
        watch = (
            f"{collection}?watch=true&resourceVersion={since}&fieldSelector=metadata.name%3D{name}"
        )
        async for event in api.watch(watch.replace("%3D", "=")):
            if wanted(event["object"]):
                return event["object"]
    raise AssertionError(what)


def has_condition(kind: str, status: str = "True") -> Any:
    def check(crd: dict[str, Any]) -> bool:
        conditions = (crd.get("status") or {}).get("conditions") or ()
        return any(each["type"] == kind and each["status"] == status for each in conditions)

    return check


async def establish(api: Harness, crd: dict[str, Any]) -> dict[str, Any]:
    await api.call("POST", CRDS, crd)
    path = f"{CRDS}/{crd['metadata']['name']}"
    return await seen(api, path, has_condition("Established"), "the definition is established")


async def gone(api: Harness, path: str) -> None:
    """Until there is nothing at `path`."""
    async with asyncio.timeout(10):
        response = await api.send("GET", path)
        if response.status == 404:
            return
        collection, _, name = path.rpartition("/")
        async for event in api.watch(f"{collection}?watch=true&resourceVersion=0"):
            if event["type"] == "DELETED" and event["object"]["metadata"]["name"] == name:
                return
