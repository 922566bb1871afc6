"""Plug-ins that users hang their own rules into, webhooks and policies: each sees every kind of request in the same way.

A plug-in says in `run` what it makes of a request, and by its base in which phase it is asked.
"""

from __future__ import annotations

from sampan.apiserver.admission.attributes import CONNECT, CREATE, CREATE_ONLY, DELETE, UPDATE
from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call


class Dynamic(Plugin):
    subresources = ("*",)

    async def run(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        """Raises ApiError to refuse."""
        raise NotImplementedError

    async def delete(self, call: Call, obj: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self.run(call, DELETE, None, obj)

    async def connect(self, call: Call, options: Object) -> None:
        await self.run(call, CONNECT, options, None)


class Mutating(Dynamic):
    async def create(self, call: Call, obj: Object) -> None:
        await self.run(call, CREATE, obj, None)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self.run(call, UPDATE, new, old)

    async def act(self, call: Call, body: Object) -> None:
        await self.run(call, CREATE, body, None)


class Validating(Dynamic):
    async def validate_create(self, call: Call, obj: Object) -> None:
        await self.run(call, CREATE, obj, None)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self.run(call, UPDATE, new, old)

    async def validate_act(self, call: Call, body: Object) -> None:
        await self.run(call, CREATE, body, None)
