"""Leader election against a real API server: one leads, hand-over is prompt, and a silent holder is waited out."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.errors import Unreachable
from sampan.client.inprocess import InProcess
from sampan.client.leader import LeaderElection
from sampan.client.resources import LEASES
from sampan.client.transport import User
from sampan.store.sqlite import SQLiteStore

DEADLINE = 20
ADMIN = User("admin", ("system:masters",))
QUICK = {"lease_duration": 1.0, "renew_deadline": 0.6, "retry": 0.1}


@pytest.fixture
async def server(tmp_path):
    store = await SQLiteStore.open(tmp_path / "state.db")
    config = ServerConfig(tmp_path / "pki", tmp_path / "kubeconfig", port=0, authorization=False)
    api = APIServer(store, config)
    await api.start(serve=False)
    yield api
    await api.close()
    await store.close()


class Line(InProcess):
    """A way to the server that can be cut."""

    cut = False

    async def send(self, request):
        if self.cut:
            raise Unreachable("server", "the line is cut")
        return await super().send(request)


class Candidate:
    def __init__(self, server, name, **times):
        self.line = Line(server, ADMIN)
        self.client = Client(self.line)
        self.election = LeaderElection(self.client, "work", name, **{**QUICK, **times})
        self.leads = asyncio.Event()
        self.lost = asyncio.Event()

    async def work(self):
        assert not WORKING, "two lead at once"
        WORKING.append(self)
        self.leads.set()
        self.lost.clear()
        try:
            await asyncio.Event().wait()
        finally:
            WORKING.remove(self)
            self.leads.clear()
            self.lost.set()

    @asynccontextmanager
    async def running(self):
        task = asyncio.ensure_future(self.election.run(self.work))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


WORKING = []


@pytest.fixture(autouse=True)
def nobody():
    WORKING.clear()


async def lease(candidate):
    return (await candidate.client.get(LEASES, "work", "kube-system"))["spec"]


async def test_one_of_three_leads_and_hands_over_at_once(server):
    # With real times: what is handed back is taken long before it would end.
    candidates = [
        Candidate(server, name, lease_duration=15.0, renew_deadline=10.0, retry=2.0)
        for name in "abc"
    ]
    async with asyncio.timeout(DEADLINE), candidates[0].running() as first:
        await candidates[0].leads.wait()
        async with candidates[1].running(), candidates[2].running():
            loop = asyncio.get_running_loop()
            while len([c for c in candidates[1:] if c.election.holder == "a"]) < 2:
                await asyncio.sleep(0)
            assert [candidates[0]] == WORKING
            asked = loop.time()
            first.cancel()
            waits = [asyncio.ensure_future(c.leads.wait()) for c in candidates[1:]]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            assert loop.time() - asked < 5
            for wait in waits:
                wait.cancel()
            spec = await lease(candidates[1])
            assert spec["holderIdentity"] in ("b", "c")
            assert spec["leaseTransitions"] >= 1
            assert spec["leaseDurationSeconds"] == 15
    spec = await lease(candidates[1])
    assert not spec.get("holderIdentity")


async def test_a_cut_off_leader_stops_before_another_begins(server):
    first, second = Candidate(server, "a"), Candidate(server, "b")
    async with asyncio.timeout(DEADLINE), first.running():
        await first.leads.wait()
        async with second.running():
            first.line.cut = True
            await first.lost.wait()  # `work` asserts that the second has not begun
            await second.leads.wait()
            assert (await lease(second))["holderIdentity"] == "b"
            first.line.cut = False
            while first.election.holder != "b":
                await asyncio.sleep(0)
            assert [second] == WORKING


async def test_a_lone_candidate_leads_at_once_and_renews(server):
    only = Candidate(server, "a")
    async with asyncio.timeout(DEADLINE), only.running():
        await only.leads.wait()
        taken = (await lease(only))["renewTime"]
        watch = only.client.watch(LEASES, "kube-system", field_selector="metadata.name=work")
        async with aclosing(watch) as events:
            async for event in events:
                if event.object["spec"]["renewTime"] > taken:
                    break
        assert (await lease(only))["leaseTransitions"] == 0


async def test_what_the_work_raises_ends_the_candidacy(server):
    candidate = Candidate(server, "a")

    async def fail():
        raise RuntimeError("broken")

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(DEADLINE):
            await candidate.election.run(fail)
    assert raised.group_contains(RuntimeError, match="broken")
    assert not (await lease(candidate)).get("holderIdentity")
