"""The quota controller against the real API server: it counts, and what is deleted gives its room back."""

from __future__ import annotations

import pytest

from sampan.client.resources import CONFIGMAPS, RESOURCEQUOTAS, SECRETS
from sampan.kube.errors import ApiError


def quota(**hard):
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": hard},
    }


def secret(name):
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
    }


def used(**amounts):
    return lambda quotas: any((q.get("status") or {}).get("used") == amounts for q in quotas)


async def test_a_new_quota_counts_what_is_there(world):
    await world.client.create(SECRETS, secret("one"), "default")
    await world.until(CONFIGMAPS, lambda found: found)
    await world.client.create(RESOURCEQUOTAS, quota(secrets="5", configmaps="3"), "default")
    await world.until(RESOURCEQUOTAS, used(secrets="1", configmaps="1"))


async def test_what_is_deleted_gives_its_room_back(world):
    await world.client.create(RESOURCEQUOTAS, quota(secrets="2"), "default")
    await world.until(RESOURCEQUOTAS, used(secrets="0"))
    for name in ("a", "b"):
        await world.client.create(SECRETS, secret(name), "default")
    with pytest.raises(ApiError, match="exceeded quota: q"):
        await world.client.create(SECRETS, secret("c"), "default")
    await world.client.delete(SECRETS, "a", "default")
    await world.until(RESOURCEQUOTAS, used(secrets="1"))
    await world.client.create(SECRETS, secret("c"), "default")


async def test_limits_that_others_wrote_into_the_status_are_put_right(world):
    await world.client.create(RESOURCEQUOTAS, quota(secrets="2"), "default")
    await world.until(RESOURCEQUOTAS, used(secrets="0"))
    spoilt = {"status": {"hard": {"secrets": "7"}}}
    patched = await world.client.patch(RESOURCEQUOTAS, "q", spoilt, "default", subresource="status")
    assert patched["status"]["hard"] == {"secrets": "7"}
    await world.until(
        RESOURCEQUOTAS, lambda quotas: quotas[0]["status"]["hard"] == {"secrets": "2"}
    )


async def test_a_changed_limit_is_shown_and_new_kinds_are_counted(world):
    made = await world.client.create(RESOURCEQUOTAS, quota(secrets="2"), "default")
    await world.until(RESOURCEQUOTAS, used(secrets="0"))
    await world.client.create(SECRETS, secret("a"), "default")
    made = await world.client.get(RESOURCEQUOTAS, "q", "default")
    made["spec"]["hard"] = {"secrets": "1", "count/leases.coordination.k8s.io": "4"}
    await world.client.update(RESOURCEQUOTAS, made)
    await world.until(
        RESOURCEQUOTAS, used(**{"secrets": "1", "count/leases.coordination.k8s.io": "0"})
    )
