"""A kind of boats, established, for the tests of custom resources."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver_harness import Harness
from crd_harness import (
    GROUP,
    definition,
    establish,
)

NAME = f"boats.{GROUP}"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.fixture
async def boats(api: Harness) -> Harness:
    await establish(api, definition())
    return api


async def refused(api: Harness, method: str, path: str, body: Any, status: int, **more: Any) -> str:
    return (await api.call(method, path, body, status, **more))["message"]
