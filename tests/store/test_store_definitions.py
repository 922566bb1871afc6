"""Custom resources on two API servers of one cluster: a definition that came through one is served by the other."""

import asyncio

import pytest
from test_store_servers import pair

from sampan.client.resources import CUSTOMRESOURCEDEFINITIONS
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition_true
from sampan.kube.types import GVR

__all__ = ["pair"]

NAME = "boats.fleet.example.com"
BOATS = GVR("fleet.example.com", "v1", "boats")


def definition(crew):
    spec = {"type": "object", "properties": {"crew": {"type": "integer", "default": crew}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": "fleet.example.com",
            "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [version],
        },
    }


def boat(name):
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "fleet.example.com/v1",
        "kind": "Boat",
        "metadata": metadata,
        "spec": {},
    }


async def established(client):
    async with asyncio.timeout(10):
        crd = await client.get(CUSTOMRESOURCEDEFINITIONS, NAME)
        if condition_true(crd, "Established"):
            return
        since = crd["metadata"]["resourceVersion"]
        async for event in client.watch(CUSTOMRESOURCEDEFINITIONS, resource_version=since):
            if condition_true(event.object, "Established"):
                return


async def gone(client):
    async with asyncio.timeout(10):
        listed = await client.list(CUSTOMRESOURCEDEFINITIONS)
        if not listed.items:
            return
        async for event in client.watch(
            CUSTOMRESOURCEDEFINITIONS, resource_version=listed.resource_version
        ):
            if event.type == "DELETED":
                return


async def test_what_one_establishes_the_other_serves(pair):
    one, other = pair.clients
    await one.create(CUSTOMRESOURCEDEFINITIONS, definition(1))
    await established(one)
    # Its very next request may go to the other server.
    made = await other.create(BOATS, boat("a"))
    assert made["spec"] == {"crew": 1}
    assert (await one.get(BOATS, "a", "default")) == made
    crd = await other.get(CUSTOMRESOURCEDEFINITIONS, NAME)
    crd["spec"] = {**crd["spec"], "versions": definition(5)["spec"]["versions"]}
    await other.update(CUSTOMRESOURCEDEFINITIONS, crd)
    assert (await other.create(BOATS, boat("b")))["spec"] == {"crew": 5}
    await one.delete(CUSTOMRESOURCEDEFINITIONS, NAME)
    await gone(other)
    with pytest.raises(ApiError) as refused:
        await other.list(BOATS)
    assert refused.value.code == 404
    # And again, the other way round: nothing is left of it anywhere.
    await other.create(CUSTOMRESOURCEDEFINITIONS, definition(2))
    await established(other)
    assert (await one.list(BOATS)).items == []
    assert (await one.create(BOATS, boat("a")))["spec"] == {"crew": 2}
