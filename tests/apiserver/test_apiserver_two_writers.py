"""Two writers on one object: in each round exactly one wins, and the other is told so.

The writers go through two API servers on one store, so nothing but the store's compare-and-swap stands between them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
from apiserver_harness import CONTENT, MAPS, Harness, config_map, open_server

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer

ROUNDS = 10_000 if "SAMPAN_SOAK" in os.environ else 2_000
STALE = (
    'Operation cannot be fulfilled on configmaps "one": the object has been modified; please apply your changes to the '
    "latest version and try again"
)


async def open_two(directory: Path) -> tuple[Harness, Harness]:
    first = await open_server(directory)
    await first.server.start(serve=False)
    config = ServerConfig(directory / "pki", directory / "second.yaml", port=0, authorization=False)
    second = Harness(APIServer(first.store, config), first.store)
    await second.server.start(serve=False)
    return first, second


async def put(server: Harness, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
    answer = await server.send("PUT", f"{MAPS}/{name}", body)
    return answer.status, orjson.loads(await answer.read())


async def test_exactly_one_wins_each_round(tmp_path: Path) -> None:
    first, second = await open_two(tmp_path)
    made = await first.call("POST", MAPS, config_map("one"))
    before, wins = first.store.revision, [0, 0]
    for round_ in range(ROUNDS):
        bodies = [orjson.dumps({**made, "data": {"at": f"{round_} {who}"}}) for who in range(2)]
        order = (0, 1) if round_ % 2 else (1, 0)  # who comes first, alternating
        writes = [put((first, second)[who], "one", bodies[who]) for who in order]
        answers = dict(zip(order, await asyncio.gather(*writes), strict=True))
        (winner,) = [who for who, (status, _) in answers.items() if status == 200]
        status, refusal = answers[1 - winner]
        assert (status, refusal["reason"], refusal["message"]) == (409, "Conflict", STALE)
        made = answers[winner][1]
        assert made["data"] == {"at": f"{round_} {winner}"}
        wins[winner] += 1
    assert first.store.revision == before + ROUNDS  # the losers wrote nothing
    for server in (first, second):
        assert await server.call("GET", f"{MAPS}/one") == made
    assert min(wins) > 0
    await second.server.close()
    await first.server.close()
    await first.store.close()


async def test_exactly_one_creates(tmp_path: Path) -> None:
    first, second = await open_two(tmp_path)
    for round_ in range(ROUNDS // 100):
        body = config_map(f"m{round_}")
        answers = await asyncio.gather(*(each.send("POST", MAPS, body) for each in (first, second)))
        assert sorted(answer.status for answer in answers) == [201, 409]
        (refused,) = [answer for answer in answers if answer.status == 409]
        status = orjson.loads(await refused.read())
        assert status["reason"] == "AlreadyExists"
        assert status["message"] == f'configmaps "m{round_}" already exists'
    await second.server.close()
    await first.server.close()
    await first.store.close()


async def test_every_patch_without_a_version_lands(tmp_path: Path) -> None:
    """Who does not say what was read is not in the way of others: the server reads again and tries again."""
    first, second = await open_two(tmp_path)
    await first.call("POST", MAPS, config_map("one"))
    for round_ in range(ROUNDS // 100):
        patches = [orjson.dumps({"data": {f"{who}-{round_}": "x"}}) for who in range(2)]
        answers = await asyncio.gather(
            *(
                server.send("PATCH", f"{MAPS}/one", patch, CONTENT["merge"])
                for server, patch in zip((first, second), patches, strict=True)
            )
        )
        assert [answer.status for answer in answers] == [200, 200]
    found = await first.call("GET", f"{MAPS}/one")
    assert len(found["data"]) == 1 + 2 * (ROUNDS // 100)
    await second.server.close()
    await first.server.close()
    await first.store.close()
