"""A node that counts as short of memory: its pods are evicted one by one, and the cluster is told why."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from conftest import NODE, Harbour, Pods
from node_process import config_in

from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.kubeconfig import load
from sampan.client.resources import EVENTS, NODES
from sampan.kube.objects import condition, condition_true
from sampan.node.agent import NodeAgent


@pytest.mark.timeout(60)
async def test_pods_are_evicted_and_the_node_says_so(harbour: Harbour, pods: Pods) -> None:
    config = replace(
        config_in(harbour.directory, NODE), eviction_hard={"memory.available": "1000Ti"}
    )
    client = Client(HTTPTransport(load(harbour.kubeconfig)))
    agent = asyncio.ensure_future(NodeAgent(client, config).run())
    try:
        # Who asks for memory is let in under pressure; who asks for nothing is not.
        await pods.create("heavy", container={"resources": {"requests": {"memory": "1Mi"}}})
        gone = await pods.until(
            "heavy", lambda pod: pod.get("status", {}).get("reason") == "Evicted", "evicted"
        )
        assert gone["status"]["phase"] == "Failed"
        assert gone["status"]["message"].startswith("The node was low on resource: memory. ")
        assert condition(gone, "DisruptionTarget")["reason"] == "TerminationByKubelet"
        await pods.create("idle")
        kept_out = await pods.until(
            "idle", lambda pod: pod.get("status", {}).get("phase") == "Failed", "refused"
        )
        assert kept_out["status"]["reason"] == "Evicted"
        assert kept_out["status"]["message"] == (
            "Pod was rejected: The node had condition: [MemoryPressure]. "
        )
        node = await client.get(NODES, NODE)
        assert condition_true(node, "MemoryPressure")
        async with asyncio.timeout(10), aclosing(client.watch(EVENTS, "default")) as events:
            async for event in events:
                if event.object.get("reason") == "Evicted":
                    break
    finally:
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
        await client.close()
