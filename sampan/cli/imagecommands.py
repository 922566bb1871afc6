"""`sampan image …`: its commands and their options. What they do is in `images.py`, imported when one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sampan.cli.options import DataDir

image = typer.Typer(
    help="Build, move and list images of this node.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@image.command(
    "build",
    epilog="Example: sampan image build -t hello:wasm -f examples/hello/Dockerfile.wasm examples/hello",
)
def image_build(
    directory: Annotated[Path, typer.Argument(help="Build context.", exists=True, file_okay=False)],
    tag: Annotated[str, typer.Option("-t", "--tag", help="Name of the image.")],
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", help="Dockerfile. [default: DIRECTORY/Dockerfile]"),
    ] = None,
    platform: Annotated[
        str, typer.Option(help="linux/amd64, wasip1/wasm … [default: from the Dockerfile]")
    ] = "",
    microvm: Annotated[
        bool,
        typer.Option("--microvm", help="Also make a machine that runs from RAM, by QEMU alone."),
    ] = False,
    machine_format: Annotated[
        str, typer.Option("--format", help="Of the machine: initrd, raw or qcow2.")
    ] = "initrd",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Its directory. [default: NAME.microvm]"),
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option(help="Its kernel's directory. [default: the newest here]")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Build an image from a Dockerfile without RUN; with --microvm, a machine of it (RUN by buildah)."""
    if microvm:
        from sampan.cli.vmimage import build_machine

        raise typer.Exit(
            build_machine(data_dir, directory, tag, file, machine_format, output, kernel)
        )
    from sampan.cli.images import build

    raise typer.Exit(build(data_dir, directory, tag, file, platform))


@image.command("load", epilog="Example: sampan image load app.wasm --name app:1")
def image_load(
    path: Annotated[
        Path, typer.Argument(help="OCI layout, docker-archive, or .wasm file.", exists=True)
    ],
    name: Annotated[str, typer.Option(help="Name for an image that brings none.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Load images from a file or folder."""
    from sampan.cli.images import load_images

    raise typer.Exit(load_images(data_dir, path, name))


@image.command("save", epilog="Example: sampan image save hello:1 app:1 -o images.tar")
def image_save(
    references: Annotated[list[str], typer.Argument(help="Images.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.", dir_okay=False)],
    data_dir: DataDir = None,
) -> None:
    """Write images to a file that `image load`, docker, podman and skopeo read (OCI layout)."""
    from sampan.cli.images import save

    raise typer.Exit(save(data_dir, references, output))


@image.command("tag", epilog="Example: sampan image tag hello:1 hello:stable")
def image_tag(
    reference: Annotated[str, typer.Argument(help="An image, by name or id.")],
    name: Annotated[str, typer.Argument(help="Its further name.")],
    data_dir: DataDir = None,
) -> None:
    """Give an image another name."""
    from sampan.cli.images import tag

    raise typer.Exit(tag(data_dir, reference, name))


@image.command("pull", epilog="Example: sampan image pull registry.example/app:1")
def image_pull(
    reference: Annotated[str, typer.Argument(help="Name with a tag or a digest.")],
    platform: Annotated[
        str, typer.Option(help="linux/arm64, wasip1/wasm … [default: what this machine runs]")
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Pull an image from its registry or a mirror, logged in as docker is (~/.docker/config.json)."""
    from sampan.cli.images import pull

    raise typer.Exit(pull(data_dir, reference, platform))


@image.command("push", epilog="Example: sampan image push hello:1 localhost:5000/team/hello:1")
def image_push(
    reference: Annotated[str, typer.Argument(help="An image of this node.")],
    target: Annotated[
        str, typer.Argument(help="Where to. [default: the image's own name]", show_default=False)
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Push an image to a registry; what it has already is not sent."""
    from sampan.cli.images import push

    raise typer.Exit(push(data_dir, reference, target))


@image.command("ls", epilog="Example: sampan image ls")
def image_list(data_dir: DataDir = None) -> None:
    """List the images of this node."""
    from sampan.cli.images import show

    raise typer.Exit(show(data_dir))


@image.command("inspect", epilog="Example: sampan image inspect hello:1")
def image_inspect(
    references: Annotated[list[str], typer.Argument(help="Images, by name or id.")],
    data_dir: DataDir = None,
) -> None:
    """Show all that is known of images, as JSON."""
    from sampan.cli.images import inspect

    raise typer.Exit(inspect(data_dir, references))


@image.command("rm", epilog="Example: sampan image rm hello:1 hello:2")
def image_remove(
    references: Annotated[list[str], typer.Argument(help="Images, by name or id.")],
    force: Annotated[bool, typer.Option("-f", "--force", help="Even if a pod uses it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove images; one that a pod uses only with --force."""
    from sampan.cli.images import remove

    raise typer.Exit(remove(data_dir, references, force=force))


@image.command("prune", epilog="Example: sampan image prune --all")
def image_prune(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Images with a name, too, that no pod uses.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove images without a name that no pod uses, and what is left of interrupted work. Pinned images stay."""
    from sampan.cli.images import prune

    raise typer.Exit(prune(data_dir, everything=everything))
