"""Transport to an API server in the same process: no socket, no TLS, no copy of the body.

The server's parts (controllers, scheduler) speak to the API server through the same door as kubectl, as a user with a name
and groups, so that authorization and admission see them like anyone else.
"""

from __future__ import annotations

from typing import Protocol

from sampan.client.transport import Request, Response, User


class Handler(Protocol):
    """What is needed of an API server: its pipeline. `apiserver.server.APIServer` is one."""

    async def handle(self, request: Request) -> Response: ...


class InProcess:
    """Sends each request to `handler` as `user`, unless the request names its own."""

    def __init__(self, handler: Handler, user: User) -> None:
        self.handler = handler
        self.user = user

    async def send(self, request: Request) -> Response:
        if request.user is None:
            request.user = self.user
        response = await self.handler.handle(request)
        if response.status >= 400:  # as over the wire; who asks again looks for `retry-after`
            response.headers = {name.lower(): text for name, text in response.headers.items()}
        if response.streaming and not request.stream:
            await response.read()
        return response

    async def close(self) -> None:
        """Nothing is held: the handler belongs to whoever made it."""
