"""ImageService: CRI's verbs for images, on top of the image store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import CRIError, Internal, InvalidArgument, NotFound, Unavailable
from sampan.image.errors import BadReference, ImageError, ImageNotFound, Unauthorized
from sampan.image.store import ImageStore

if TYPE_CHECKING:
    from sampan.image.auth import Auth

OS = "sampan.dev/os"
ARCHITECTURE = "sampan.dev/architecture"


class ImageService:
    def __init__(self, images: ImageStore) -> None:
        self.images = images

    async def list_images(self, request: Any) -> Any:
        return pb.ListImagesResponse(images=self._list(request.filter))

    async def stream_images(self, request: Any) -> AsyncIterator[Any]:
        for image in self._list(request.filter):
            yield pb.StreamImagesResponse(images=[image])

    def _list(self, wanted: Any) -> list[Any]:
        if reference := wanted.image.image:
            image = self._find(reference)
            return [message(image)] if image is not None else []
        return [message(image) for image in self.images.list()]

    def _find(self, reference: str) -> Any:
        try:
            return self.images.inspect(reference)
        except ImageNotFound:
            return None
        except BadReference as error:
            raise translated(error) from error

    async def image_status(self, request: Any) -> Any:
        if not request.image.image:
            raise InvalidArgument("image.image must be set")
        image = self._find(request.image.image)
        if image is None:
            return pb.ImageStatusResponse()
        info = {"platform": image.platform, "manifest": image.manifest} if request.verbose else {}
        return pb.ImageStatusResponse(image=message(image), info=info)

    async def pull_image(self, request: Any) -> Any:
        if not request.image.image:
            raise InvalidArgument("image.image must be set")
        try:
            identifier = await self.images.pull(request.image.image, credentials(request))
        except (ImageError, OSError) as error:
            raise translated(error) from error
        return pb.PullImageResponse(image_ref=identifier)

    async def remove_image(self, request: Any) -> Any:
        if not request.image.image:
            raise InvalidArgument("image.image must be set")
        try:
            # CRI: the image goes, with all its names, whichever of them was used.
            image = self.images.inspect(request.image.image)
            await asyncio.to_thread(self.images.remove, image.id)
        except (ImageNotFound, BadReference):
            pass
        except ImageError as error:
            raise translated(error) from error
        return pb.RemoveImageResponse()

    async def image_fs_info(self, _: Any) -> Any:
        usage = await asyncio.to_thread(self.images.usage)
        filesystem = pb.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=pb.FilesystemIdentifier(mountpoint=str(Path(self.images.directory).resolve())),
            used_bytes=pb.UInt64Value(value=usage.bytes),
            inodes_used=pb.UInt64Value(value=usage.inodes),
        )
        return pb.ImageFsInfoResponse(
            image_filesystems=[filesystem], container_filesystems=[filesystem]
        )


def message(image: Any) -> Any:
    """The platform is in the spec's annotations, so that a node can tell wasm from Linux before it makes the pod."""
    result = pb.Image(
        id=image.id,
        repo_tags=image.tags,
        repo_digests=image.digests,
        size=image.size,
        pinned=image.pinned,
        spec=pb.ImageSpec(
            image=image.id, annotations={OS: image.os, ARCHITECTURE: image.architecture}
        ),
    )
    user = (image.config.get("User") or "").partition(":")[0]
    if user.isdecimal():
        result.uid.value = int(user)
    elif user:
        result.username = user
    else:
        result.uid.value = 0
    return result


def credentials(request: Any) -> Auth | None:
    auth = request.auth
    if not request.HasField("auth"):
        return None
    from sampan.image.auth import Auth

    if auth.auth and not auth.username:
        try:
            return Auth.from_basic(auth.auth)
        except ValueError as error:
            raise InvalidArgument("auth.auth is not base64 of user:password") from error
    return Auth(auth.username, auth.password, auth.identity_token, auth.registry_token)


def translated(error: Exception) -> CRIError:
    if isinstance(error, BadReference):
        return InvalidArgument(str(error))
    if isinstance(error, ImageNotFound):
        return NotFound(str(error))
    if isinstance(error, Unauthorized):
        return Internal(str(error))
    if isinstance(error, OSError):
        return Unavailable(str(error))
    return Internal(str(error))
