"""What `connection.py` uses of aiohttp that aiohttp promises nobody: each name is there and is used by aiohttp as it was read.

Fails with the names when another version of aiohttp comes, before anything subtle does. What they mean is said in
`RequestHandler.start` and `_handle_request` of aiohttp 3.14, in whose place `Connection.start` stands.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import FunctionType

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from sampan.apiserver import connection
from sampan.apiserver.connection import Connection

# Attribute to the methods of aiohttp that must read or set it too: a name that only we still use means nothing any more.
PRIVATE = {
    "_buffer_paused": ("data_received",),
    "_close": ("close", "start"),
    "_drain_helper": (),  # of its BaseProtocol, as `_paused`
    "_force_close": ("force_close", "start"),
    "_handler_waiter": ("shutdown", "_handle_request"),
    "_keepalive_handle": ("connection_lost", "start"),
    "_keepalive_timeout": ("__init__", "start"),
    "_lingering_time": ("__init__", "start"),
    "_loop": ("connection_made", "start"),
    "_messages": ("data_received", "start"),
    "_msg_queue_resume_size": ("start",),
    "_next_keepalive_close_time": ("_process_keepalive", "start"),
    "_parser": ("data_received", "start"),
    "_paused": (),
    "_process_keepalive": ("start",),
    "_reading_paused": ("resume_reading",),
    "_request_in_progress": ("shutdown", "_handle_request"),
    "_resume_reading_if_drained": ("start",),
    "_task_handler": ("connection_made", "connection_lost", "start"),
    "_waiter": ("data_received", "start"),
}


def private() -> set[str]:
    """Names that `connection.py` takes from its base class and that begin with an underscore."""
    own = set(vars(Connection)) | set(Connection.__annotations__)
    tree = ast.parse(inspect.getsource(connection))
    used = {
        each.attr
        for each in ast.walk(tree)
        if isinstance(each, ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }
    return {name for name in used - own if name.startswith("_")}


def names_of(method: str) -> Iterator[str]:
    for base in RequestHandler.__mro__:
        found = vars(base).get(method)
        if isinstance(found, FunctionType):
            yield from found.__code__.co_names


def test_the_table_names_all_that_is_used() -> None:
    assert private() == set(PRIVATE)


@pytest.mark.parametrize("name", PRIVATE)
def test_aiohttp_still_has_what_connections_stand_on(name: str) -> None:
    version = aiohttp.__version__
    assert hasattr(RequestHandler, name), f"aiohttp {version} has no RequestHandler.{name}"
    for method in PRIVATE[name]:
        assert name in names_of(method), (
            f"{method} of aiohttp {version} does not use {name}: read its RequestHandler.start again"
        )


def test_a_connection_s_task_runs_our_loop() -> None:
    assert "start" in names_of("connection_made"), "connection_made makes no task of `start`"
    assert inspect.iscoroutinefunction(RequestHandler.start)
