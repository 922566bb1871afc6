"""Building an image from a Dockerfile without running anything: FROM, COPY and settings.

The result is reproducible: files get time 0 and owner 0:0 (or --chown), entries are sorted, layers are plain tar (whose bytes
do not depend on a compressor's version), and nothing of the build's time or place is recorded.

Every COPY is one layer. The platform is `platform`, else the base image's; FROM scratch with an entry point that ends in
`.wasm` is wasip1/wasm.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.image import dockerfile as docker
from sampan.image.content import BlobWriter
from sampan.image.dockerfile import Instruction
from sampan.image.errors import BuildError, ImageError, ImageNotFound
from sampan.image.ignore import IgnoreFile
from sampan.image.layout import put_manifest
from sampan.image.lookup import find, resolve
from sampan.image.manifest import OCI_CONFIG, OCI_LAYER, Descriptor, default_platforms, read_json
from sampan.image.manifest import read_layers as read_manifest_layers
from sampan.image.reference import parse
from sampan.image.store import ImageStore

BLOCK = 512
_Place = tuple[int, tuple[int, int]]  # a directory's mode and owner
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


def build(
    directory: Path | str,
    tag: str,
    store: ImageStore,
    *,
    dockerfile: Path | str | None = None,
    platform: str = "",
    arguments: Mapping[str, str] | None = None,
) -> str:
    """Build `directory` (the context) and name the result; its image id.

    A base image that the store does not hold is pulled. Raises BuildError naming the line, or another ImageError.
    Runs its own event loop for that and for unpacking: call it from a thread without one.
    """
    context = Path(directory)
    path = Path(dockerfile) if dockerfile is not None else context / "Dockerfile"
    name = parse(tag)
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise BuildError(f"no such file in {path.parent}", path.name) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise BuildError(str(error), path.name) from None
    instructions, escape = docker.parse(text, path.name)
    with store.adding():
        run = _Build(context, store, path, escape, platform, dict(arguments or {}))
        run.execute(instructions)
        return store.add(run.finish(), [name.key]).id


@dataclass(slots=True)
class _Source:
    path: Path
    name: str  # relative to the context, with /
    status: os.stat_result


@dataclass(slots=True)
class _Build:
    context: Path
    store: ImageStore
    file: Path
    escape: str
    platform: str
    arguments: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)  # the base's configuration document
    layers: list[Descriptor] = field(default_factory=list)
    diff_ids: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    global_arguments: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    started: bool = False
    owns_entrypoint: bool = False
    base_layers: tuple[Path, ...] = ()
    directories: dict[str, _Place] = field(default_factory=dict)  # made by COPY so far
    ignore: IgnoreFile = field(default_factory=IgnoreFile)

    def execute(self, instructions: Sequence[Instruction]) -> None:
        for candidate in (
            self.file.with_name(self.file.name + ".dockerignore"),
            self.context / ".dockerignore",
        ):
            if candidate.is_file():
                self.ignore = IgnoreFile.read(candidate.read_text())
                break
        for step in instructions:
            if not self.started and step.name not in ("FROM", "ARG"):
                raise BuildError(f"{step.name} before FROM", self.file.name, step.line)
            try:
                getattr(self, f"_{step.name.lower()}")(step)
            except (ValueError, ImageError, OSError) as error:
                if isinstance(error, BuildError):
                    raise
                raise BuildError(f"{step.name}: {error}", self.file.name, step.line) from error
            if step.name not in ("FROM", "ARG"):
                entry: dict[str, Any] = {"created_by": f"{step.name} {step.text}"}
                if step.name != "COPY":
                    entry["empty_layer"] = True
                self.history.append(entry)
        if not self.started:
            raise BuildError("no FROM instruction", self.file.name)

    def _expand(self, text: str) -> str:
        return docker.expand(text, {**self.declared, **self._environment()}, self.escape)

    def _environment(self) -> dict[str, str]:
        found = {}
        for item in self.config.get("Env") or []:
            key, _, value = item.partition("=")
            found[key] = value
        return found

    # Instructions, one method each

    def _arg(self, step: Instruction) -> None:
        for word in docker.words(step.text, self.escape):
            name, equals, default = word.partition("=")
            if self.started:
                value = self.arguments.get(
                    name, self.global_arguments.get(name) if not equals else None
                )
                default = self._expand(default)
                if value is not None or equals:
                    self.declared[name] = default if value is None else value
            else:
                known = docker.expand(default, self.global_arguments, self.escape)
                self.global_arguments[name] = self.arguments.get(name, known)

    def _from(self, step: Instruction) -> None:
        if self.started:
            raise BuildError(
                "a second FROM: builds in several stages are not supported; build the first stage "
                "beforehand and COPY its result",
                self.file.name,
                step.line,
            )
        unknown = set(step.flags) - {"platform"}
        if unknown:
            raise BuildError(f"unknown flag: --{unknown.pop()}", self.file.name, step.line)
        self.started = True
        parts = docker.expand(step.text, self.global_arguments, self.escape).split()
        if len(parts) == 3 and parts[1].lower() == "as":
            parts = parts[:1]
        if len(parts) != 1:
            raise ValueError("expected one image name")
        platform = self.platform or step.flags.get("platform", "")
        self.platform = platform
        if parts[0] == "scratch":
            return
        try:
            image = self.store.inspect(parts[0])
        except ImageNotFound:
            platforms = [platform] if platform else None
            asyncio.run(self.store.pull(parts[0], platforms=platforms))
            image = self.store.inspect(parts[0])
        if image.wasm:
            raise ValueError(f"{parts[0]} is a wasm artifact without a file system")
        self.base_layers = asyncio.run(self.store.unpack(image.id)).layers
        manifest = read_json(self.store.content.read(image.manifest), "the manifest")
        config, self.layers = read_manifest_layers(manifest)
        self.base = read_json(self.store.content.read(config.digest), "the configuration")
        self.config = dict(self.base.get("config") or {})
        self.diff_ids = list(image.diff_ids)
        self.history = list(self.base.get("history") or [])

    def _env(self, step: Instruction) -> None:
        known = {**self.declared, **self._environment()}  # one ENV sees the values from before it
        environment = self._environment()
        text = docker.expand(step.text, known, self.escape)
        for key, value in docker.pairs(text, self.escape):
            environment[key] = value
        self.config["Env"] = [f"{key}={value}" for key, value in environment.items()]

    def _label(self, step: Instruction) -> None:
        labels = dict(self.config.get("Labels") or {})
        labels.update(docker.pairs(self._expand(step.text), self.escape))
        self.config["Labels"] = labels

    def _workdir(self, step: Instruction) -> None:
        path = " ".join(docker.words(self._expand(step.text), self.escape))
        self.config["WorkingDir"] = self._absolute(path).rstrip("/") or "/"

    def _user(self, step: Instruction) -> None:
        self.config["User"] = self._expand(step.text)

    def _stopsignal(self, step: Instruction) -> None:
        signal = self._expand(step.text)
        if not re.fullmatch(r"\d{1,2}|SIG[A-Z0-9+-]+|[A-Z0-9+-]+", signal):
            raise ValueError(f"invalid signal {signal!r}")
        self.config["StopSignal"] = signal

    def _expose(self, step: Instruction) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in self._expand(step.text).split():
            match = _PORT.fullmatch(word)
            if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
                raise ValueError(f"invalid port {word!r}")
            for port in range(int(match[1]), int(match[2] or match[1]) + 1):
                ports[f"{port}/{(match[3] or 'tcp').lower()}"] = {}
        self.config["ExposedPorts"] = ports

    def _volume(self, step: Instruction) -> None:
        volumes = dict(self.config.get("Volumes") or {})
        paths = docker.json_form(step.text) or docker.words(step.text, self.escape)
        volumes.update({self._expand(path): {} for path in paths})
        self.config["Volumes"] = volumes

    def _entrypoint(self, step: Instruction) -> None:
        self.config["Entrypoint"] = docker.command(step.text)
        self.owns_entrypoint = True
        if not any(entry.get("created_by", "").startswith("CMD ") for entry in self._own_history()):
            self.config.pop("Cmd", None)  # the base's CMD were arguments of the base's entry point

    def _own_history(self) -> list[dict[str, Any]]:
        return self.history[len(self.base.get("history") or []) :]

    def _cmd(self, step: Instruction) -> None:
        self.config["Cmd"] = docker.command(step.text)

    def _copy(self, step: Instruction) -> None:
        if "from" in step.flags:
            raise ValueError("--from is not supported; COPY takes files of the build context")
        unknown = set(step.flags) - {"chown", "chmod", "link"}
        if unknown:
            raise ValueError(f"unknown flag: --{unknown.pop()}")
        listed = docker.json_form(step.text)
        if listed is None:
            names = docker.words(self._expand(step.text), self.escape)
        else:
            names = [self._expand(name) for name in listed]
        if len(names) < 2:
            raise ValueError("expected at least one source and a destination")
        sources = [source for pattern in names[:-1] for source in self._sources(pattern)]
        target = self._absolute(names[-1])
        into = names[-1].endswith(("/", "/.")) or names[-1] == "."
        if len(sources) > 1 and not into:
            raise ValueError("with several sources the destination must end with a /")
        owner = self._owner(self._expand(step.flags.get("chown", "")))
        mode = self._mode(self._expand(step.flags.get("chmod", "")))
        target, is_directory = self._destination(target)
        into = into or (is_directory and not stat.S_ISDIR(sources[0].status.st_mode))
        layer = _Layer(self.store.content.writer(), owner, mode, self._place)
        with layer.writer:
            for source in sources:
                if stat.S_ISDIR(source.status.st_mode):
                    layer.make_directory(target)
                    for child in self._below(source):
                        layer.add(child, f"{target}/{child.name[len(source.name) :].lstrip('/')}")
                else:
                    at = f"{target}/{source.path.name}" if into else target
                    layer.add(source, at)
            digest, size = layer.finish()
        self.directories.update(layer.directories)
        self.layers.append(Descriptor(OCI_LAYER, digest, size))
        self.diff_ids.append(digest)  # plain tar: blob and diff id are one

    # What COPY needs

    def _absolute(self, path: str) -> str:
        base = self.config.get("WorkingDir") or "/"
        whole = path if path.startswith("/") else f"{base}/{path}"
        return "/" + os.path.normpath("/" + whole).lstrip("/")  # normpath keeps a double slash

    def _destination(self, path: str) -> tuple[str, bool]:
        """The path behind symlinks of the base image, and whether a directory is there already."""
        if path.strip("/") in self.directories:
            return path, True
        found = resolve(self.base_layers, path)
        if found.rest and not stat.S_ISDIR(found.status.st_mode):
            raise ValueError(f"/{found.path} is not a directory in the base image")
        is_directory = not found.rest and stat.S_ISDIR(found.status.st_mode)
        return "/" + f"{found.path}/{found.rest}".strip("/"), is_directory

    def _place(self, path: str) -> _Place | None:
        """Mode and owner of a directory that is in the image already: a layer that names it must repeat them."""
        if path in self.directories:
            return self.directories[path]
        found = resolve(self.base_layers, path)
        if found.rest or found.path != path or not stat.S_ISDIR(found.status.st_mode):
            return None
        owner = (found.status.st_uid, found.status.st_gid) if os.geteuid() == 0 else (0, 0)
        return stat.S_IMODE(found.status.st_mode), owner

    def _sources(self, pattern: str) -> list[_Source]:
        """Entries of the context that the pattern names. The context is left by no path and no symlink."""
        clean = os.path.normpath("/" + pattern).lstrip("/")
        if ".." in pattern.split("/") and os.path.normpath(pattern).startswith(".."):
            raise ValueError(f"forbidden path outside the build context: {pattern}")
        if re.search(r"[*?\[]", clean):
            found = [
                source
                for source in self._below(self._source(""))
                if source.name.count("/") == clean.count("/") and _matches(source.name, clean)
            ]
            if not found:
                raise ValueError(f"no source files match {pattern!r}")
            return found
        source = self._source(clean)
        if clean and self.ignore.excludes(clean) and not stat.S_ISDIR(source.status.st_mode):
            raise ValueError(f"{pattern!r} is excluded by .dockerignore")
        return [source]

    def _source(self, name: str) -> _Source:
        path = self.context / name
        real = path.parent.resolve() if name else path.resolve()
        if not real.is_relative_to(self.context.resolve()):
            raise ValueError(f"forbidden path outside the build context: {name}")
        try:
            return _Source(path, name, path.lstat() if name else path.stat())
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{name!r} not found in the build context") from None

    def _below(self, source: _Source) -> list[_Source]:
        """Everything in a directory, sorted, parents first, without what .dockerignore excludes."""
        found: list[_Source] = []
        with os.scandir(source.path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            name = f"{source.name}/{entry.name}" if source.name else entry.name
            child = _Source(Path(entry.path), name, entry.stat(follow_symlinks=False))
            excluded = self.ignore.excludes(name)
            if stat.S_ISDIR(child.status.st_mode):
                inside = self._below(child)
                if not excluded or inside:
                    found += [child, *inside]
            elif not excluded:
                found.append(child)
        return found

    def _owner(self, text: str) -> tuple[int, int]:
        if not text:
            return 0, 0
        user, colon, group = text.partition(":")
        uid, primary = self._id(user, "/etc/passwd", "user")
        if not colon:
            return uid, uid if primary is None else primary
        return uid, self._id(group, "/etc/group", "group")[0]

    def _id(self, name: str, database: str, what: str) -> tuple[int, int | None]:
        if name.isdigit():
            return int(name), None
        file = find(self.base_layers, database)
        for line in file.read_text(errors="replace").splitlines() if file else ():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 3 - (what == "group"):
                return int(fields[2]), int(fields[3]) if what == "user" else None
        raise ValueError(f"no {what} {name!r} in {database} of the base image; give a number")

    @staticmethod
    def _mode(text: str) -> int | None:
        if not text:
            return None
        if not re.fullmatch(r"[0-7]{3,4}", text):
            raise ValueError(f"--chmod wants an octal mode such as 0755, not {text!r}")
        return int(text, 8)

    # The result

    def finish(self) -> str:
        """Write configuration and manifest; the manifest's digest."""
        start = (self.config.get("Entrypoint") or self.config.get("Cmd") or [""])[0]
        document: dict[str, Any] = {
            key: self.base[key] for key in ("architecture", "os", "variant") if key in self.base
        }
        if self.platform:
            system, _, rest = self.platform.partition("/")
            architecture, _, variant = rest.partition("/")
            if not system or not architecture:
                raise BuildError(
                    f"platform {self.platform!r} is not os/architecture", self.file.name
                )
            document = {"architecture": architecture, "os": system}
            if variant:
                document["variant"] = variant
        elif not self.base:
            is_wasm = start.endswith(".wasm")
            system, _, architecture = (
                "wasip1/wasm" if is_wasm else default_platforms()[0]
            ).partition("/")
            document = {"architecture": architecture, "os": system}
        document["config"] = self.config
        document["rootfs"] = {"type": "layers", "diff_ids": self.diff_ids}
        document["history"] = self.history
        data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        content = self.store.content
        config = Descriptor(OCI_CONFIG, content.put(data), len(data))
        return put_manifest(content, config, self.layers)


def _matches(name: str, pattern: str) -> bool:
    parts = zip(name.split("/"), pattern.split("/"), strict=True)
    return all(fnmatch.fnmatchcase(part, glob) for part, glob in parts)


class _Layer:
    """One COPY as a tar stream into the content store; parents appear once, before what they hold."""

    def __init__(
        self,
        writer: BlobWriter,
        owner: tuple[int, int],
        mode: int | None,
        existing: Callable[[str], _Place | None],
    ) -> None:
        self.writer, self.owner, self.mode, self._existing = writer, owner, mode, existing
        self.directories: dict[str, _Place] = {}

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        """With its parents; one that the image has keeps its mode and owner."""
        parts = os.path.normpath(path).strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if not name or name in self.directories:
                continue
            last = depth == len(parts)
            made = (mode, self.owner) if last else (0o755, (0, 0))
            place = self._existing(name) or made
            self.directories[name] = place
            self._write(name, tarfile.DIRTYPE, place[0], owner=place[1])

    def add(self, source: _Source, target: str) -> None:
        name = os.path.normpath(target).lstrip("/")
        self.make_directory(os.path.dirname(name))
        mode = stat.S_IMODE(source.status.st_mode) if self.mode is None else self.mode
        if stat.S_ISDIR(source.status.st_mode):
            self.make_directory(name, mode)
        elif stat.S_ISLNK(source.status.st_mode):
            self._write(name, tarfile.SYMTYPE, 0o777, linkname=os.readlink(source.path))
        elif stat.S_ISREG(source.status.st_mode):
            with source.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._write(name, tarfile.REGTYPE, mode, size=size)
                left = size
                while left and (data := file.read(min(left, 1 << 18))):
                    self.writer.write(data)
                    left -= len(data)
                if left:
                    raise ValueError(f"{source.name} became shorter while it was read")
                self.writer.write(b"\0" * (-size % BLOCK))
        else:
            raise ValueError(f"{source.name} is neither a file, a directory nor a symbolic link")

    def _write(
        self,
        name: str,
        kind: bytes,
        mode: int,
        *,
        size: int = 0,
        linkname: str = "",
        owner: tuple[int, int] | None = None,
    ) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname = kind, mode, size, linkname
        info.uid, info.gid = owner or self.owner
        self.writer.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def finish(self) -> tuple[str, int]:
        self.writer.write(bytes(2 * BLOCK))
        return self.writer.commit(), self.writer.size
