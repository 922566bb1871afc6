import pytest_asyncio
from client_api import API, Served

from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.kubeconfig import Kubeconfig


@pytest_asyncio.fixture
async def served():
    served = await Served(API()).start()
    yield served
    await served.stop()


@pytest_asyncio.fixture
async def client(served):
    client = Client(HTTPTransport(Kubeconfig(served.url)))
    yield client
    await client.close()
