"""Images: present or pulled as imagePullPolicy asks, each pulled once at a time, with kubelet's words for what happens.

What the runtime said of an image holds for some seconds: a rollout asks about the same one again and again. Whoever finds
that the image has gone meanwhile forgets it (`forget`) and asks anew.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from sampan.cri import api_pb2 as api
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError, Unavailable
from sampan.node.containerconfig import ImageFacts
from sampan.node.errors import ImageError
from sampan.node.podspec import Object

SEEN = 10.0  # seconds for which an image that was seen counts as present
Report = Callable[[str, str, str], None]  # type, reason, message

# How CRI implementations begin the error of a name that cannot be parsed.
_BAD_NAME = ("invalid reference", "invalid image", "couldn't parse image")
DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Images:
    def __init__(self, cri: CRIClient, parallel: int = 4) -> None:
        self._cri = cri
        self._slots = asyncio.Semaphore(parallel)
        self._pulling: dict[tuple[str, str], asyncio.Future[str]] = {}
        self._seen: dict[tuple[str, str], tuple[float, ImageFacts]] = {}  # until when
        self._looking: dict[tuple[str, str], asyncio.Event] = {}

    async def ensure(
        self,
        image: str,
        policy: str,
        handler: str,
        secrets: Iterable[Object],
        report: Report,
    ) -> ImageFacts:
        """The image is on this node on return. Raises ImageError."""
        try:
            present = await self._present(image, handler)
        except ImageError as error:
            report("Warning", "InspectFailed", str(error))
            raise
        if policy == "Always":
            present = None
        if policy == "Never" and present is None:
            text = f'Container image "{image}" is not present with pull policy of Never'
            report("Warning", "ErrImageNeverPull", text)
            raise ImageError(text, "ErrImageNeverPull")
        if present is not None:
            report("Normal", "Pulled", f'Container image "{image}" already present on machine')
            return present
        report("Normal", "Pulling", f'Pulling image "{image}"')
        began = time.monotonic()
        try:
            waited = await self._pull(image, handler, credentials(secrets, image))
        except CRIError as error:
            text = f'failed to pull and unpack image "{image}": {error}'
            if image in str(error):
                text = str(error)
            report("Warning", "Failed", f'Failed to pull image "{image}": {text}')
            bad = str(error).lower().startswith(_BAD_NAME)
            raise ImageError(text, "InvalidImageName" if bad else "ErrImagePull") from error
        pulled = await self.look(image, handler)
        if pulled is None:
            raise ImageError(f'image "{image}" was pulled and is not there')
        took = time.monotonic() - began
        text = f'Successfully pulled image "{image}" in {go_seconds(took - waited)} '
        text += f"({go_seconds(took)} including waiting). Image size: {pulled.size} bytes."
        report("Normal", "Pulled", text)
        return pulled

    async def _present(self, image: str, handler: str) -> ImageFacts | None:
        """As `look`, but asked once for all who want to know at the same time or shortly after."""
        key = (image, handler)
        while True:
            until, facts = self._seen.get(key, (0.0, None))
            if facts is not None and time.monotonic() < until:
                return facts
            looking = self._looking.get(key)
            if looking is None:
                break
            await looking.wait()
        self._looking[key] = asyncio.Event()
        try:
            facts = await self.look(image, handler)
        finally:
            self._looking.pop(key).set()
        if facts is not None:
            self._seen[key] = (time.monotonic() + SEEN, facts)
        return facts

    def forget(self, image: str) -> bool:
        """The image may be gone: ask the next time. True when that had not been asked for some time."""
        known = [key for key in self._seen if key[0] == image]
        for key in known:
            del self._seen[key]
        return bool(known)

    def forget_all(self) -> None:
        """Images were deleted: ask about any the next time."""
        self._seen.clear()

    async def look(self, image: str, handler: str) -> ImageFacts | None:
        """What the runtime knows of the image; None when it is not there. Raises ImageError for a bad name."""
        spec = api.ImageSpec(image=image, runtime_handler=handler)
        try:
            answer = await self._cri.image_status(image=spec, verbose=True)
        except Unavailable:
            raise
        except CRIError as error:
            text = f'Failed to apply default image tag "{image}": {error}'
            raise ImageError(text, "InvalidImageName") from error
        if not answer.HasField("image") or not answer.image.id:
            return None
        found = answer.image
        return ImageFacts(
            ref=found.id,
            uid=found.uid.value if found.HasField("uid") else None,
            username=found.username,
            size=found.size,
            platform=platform(answer),
        )

    async def _pull(self, image: str, handler: str, auth: list[Any]) -> float:
        """Seconds that were spent waiting for a free place. The same pull is shared by all who want it."""
        key = (image, str(auth))
        if (shared := self._pulling.get(key)) is not None:
            began = time.monotonic()
            # Whoever waits may be cancelled without harm to the others.
            await asyncio.shield(shared)
            return time.monotonic() - began
        future = self._pulling[key] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        try:
            async with self._slots:
                waited = time.monotonic() - began
                ref = await self._try(image, handler, auth)
            future.set_result(ref)
            return waited
        except CRIError as error:
            future.set_exception(error)
            future.exception()  # marked as seen: there may be nobody else
            raise
        finally:
            del self._pulling[key]
            if not future.done():
                future.set_exception(Unavailable("the pull was given up"))
                future.exception()

    async def _try(self, image: str, handler: str, auth: list[Any]) -> str:
        """With each credential in turn; without any, anonymously."""
        spec = api.ImageSpec(image=image, runtime_handler=handler)
        last: CRIError | None = None
        for credential in auth or [None]:
            try:
                answer = await self._cri.pull_image(image=spec, auth=credential)
                return answer.image_ref
            except CRIError as error:
                last = error
        assert last is not None
        raise last


def platform(answer: Any) -> str:
    """The image's operating system (linux, wasip1 …) as the runtime tells it, or empty."""
    told = answer.info.get("platform", "") or answer.image.spec.annotations.get("platform", "")
    return told.partition("/")[0]


def go_seconds(seconds: float) -> str:
    """As Go prints a short duration: 850ms, 1.234s."""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def pull_policy(container: Object) -> str:
    """As the API defaults it: Always for `latest` or no tag."""
    if given := container.get("imagePullPolicy"):
        return given
    name = container.get("image", "").rpartition("/")[2]
    if "@" in name:
        return "IfNotPresent"
    tag = name.partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def registry_of(image: str) -> str:
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "docker.io"


def credentials(secrets: Iterable[Object], image: str) -> list[Any]:
    """AuthConfigs of the pull secrets that are meant for the image's registry, most specific first."""
    registry = registry_of(image)
    found: list[tuple[int, Any]] = []
    for secret in secrets:
        for server, entry in _entries(secret).items():
            host, _, path = server.removeprefix("https://").removeprefix("http://").partition("/")
            path = path.strip("/").removeprefix("v1").removeprefix("v2").strip("/")
            same = host == registry or (host in DOCKER_HUB and registry in DOCKER_HUB)
            rest = image.removeprefix(registry + "/")
            if not same or (path and not rest.startswith(path)):
                continue
            user, password = entry.get("username", ""), entry.get("password", "")
            if entry.get("auth") and not user:
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            config = api.AuthConfig(
                username=user,
                password=password,
                server_address=server,
                identity_token=entry.get("identitytoken", ""),
            )
            found.append((len(path), config))
    return [config for _, config in sorted(found, key=lambda pair: -pair[0])]


def _entries(secret: Object) -> dict[str, Any]:
    data = secret.get("data") or {}
    try:
        if text := data.get(".dockerconfigjson"):
            return json.loads(base64.b64decode(text)).get("auths") or {}
        if text := data.get(".dockercfg"):
            return json.loads(base64.b64decode(text))
    except ValueError:
        # A pull secret that cannot be read counts as none; the registry will say what it misses.
        return {}
    return {}
