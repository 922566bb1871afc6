"""What an extension server must know to trust us: `kube-system/extension-apiserver-authentication`.

The name, the keys and their values' forms are Kubernetes' own; every library for extension servers reads them
(https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.pki import FRONT_PROXY_CLIENT

if TYPE_CHECKING:
    from sampan.apiserver.pki import PKIPaths
    from sampan.apiserver.server import APIServer

NAMESPACE, NAME = "kube-system", "extension-apiserver-authentication"


def data(pki: PKIPaths) -> dict[str, str]:
    def several(*names: str) -> str:
        return orjson.dumps(names).decode()

    return {
        "client-ca-file": pki.ca.crt.read_text(),
        "requestheader-client-ca-file": pki.front_proxy_ca.crt.read_text(),
        "requestheader-allowed-names": several(FRONT_PROXY_CLIENT),
        "requestheader-username-headers": several("X-Remote-User"),
        "requestheader-uid-headers": several("X-Remote-Uid"),
        "requestheader-group-headers": several("X-Remote-Group"),
        "requestheader-extra-headers-prefix": several("X-Remote-Extra-"),
    }


async def publish(server: APIServer) -> None:
    """The ConfigMap says this on return; what others have added to it stays."""
    row = server.table.lookup("", "v1", "configmaps")
    assert row is not None
    wanted = data(server.pki)
    entry = await server.registry.find(row, NAMESPACE, NAME)
    if entry is None:
        found: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
        }
        await server.registry.place(row, {**found, "data": wanted})
        return
    found = entry.object()
    merged = {**(found.get("data") or {}), **wanted}
    if merged != found.get("data"):
        await server.registry.place(row, {**found, "data": merged}, entry.revision)
