"""A small real HTTP server that behaves as the Kubernetes API does for ConfigMaps and Events, for tests of the client.

Tests steer it: forget history (`compact`), cut connections (`cut`), refuse streamed lists, answer some requests with an
error first (`answers`). It records what it was asked.
"""

import asyncio
import json
from collections import deque

from aiohttp import web


def config_map(name, namespace="default", **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def status(code, reason, message, **details):
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body |= {"code": code, "reason": reason, "message": message, "details": details}
    return body


class API:
    def __init__(self):
        self.revision = 10
        self.uids = 0
        self.objects = {}  # (resource, namespace, name) -> object
        self.log = []  # (revision, type, resource, object)
        self.oldest = 0
        self.streamed_lists = "yes"  # yes | refused | ignored
        self.bookmarks = False  # one after every event
        self.answers = deque()  # (status, headers, body) for the next requests
        self.requests = []  # (method, path, query, headers, body)
        self.token = ""
        self.changed = asyncio.Event()
        self.watches = set()  # transports
        self.left = asyncio.Event()  # a watch has ended

    # What tests do

    def write(self, obj, resource="configmaps"):
        key = (resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        old = self.objects.get(key)
        self.revision += 1
        new = json.loads(json.dumps(obj))
        meta = new["metadata"]
        if old is None:
            self.uids += 1
        meta["uid"] = old["metadata"]["uid"] if old else f"uid-{self.uids}"
        meta["resourceVersion"] = str(self.revision)
        meta["managedFields"] = [{"manager": "test"}]
        self.objects[key] = new
        self._tell("MODIFIED" if old else "ADDED", resource, new)
        return new

    def remove(self, name, namespace="default", resource="configmaps"):
        old = self.objects.pop((resource, namespace, name))
        self.revision += 1
        last = json.loads(json.dumps(old))
        last["metadata"]["resourceVersion"] = str(self.revision)
        self._tell("DELETED", resource, last)
        return last

    def compact(self):
        self.oldest = self.revision
        self.log.clear()

    def cut(self):
        for transport in list(self.watches):
            transport.abort()

    def _tell(self, kind, resource, obj):
        self.log.append((self.revision, kind, resource, json.loads(json.dumps(obj))))
        self.changed.set()
        self.changed = asyncio.Event()

    # What the client sees

    def application(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def handle(self, request):
        body = await request.read()
        self.requests.append(
            (request.method, request.path, dict(request.query), dict(request.headers), body)
        )
        if self.answers:
            code, headers, answer = self.answers.popleft()
            if isinstance(answer, dict):
                return web.json_response(answer, status=code, headers=headers)
            return web.Response(text=answer, status=code, headers=headers)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(401, "Unauthorized", "Unauthorized")
        parts = request.path.strip("/").split("/")[2:]
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        resource, name = parts[0], parts[1] if len(parts) > 1 else ""
        if request.method == "GET" and not name:
            if request.query.get("watch"):
                return await self.watch(request, resource, namespace)
            return self.list(request, resource, namespace)
        key = (resource, namespace, name)
        if request.method == "POST":
            obj = json.loads(body)
            name = obj["metadata"]["name"]
            if (resource, namespace, name) in self.objects:
                return self.refuse(409, "AlreadyExists", f'{resource} "{name}" already exists')
            return web.json_response(self.write(obj, resource), status=201)
        if key not in self.objects:
            return self.refuse(404, "NotFound", f'{resource} "{name}" not found', name=name)
        if request.method == "GET":
            return web.json_response(self.objects[key])
        if request.method == "PUT":
            obj = json.loads(body)
            asked = obj["metadata"].get("resourceVersion")
            if asked and asked != self.objects[key]["metadata"]["resourceVersion"]:
                return self.refuse(409, "Conflict", "the object has been modified")
            return web.json_response(self.write(obj, resource))
        if request.method == "PATCH":
            return web.json_response(self.write(self.objects[key] | json.loads(body), resource))
        return web.json_response(self.remove(name, namespace, resource))

    def refuse(self, code, reason, message, **details):
        return web.json_response(status(code, reason, message, **details), status=code)

    def select(self, resource, namespace):
        return [
            obj
            for (kind, space, _), obj in sorted(self.objects.items())
            if kind == resource and namespace in ("", space)
        ]

    def list(self, request, resource, namespace):
        items = self.select(resource, namespace)
        start = int(request.query.get("continue") or 0)
        limit = int(request.query.get("limit") or 0) or len(items)
        page = [json.loads(json.dumps(obj)) for obj in items[start : start + limit]]
        for obj in page:  # as Kubernetes: items of a list say no kind
            obj.pop("kind", None)
            obj.pop("apiVersion", None)
        metadata = {"resourceVersion": str(self.revision)}
        if start + limit < len(items):
            metadata |= {
                "continue": str(start + limit),
                "remainingItemCount": len(items) - start - limit,
            }
        return web.json_response(
            {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": page}
        )

    async def watch(self, request, resource, namespace):
        initial = request.query.get("sendInitialEvents") == "true"
        if initial and self.streamed_lists == "refused":
            return self.refuse(422, "Invalid", "sendInitialEvents is forbidden")
        since = int(request.query.get("resourceVersion") or 0)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        transport = request.transport  # the request forgets it when the client leaves
        self.watches.add(transport)
        try:
            if not since:
                for obj in self.select(resource, namespace):
                    await self.send(response, "ADDED", obj)
                since = self.revision
                if initial and self.streamed_lists == "yes":
                    await self.bookmark(response, since, **{"k8s.io/initial-events-end": "true"})
            if since < self.oldest:
                gone = status(410, "Expired", f"too old resource version: {since} ({self.oldest})")
                await self.send(response, "ERROR", gone)
                return response
            while True:
                changed = self.changed
                for revision, kind, of, obj in list(self.log):
                    if revision > since and of == resource:
                        if namespace in ("", obj["metadata"].get("namespace")):
                            await self.send(response, kind, obj)
                        if self.bookmarks:
                            await self.bookmark(response, revision)
                        since = revision
                await changed.wait()
        finally:
            self.watches.discard(transport)
            self.left.set()

    async def bookmark(self, response, revision, **annotations):
        obj = {"kind": "ConfigMap", "apiVersion": "v1"}
        obj["metadata"] = {"resourceVersion": str(revision), "annotations": annotations}
        await self.send(response, "BOOKMARK", obj)

    async def send(self, response, kind, obj):
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        half = len(line) // 2  # an event comes in pieces
        await response.write(line[:half])
        await response.write(line[half:])


class Served:
    """An API on a free port. `stop` and `start` keep the port, as a restart does."""

    def __init__(self, api):
        self.api = api
        self.port = 0
        self.runner = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self, ssl_context=None):
        self.runner = web.AppRunner(
            self.api.application(), handler_cancellation=True, shutdown_timeout=0.1
        )
        await self.runner.setup()
        site = web.TCPSite(
            self.runner,
            "127.0.0.1",
            self.port,
            ssl_context=ssl_context,
            reuse_address=True,
        )
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        if self.runner is not None:
            self.api.cut()
            await self.runner.cleanup()
            self.runner = None
