"""Server-side apply through real clients: kubectl as it is typed, and the Python client's dynamic client."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver_harness import Harness, config_map, deployment, open_server
from kubernetes import config, dynamic
from kubernetes.client import exceptions

KUBECTL = shutil.which("kubectl") or str(Path(__file__).parents[2] / ".cache/clients/kubectl")
pytestmark = pytest.mark.skipif(not os.access(KUBECTL, os.X_OK), reason="kubectl is not installed")

Object = dict[str, Any]


class Terminal:
    """kubectl with the server's kubeconfig."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.kubeconfig = str(harness.server.config.kubeconfig)

    async def run(self, *words: str, stdin: Object | None = None) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": self.kubeconfig, "HOME": "/nonexistent"},
        )
        text = yaml.safe_dump(stdin).encode() if stdin is not None else b""
        async with asyncio.timeout(30):
            out, err = await process.communicate(text)
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, *words: str, stdin: Object | None = None) -> str:
        code, out, err = await self.run(*words, stdin=stdin)
        assert code == 0, err
        return out

    async def fails(self, *words: str, stdin: Object | None = None) -> str:
        code, _, err = await self.run(*words, stdin=stdin)
        assert code != 0
        return err

    async def managers(self, *what: str) -> dict[str, str]:
        """Operation by manager."""
        obj = json.loads(await self("get", *what, "-o", "json", "--show-managed-fields"))
        return {
            entry["manager"]: entry["operation"]
            for entry in obj["metadata"].get("managedFields", ())
        }


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Terminal]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    yield Terminal(harness)
    await harness.server.close()
    await harness.store.close()


SERVER_SIDE = ("apply", "--server-side", "-f", "-")


async def test_apply_conflict_and_force(kubectl: Terminal) -> None:
    web = deployment("web", 1)
    assert await kubectl(*SERVER_SIDE, stdin=web) == "deployment.apps/web serverside-applied\n"
    assert await kubectl(*SERVER_SIDE, stdin=web) == "deployment.apps/web serverside-applied\n"
    await kubectl("scale", "deployment/web", "--replicas=3")
    refused = await kubectl.fails(*SERVER_SIDE, "--field-manager=ci", stdin=deployment("web", 2))
    assert "Apply failed with 1 conflict" in refused
    assert (
        'conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas' in refused
    )
    await kubectl(
        *SERVER_SIDE, "--field-manager=ci", "--force-conflicts", stdin=deployment("web", 2)
    )
    found = json.loads(await kubectl("get", "deployment/web", "-o", "json"))
    assert found["spec"]["replicas"] == 2
    assert "managedFields" not in found["metadata"], "kubectl hides them unless asked"


async def test_after_client_side_apply(kubectl: Terminal) -> None:
    """kubectl itself moves the managers of client-side apply, and the server lets it go on without a conflict."""
    await kubectl("apply", "-f", "-", stdin=config_map("m", a="1", b="1"))
    assert await kubectl.managers("configmap", "m") == {"kubectl-client-side-apply": "Update"}
    await kubectl(*SERVER_SIDE, stdin=config_map("m", a="2"))
    found = json.loads(await kubectl("get", "configmap/m", "-o", "json"))
    assert found["data"] == {"a": "2"}, "what the intent no longer has is gone"
    assert await kubectl.managers("configmap", "m") == {
        "kubectl": "Apply",
        "kubectl-last-applied": "Apply",
    }
    last = found["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
    assert json.loads(last)["data"] == {"a": "2"}
    # … and back: the annotation was kept up to date.
    await kubectl("apply", "-f", "-", stdin=config_map("m", c="3"))
    found = json.loads(await kubectl("get", "configmap/m", "-o", "json"))
    assert found["data"] == {"c": "3"}


async def test_dry_run_and_diff(kubectl: Terminal) -> None:
    shown = await kubectl(*SERVER_SIDE, "--dry-run=server", "-o", "yaml", stdin=config_map("m"))
    assert yaml.safe_load(shown)["data"] == {"a": "b"}
    assert "NotFound" in await kubectl.fails("get", "configmap/m")
    await kubectl(*SERVER_SIDE, stdin=config_map("m"))
    code, out, _ = await kubectl.run(
        "diff", "--server-side", "-f", "-", stdin=config_map("m", a="c")
    )
    assert code == 1 and "+  a: c" in out and "-  a: b" in out


async def test_status_and_shown_managers(kubectl: Terminal) -> None:
    await kubectl(*SERVER_SIDE, stdin=deployment("web"))
    status = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "status": {"replicas": 1},
    }
    words = (*SERVER_SIDE, "--subresource=status", "--field-manager=reporter")
    await kubectl(*words, stdin=status)
    shown = yaml.safe_load(
        await kubectl("get", "deployment/web", "-o", "yaml", "--show-managed-fields")
    )
    reporter = next(
        entry for entry in shown["metadata"]["managedFields"] if entry["manager"] == "reporter"
    )
    assert reporter["subresource"] == "status" and reporter["operation"] == "Apply"
    assert reporter["fieldsV1"] == {"f:status": {"f:replicas": {}}}
    wrong = {**deployment("web"), "spec": {**deployment("web")["spec"], "repicas": 2}}
    refused = await kubectl.fails(*SERVER_SIDE, "--validate=ignore", stdin=wrong)
    assert ".spec.repicas: field not declared in schema" in refused


async def test_edits_of_others_stay_theirs(kubectl: Terminal) -> None:
    await kubectl(*SERVER_SIDE, stdin=config_map("m", a="1"))
    await kubectl("label", "configmap/m", "team=blue")
    await kubectl("annotate", "configmap/m", "note=x")
    await kubectl(*SERVER_SIDE, stdin=config_map("m", a="2"))
    found = json.loads(await kubectl("get", "configmap/m", "-o", "json", "--show-managed-fields"))
    assert found["metadata"]["labels"] == {"team": "blue"}
    names = {entry["manager"] for entry in found["metadata"]["managedFields"]}
    assert names == {"kubectl", "kubectl-label", "kubectl-annotate"}


async def test_a_custom_resource_is_merged_by_its_schema(kubectl: Terminal) -> None:
    items = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "deck": {"type": "integer"}},
        "required": ["name"],
    }
    cargo = {
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    spec = {"type": "object", "properties": {"cargo": cargo, "crew": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": spec}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
            "versions": [
                {
                    "name": name,
                    "served": True,
                    "storage": name == "v1",
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"scale": {"specReplicasPath": ".spec.crew", "statusReplicasPath": ".status.crew"}},
                }
                for name in ("v1", "v2")
            ],
        },
    }  # fmt: skip
    await kubectl("create", "-f", "-", stdin=definition)
    await kubectl("wait", "--for=condition=Established", "crd/boats.example.org", "--timeout=10s")

    def boat(version: str = "v1", **said: Any) -> Object:
        return {
            "apiVersion": f"example.org/{version}",
            "kind": "Boat",
            "metadata": {"name": "b"},
            "spec": said,
        }

    one, other = {"name": "tea", "deck": 1}, {"name": "silk", "deck": 2}
    await kubectl(*SERVER_SIDE, "--field-manager=a", stdin=boat(cargo=[one], crew=3))
    await kubectl(*SERVER_SIDE, "--field-manager=b", stdin=boat("v2", cargo=[other]))
    found = json.loads(await kubectl("get", "boat/b", "-o", "json"))
    assert found["spec"] == {"cargo": [one, other], "crew": 3}
    moved = {"name": "tea", "deck": 9}
    refused = await kubectl.fails(
        *SERVER_SIDE, "--field-manager=b", stdin=boat("v2", cargo=[moved])
    )
    assert 'conflict with "a": .spec.cargo[name="tea"].deck' in refused
    await kubectl("scale", "boat/b", "--replicas=5")
    refused = await kubectl.fails(
        *SERVER_SIDE, "--field-manager=a", stdin=boat(cargo=[one], crew=3)
    )
    assert 'conflict with "kubectl" with subresource "scale"' in refused and ".spec.crew" in refused
    await kubectl(*SERVER_SIDE, "--field-manager=b", stdin=boat("v2"))
    found = json.loads(await kubectl("get", "boat/b", "-o", "json", "--show-managed-fields"))
    assert found["spec"] == {"cargo": [one], "crew": 5}
    assert {entry["manager"] for entry in found["metadata"]["managedFields"]} == {
        "a",
        "b",
        "kubectl",
    }
    refused = await kubectl.fails(*SERVER_SIDE, "--validate=ignore", stdin=boat(captain="x"))
    assert ".spec.captain: field not declared in schema" in refused


async def test_the_dynamic_client_applies(kubectl: Terminal) -> None:
    def work() -> None:
        with config.new_client_from_config(kubectl.kubeconfig) as api:
            maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
            body = config_map("m", a="1")
            made = maps.server_side_apply(body=body, namespace="default", field_manager="py")
            assert made.data.a == "1" and made.metadata.managedFields[0].operation == "Apply"
            with pytest.raises(exceptions.ApiException) as caught:
                body = config_map("m", a="2")
                maps.server_side_apply(body=body, namespace="default", field_manager="other")
            assert caught.value.status == 409
            made = maps.server_side_apply(
                body=body, namespace="default", field_manager="other", force_conflicts=True
            )
            assert made.data.a == "2"

    await asyncio.to_thread(work)
