"""Claims and volumes that are in use outlive their deletion, against the real API server."""

from __future__ import annotations

from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, PODS


def claim(name):
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": spec,
    }


def user_of(name, node="a"):
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "user", "namespace": "default"},
        "spec": {
            "containers": [{"name": "c", "image": "x"}],
            "volumes": [volume],
            "nodeName": node,
        },
    }


def deleting(name):
    return lambda found: any(
        o["metadata"]["name"] == name and "deletionTimestamp" in o["metadata"] for o in found
    )


def gone(found):
    return not found


async def test_a_claim_stays_while_a_pod_names_it(world):
    await world.client.create(PERSISTENTVOLUMECLAIMS, claim("data"), "default")
    await world.client.create(PODS, user_of("data"), "default")
    await world.until(PODS, lambda found: found)
    await world.client.delete(PERSISTENTVOLUMECLAIMS, "data", "default")
    await world.until(PERSISTENTVOLUMECLAIMS, deleting("data"))
    await world.client.delete(PODS, "user", "default", grace=0)
    await world.until(PERSISTENTVOLUMECLAIMS, gone)


async def test_a_claim_that_nobody_uses_goes_at_once(world):
    """A pod that is on no node uses nothing: it will not start with a claim that is being deleted."""
    await world.client.create(PERSISTENTVOLUMECLAIMS, claim("data"), "default")
    await world.client.create(PODS, user_of("data", node=""), "default")
    await world.until(PODS, lambda found: found)
    await world.client.delete(PERSISTENTVOLUMECLAIMS, "data", "default")
    await world.until(PERSISTENTVOLUMECLAIMS, gone)


async def test_a_volume_stays_while_it_is_bound(world):
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/x"},
    }
    made = await world.client.create(
        PERSISTENTVOLUMES,
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "v"},
            "spec": spec,
        },
    )
    made["status"] = {"phase": "Bound"}
    await world.client.update(PERSISTENTVOLUMES, made, "status")
    await world.client.delete(PERSISTENTVOLUMES, "v")
    (held,) = await world.until(PERSISTENTVOLUMES, lambda f: deleting("v")(f) and f, "*")
    held["status"] = {"phase": "Released"}
    await world.client.update(PERSISTENTVOLUMES, held, "status")
    await world.until(PERSISTENTVOLUMES, gone, "*")
