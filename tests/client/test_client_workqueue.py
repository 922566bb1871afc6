"""WorkQueue: one key is never handled twice at once, none is lost, and delays are timers."""

import asyncio
import random

import pytest
import uvloop

from sampan.client.workqueue import ShutDown, WorkQueue


async def next_key(queue):
    async with asyncio.timeout(5):
        return await queue.get()


async def test_added_many_times_comes_once():
    queue = WorkQueue()
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await next_key(queue), await next_key(queue)] == ["a", "b"]
    assert len(queue) == 0


async def test_added_while_handled_comes_again_after_done():
    queue = WorkQueue()
    queue.add("a")
    assert await next_key(queue) == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0  # not while it is handled
    queue.done("a")
    assert await next_key(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_never_twice_at_once_and_none_lost():
    queue = WorkQueue()
    chance = random.Random(7)
    wanted = dict.fromkeys(range(20), 0)
    seen = dict(wanted)
    handling = set()
    finished = asyncio.Event()
    all_added = False

    async def worker():
        while True:
            key = await queue.get()
            assert key not in handling
            handling.add(key)
            seen[key] = wanted[key]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            handling.discard(key)
            queue.done(key)
            settle()

    def settle():
        if all_added and seen == wanted:
            finished.set()

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(worker()) for _ in range(5)]
        for _ in range(2000):
            key = chance.randrange(20)
            wanted[key] += 1
            queue.add(key)
            if chance.random() < 0.1:
                await asyncio.sleep(0)
        all_added = True
        settle()
        async with asyncio.timeout(10):
            await finished.wait()
        for task in workers:
            task.cancel()
    assert seen == wanted


async def test_the_earliest_delay_counts():
    queue = WorkQueue()
    loop = asyncio.get_running_loop()
    queue.add_after("a", 60)
    began = loop.time()
    queue.add_after("a", 0.02)
    queue.add_after("a", 30)
    assert await next_key(queue) == "a"
    assert 0.015 < loop.time() - began < 5
    queue.add_after("b", 0)
    assert await next_key(queue) == "b"


def test_a_delay_too_short_for_a_timer_counts_too():
    """uvloop, which the server runs on, answers such a one with a Handle that does not know when it is due."""

    async def short_then_long() -> str:
        queue = WorkQueue()
        queue.add_after("a", 0.0001)
        queue.add_after("a", 30)
        return await next_key(queue)

    assert uvloop.run(short_then_long()) == "a"


async def test_rate_limit_doubles_until_forgotten():
    queue = WorkQueue()
    delays = []
    queue.add_after = lambda key, seconds: delays.append(seconds)
    for _ in range(30):
        queue.add_rate_limited("a")
    assert delays[:4] == [0.005, 0.01, 0.02, 0.04]
    assert delays[-1] == 1000.0
    assert queue.failures("a") == 30
    queue.forget("a")
    queue.add_rate_limited("a")
    assert delays[-1] == 0.005


async def test_a_cancelled_getter_loses_nothing():
    queue = WorkQueue()
    first = asyncio.ensure_future(queue.get())
    second = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes `first`, which is cancelled before it runs
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_shut_down_gives_out_what_is_ready_and_then_ends():
    queue = WorkQueue()
    queue.add("a")
    queue.add_after("late", 60)
    waiting = WorkQueue()
    getter = asyncio.ensure_future(waiting.get())
    await asyncio.sleep(0)
    for each in (queue, waiting):
        each.shut_down()
        each.shut_down()
    queue.add("b")
    assert await next_key(queue) == "a"
    with pytest.raises(ShutDown):
        await next_key(queue)
    with pytest.raises(ShutDown):
        await getter
