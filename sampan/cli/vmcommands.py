"""The options of `sampan vm …`. What the commands do is in `vm.py` and `vmkernels.py`, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

vm = typer.Typer(
    help="Run OCI images as virtual machines.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
kernels = typer.Typer(
    help="Guest kernels: what is here, bring one, choose one.", invoke_without_command=True
)
vm.add_typer(kernels, name="kernels")
snapshots = typer.Typer(help="Snapshots: what is here, remove them.", invoke_without_command=True)
vm.add_typer(snapshots, name="snapshots")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", envvar="SAMPAN_DATA_DIR", help="The cluster's directory.", show_default=False
    ),
]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the machine.")]
Name = Annotated[str, typer.Argument(help="Name of the machine.")]
Names = Annotated[list[str], typer.Argument(help="Names of machines.")]
# From the first word that is no option of ours on, all is the program's.
PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def inherited(context: typer.Context, data_dir: Path | None) -> Path | None:
    """The option of a command, or of the group that it is in: `kernels --data-dir D use …` is `kernels use --data-dir D …`."""
    outer = context.parent.params.get("data_dir") if context.parent else None
    return data_dir or (Path(outer) if outer else None)  # typer makes paths for the callback alone


def config_of(data_dir: Path | None) -> Any:
    from sampan.cli.config import Config, ConfigError

    try:
        return Config.load(data_dir)
    except ConfigError as error:
        typer.echo(f"sampan: {error}", err=True)
        raise typer.Exit(1) from None


@vm.command(
    "run",
    context_settings=PASSED_ON,
    epilog="Examples: sampan vm run --name web --memory 512m --publish 30080:80 registry.example/web:1 · "
    "sampan vm run -it app:1 -- sh",
)
def vm_run(
    image: Annotated[str, typer.Argument(help="OCI image.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments of its program, after --.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name. [default: the image's and four letters]")] = "",
    cpus: Annotated[int, typer.Option(min=1, help="Virtual processors.")] = 1,
    memory: Annotated[str, typer.Option("-m", "--memory", help="Memory: 512m, 2g.")] = "256m",
    size: Annotated[
        str, typer.Option(help="Disk that its files stay on: 10g. [default: they are in memory]")
    ] = "",
    kernel: Annotated[
        str,
        typer.Option(
            help="Guest kernel: its release (sampan vm kernels), an OCI image with one, or the path of a vmlinux. [default: the node's]"
        ),
    ] = "",
    ssh: Annotated[
        bool, typer.Option("--ssh", help="Start the image's sshd, for your keys of ~/.ssh.")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option("-e", "--env", help="NAME=VALUE. Repeatable.")
    ] = None,
    publish: Annotated[
        list[str] | None,
        typer.Option("-p", "--publish", help="[NODEPORT:]PORT[/udp]. Repeatable."),
    ] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            "-v",
            "--volume",
            help="/HOST/PATH:/PATH[:ro], tmp:/PATH, claim:NAME:/PATH, configmap:NAME:/PATH or secret:NAME:/PATH. Repeatable.",
        ),
    ] = None,
    restart: Annotated[
        str, typer.Option(help="What follows the end of its program: Always, OnFailure, Never.")
    ] = "Always",
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Attach to it once it runs.")
    ] = False,
    terminal: Annotated[bool, typer.Option("-t", "--tty", help="Give it a terminal.")] = False,
    wait: Annotated[bool, typer.Option(help="Return once it runs.")] = True,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Make a machine of an image, start it, print its name."""
    from sampan.cli.vm import run

    given = list(arguments or [])
    raise typer.Exit(
        run(
            config_of(data_dir), image, ssh=ssh, kernel=kernel, wait=wait or interactive, name=name,
            namespace=namespace, arguments=given[1:] if given[:1] == ["--"] else given,
            cpus=cpus, memory=memory, size=size, environment=env or (), publish=publish or (),
            volumes=volume or (), restart=restart, interactive=interactive, terminal=terminal,
        )
    )  # fmt: skip


@vm.command("ps", epilog="Example: sampan vm ps -A")
def vm_ps(
    everywhere: Annotated[bool, typer.Option("-A", "--all-namespaces")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Names only.")] = False,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """List virtual machines, stopped ones too."""
    from sampan.cli.vm import show

    raise typer.Exit(show(config_of(data_dir), namespace, everywhere, quiet))


@vm.command("logs", epilog="Example: sampan vm logs -f web")
def vm_logs(
    name: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
    tail: Annotated[int, typer.Option(help="Last lines only; -1: all.")] = -1,
    previous: Annotated[bool, typer.Option(help="Of the run before its last restart.")] = False,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Show what the machine's program wrote."""
    from sampan.cli.vmstreams import stream

    options = [f"--tail={tail}", *(["-f"] if follow else []), *(["-p"] if previous else [])]
    raise typer.Exit(stream(config_of(data_dir), "logs", namespace, name, options))


@vm.command("exec", context_settings=PASSED_ON, epilog="Example: sampan vm exec -it web -- sh")
def vm_exec(
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(help="Command, after --.")] = None,
    stdin: Annotated[bool, typer.Option("-i", "--interactive", help="Pass stdin on.")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="With a terminal.")] = False,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Run a command in a machine."""
    from sampan.cli.vmstreams import execute_in

    given = list(command or [])
    given = given[1:] if given[:1] == ["--"] else given
    raise typer.Exit(execute_in(config_of(data_dir), name, namespace, given, stdin=stdin, tty=tty))


@vm.command("ssh", context_settings=PASSED_ON, epilog="Example: sampan vm ssh web uname -r")
def vm_ssh(
    name: Name,
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of ssh.")] = None,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Log in to a machine that was run with --ssh."""
    from sampan.cli.vmstreams import ssh

    raise typer.Exit(ssh(config_of(data_dir), name, namespace, arguments or []))


@vm.command("attach", epilog="Example: sampan vm attach web")
def vm_attach(name: Name, namespace: Namespace = "default", data_dir: DataDir = None) -> None:
    """Connect to the program of a machine run with -i."""
    from sampan.cli.vmstreams import attach

    raise typer.Exit(attach(config_of(data_dir), name, namespace))


def each_of(work: str) -> Callable[..., None]:
    """A command that does the same to several machines."""

    def command(names: Names, namespace: Namespace = "default", data_dir: DataDir = None) -> None:
        from sampan.cli import vm as commands

        raise typer.Exit(getattr(commands, work)(config_of(data_dir), names, namespace))

    return command


vm.command(
    "stop", help="Stop machines (SIGTERM, 10 s, power off). They stay.",
    epilog="Example: sampan vm stop web",
)(each_of("stop"))  # fmt: skip
vm.command("start", help="Start machines that are stopped.", epilog="Example: sampan vm start web")(
    each_of("start")
)
vm.command("inspect", help="Show machines as JSON.", epilog="Example: sampan vm inspect web")(
    each_of("inspect")
)


@vm.command("rm", epilog="Example: sampan vm rm --force web")
def vm_rm(
    names: Names,
    force: Annotated[bool, typer.Option("-f", "--force", help="Running ones too.")] = False,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Remove machines and all that was in them."""
    from sampan.cli.vm import remove

    raise typer.Exit(remove(config_of(data_dir), names, namespace, force))


@vm.command("snapshot", epilog="Example: sampan vm snapshot web friday")
def vm_snapshot(
    name: Name,
    snapshot: Annotated[str, typer.Argument(help="Name of the snapshot, or of the image.")],
    files: Annotated[
        bool,
        typer.Option("--files", help="Its files alone, as an image that can be run and pushed."),
    ] = False,
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Keep a running machine as it is: memory, devices and disk. It goes on."""
    from sampan.cli import vmmemory, vmsnapshot

    take = vmsnapshot.snapshot if files else vmmemory.take
    raise typer.Exit(take(config_of(data_dir), name, namespace, snapshot))


@vm.command("restore", epilog="Example: sampan vm restore friday --name web-again")
def vm_restore(
    snapshot: Annotated[str, typer.Argument(help="What `snapshot` made.")],
    name: Annotated[str, typer.Option(help="Name. [default: the image's and four letters]")] = "",
    namespace: Namespace = "default",
    data_dir: DataDir = None,
) -> None:
    """Start a machine that goes on from a snapshot."""
    from sampan.cli import vmmemory, vmsnapshot

    config = config_of(data_dir)
    if (path := vmmemory.named(config, snapshot)) is not None:
        raise typer.Exit(vmmemory.restore(config, path, name, namespace))
    raise typer.Exit(vmsnapshot.restore(config, snapshot, name, namespace))


@snapshots.callback(epilog="Example: sampan vm snapshots")
def vm_snapshots(context: typer.Context, data_dir: DataDir = None) -> None:
    """List snapshots of machines with their memory."""
    from sampan.cli.vmmemory import show

    if context.invoked_subcommand is None:
        raise typer.Exit(show(config_of(data_dir)))


@snapshots.command("rm", epilog="Example: sampan vm snapshots rm friday")
def vm_snapshots_rm(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="Names of snapshots.")],
    data_dir: DataDir = None,
) -> None:
    """Remove snapshots. Machines that went on from them stay."""
    from sampan.cli.vmmemory import remove

    raise typer.Exit(remove(config_of(inherited(context, data_dir)), names))


@kernels.callback(epilog="Example: sampan vm kernels")
def vm_kernels(context: typer.Context, data_dir: DataDir = None) -> None:
    """List guest kernels and which one machines are booted with."""
    from sampan.cli.vmkernels import show

    if context.invoked_subcommand is None:
        raise typer.Exit(show(config_of(data_dir)))


@kernels.command("ls", epilog="Example: sampan vm kernels ls")
def vm_kernels_ls(context: typer.Context, data_dir: DataDir = None) -> None:
    """List guest kernels, as `sampan vm kernels` does."""
    from sampan.cli.vmkernels import show

    raise typer.Exit(show(config_of(inherited(context, data_dir))))


@kernels.command(
    "fetch", epilog="Example: sampan vm kernels fetch weaveworks/ignite-kernel:5.14.16"
)
def vm_kernels_fetch(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="An OCI image with /boot/vmlinux and /lib/modules, or a path: ./vmlinux. [default: Debian's]",
            show_default=False,
        ),
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Bring a kernel: Debian's cloud kernel (downloaded by apt and unpacked, not installed), or one of your own."""
    from sampan.cli.vmkernels import fetch

    raise typer.Exit(fetch(config_of(inherited(context, data_dir)), source))


@kernels.command("rm", epilog="Example: sampan vm kernels rm 6.1.0-56-cloud-amd64")
def vm_kernels_rm(
    context: typer.Context,
    releases: Annotated[list[str], typer.Argument(help="Releases.")],
    data_dir: DataDir = None,
) -> None:
    """Remove kernels."""
    from sampan.cli.vmkernels import remove

    raise typer.Exit(remove(config_of(inherited(context, data_dir)), releases))


@kernels.command("use", epilog="Example: sampan vm kernels use 6.1.0-56-cloud-amd64")
def vm_kernels_use(
    context: typer.Context,
    kernel: Annotated[
        str,
        typer.Argument(help="Release, OCI image, path of a vmlinux or of a kernel's directory."),
    ],
    data_dir: DataDir = None,
) -> None:
    """Choose the kernel of all machines of this node."""
    from sampan.cli.vmkernels import use

    raise typer.Exit(use(config_of(inherited(context, data_dir)), kernel))
