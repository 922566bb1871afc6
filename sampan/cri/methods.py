"""CRI's methods as a table, read from the descriptor: what client and server are built from instead of stubs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from google.protobuf.message_factory import GetMessageClass

from sampan.cri import api_pb2

# gRPC refuses larger messages by default (4 MiB); kubelet allows 16 MiB, as a full node's lists need.
MESSAGE_LIMIT = 16 * 1024 * 1024


class Method(NamedTuple):
    service: str  # runtime.v1.RuntimeService
    name: str  # RunPodSandbox
    function: str  # run_pod_sandbox
    request: Any  # message class
    response: Any
    streams: bool  # the answer is a stream

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def table() -> list[Method]:
    return [
        Method(
            service.full_name,
            method.name,
            snake_case(method.name),
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.server_streaming,
        )
        for service in api_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
