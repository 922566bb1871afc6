"""An answer that comes from elsewhere and is passed on as it comes: a node's, a pod's, another API server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import aiohttp


class RemoteAnswer(ABC):
    """Itself the iterator of its body; whoever does not read to the end calls `aclose`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers = list(response.headers.items())
        self._response = response

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The body as it comes. A server that breaks off breaks our answer off too."""
        import aiohttp

        try:
            part = await self._response.content.readany()
        except aiohttp.ClientError as error:
            await self.aclose()
            raise ConnectionError(str(error)) from error
        if not part:
            await self.aclose()
            raise StopAsyncIteration
        return part

    @abstractmethod
    async def aclose(self) -> None:
        """Nothing of the answer is held any more. Idempotent."""
