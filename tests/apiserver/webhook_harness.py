"""Webhook configurations for the tests of admission, and a server to which they point."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from apiserver_harness import Harness
from webhook_server import WebhookServer, webhook_server

Object = dict[str, Any]
GROUP = "/apis/admissionregistration.k8s.io/v1"
VALIDATING = f"{GROUP}/validatingwebhookconfigurations"
MUTATING = f"{GROUP}/mutatingwebhookconfigurations"
ALLOW = {"allowed": True}


@pytest.fixture
async def hook() -> AsyncIterator[WebhookServer]:
    async with webhook_server() as server:
        yield server


def rule(resources: str, operations: str = "*", group: str = "", version: str = "*") -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": [version],
        "resources": resources.split(),
        "operations": operations.split(),
    }


def configuration(kind: str, name: str, *webhooks: Object) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": list(webhooks),
    }


def webhook(hook: WebhookServer, path: str, *rules: Object, **more: Any) -> Object:
    return {
        "name": f"{path.strip('/')}.example.com",
        "clientConfig": hook.config(path),
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": list(rules) or [rule("configmaps")],
        **more,
    }


async def validating(api: Harness, *webhooks: Object, name: str = "v") -> None:
    await api.call("POST", VALIDATING, configuration("Validating", name, *webhooks))


async def mutating(api: Harness, *webhooks: Object, name: str = "m") -> None:
    await api.call("POST", MUTATING, configuration("Mutating", name, *webhooks))


async def refused(api: Harness, method: str, path: str, body: Any = None, **more: Any) -> Object:
    response = await api.send(method, path, body, **more)
    found: Object = orjson.loads(await response.read())
    assert response.status >= 400, found
    assert found["code"] == response.status
    return found
