"""What happens to a machine's pod while somebody waits for it: its events, as lines, and when it is time to give up.

A pod whose sandbox cannot be made says so in its events alone: its status goes on reading `ContainerCreating`, for the node
tries it again for ever. Who waits is told each reason once, and waits no longer when the same one has come three times.
"""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Any

from sampan.cli.vmapi import VMError, step
from sampan.client.client import Client
from sampan.client.resources import EVENTS, PODS
from sampan.kube.errors import ApiError

Object = dict[str, Any]
TOLD = ("Pulling",)  # of the ordinary ones, those that take long
SANDBOX = "FailedCreatePodSandBox"
ENOUGH = 3  # attempts that failed in the same words


async def tell(client: Client, name: str, namespace: str, *, starts: bool) -> None:
    """Until it is cancelled. Raises VMError when a machine that is to start has failed to, in the same words, often enough."""
    told, failures = set[str](), Counter[str]()
    while True:
        selector = f"involvedObject.kind=Pod,involvedObject.name={name}"
        watch = client.watch(EVENTS, namespace, field_selector=selector)
        async with aclosing(watch) as events:  # type: ignore[type-var]
            async for each in events:
                if each.type in ("DELETED", "BOOKMARK") or not wanted(each.object):
                    continue
                if not await is_of_now(client, each.object):
                    continue
                text = each.object.get("message", "")
                line = f"{each.object['reason']}  {text}"
                if line not in told:
                    told.add(line)
                    step(line)
                if each.object["reason"] == SANDBOX:
                    failures[text] = max(failures[text] + 1, each.object.get("count") or 0)
                    if starts and failures[text] >= ENOUGH:
                        raise VMError(
                            f"{name} does not start: {text}. It is tried again all the while; "
                            f"to give it up: sampan vm rm {name}"
                        )


def wanted(event: Object) -> bool:
    return event.get("type") == "Warning" or event.get("reason") in TOLD


async def is_of_now(client: Client, event: Object) -> bool:
    """An event outlives its pod: of an earlier one of the same name it says nothing about this."""
    about = event["involvedObject"]
    try:
        pod = await client.get(PODS, about["name"], about["namespace"])
    except ApiError:
        return False
    return bool(pod["metadata"]["uid"] == about.get("uid"))
