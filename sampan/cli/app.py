"""The commands and their options. What they do is in the file of each; it is imported when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan import KUBERNETES_VERSION, __version__
from sampan.cli.apiserver_flags import check as check_flags
from sampan.cli.apiserver_flags import with_flags
from sampan.cli.config import Config, ConfigError
from sampan.cli.imagecommands import image
from sampan.cli.options import DataDir
from sampan.cli.vmcommands import vm

app = typer.Typer(
    help="A small Kubernetes whose cargo is any sandbox: WebAssembly, microVM or container.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(image, name="image")
store = typer.Typer(help="Back up, restore and move the cluster's data.", no_args_is_help=True)
app.add_typer(store, name="store")
app.add_typer(vm, name="vm")

Endpoint = Annotated[
    str | None,
    typer.Option(
        help="etcd cluster that holds the data: https://h1:2379,https://h2:2379. [default: sqlite, a file]",
        show_default=False,
    ),
]
CAFile = Annotated[
    str | None, typer.Option(help="PEM of the authorities of etcd.", show_default=False)
]
CertFile = Annotated[
    str | None, typer.Option(help="PEM certificate shown to etcd.", show_default=False)
]
KeyFile = Annotated[str | None, typer.Option(help="PEM key of it.", show_default=False)]


def datastore(
    endpoint: str | None, cafile: str | None, certfile: str | None, keyfile: str | None
) -> dict[str, object]:
    """Settings out of the four options, for `Config.make`; None is what was not said."""
    endpoints = None
    if endpoint is not None:
        parts = [part.strip() for part in endpoint.split(",") if part.strip()]
        endpoints = () if parts == ["sqlite"] else tuple(parts)
    files = {"cafile": cafile, "certfile": certfile, "keyfile": keyfile}
    absolute = {
        f"datastore_{name}": str(Path(file).absolute()) if file else file
        for name, file in files.items()
    }
    return {"datastore_endpoint": endpoints, **absolute}


def fail(error: object) -> typer.Exit:
    typer.echo(f"sampan: {error}", err=True)
    return typer.Exit(1)


def load(data_dir: Path | None) -> Config:
    try:
        return Config.load(data_dir)
    except ConfigError as error:
        raise fail(error) from None


def choose_vmm(config: Config, name: str) -> None:
    """Kept in the kind's settings, which the runtime reads. Raises ConfigError."""
    from sampan.runtime.microvm.errors import BadArtifact
    from sampan.runtime.microvm.settings import Settings

    try:
        Settings.change(config.data_dir / "runtime" / "microvm", driver=name)
    except BadArtifact as error:
        raise ConfigError(f"--microvm-vmm: {error}") from None


@app.command(epilog="Example: sampan up && sampan kubectl get nodes")
@with_flags
def up(
    data_dir: DataDir = None,
    rootless: Annotated[
        bool, typer.Option(help="Use no privilege even as root: wasm pods only.")
    ] = False,
    foreground: Annotated[bool, typer.Option(help="Stay, for systemd and containers.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port of the API server. [default: 6443]", show_default=False)
    ] = None,
    node_port: Annotated[
        int | None,
        typer.Option(help="Port of the node's endpoint. [default: 10250]", show_default=False),
    ] = None,
    node_name: Annotated[
        str | None,
        typer.Option(help="Name of this node. [default: the host's]", show_default=False),
    ] = None,
    bind_address: Annotated[
        str | None,
        typer.Option(help="Address to listen on. [default: 127.0.0.1]", show_default=False),
    ] = None,
    cluster_cidr: Annotated[
        str | None, typer.Option(help="Addresses of pods.", show_default=False)
    ] = None,
    service_cidr: Annotated[
        str | None, typer.Option(help="Addresses of Services.", show_default=False)
    ] = None,
    max_pods: Annotated[
        int | None, typer.Option(help="Most pods on this node. [default: 250]", show_default=False)
    ] = None,
    tls_san: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name or address in the API server's certificate. Repeatable.",
            show_default=False,
        ),
    ] = None,
    insecure_registry: Annotated[
        list[str] | None,
        typer.Option(
            help="A registry (host[:port]) that may be spoken to over plain HTTP. Repeatable.",
            show_default=False,
        ),
    ] = None,
    private_registry: Annotated[
        str | None,
        typer.Option(
            help="registries.yaml as K3s reads it: mirrors, credentials, TLS. Empty: none any more.",
            show_default=False,
        ),
    ] = None,
    embedded_registry: Annotated[
        bool | None,
        typer.Option(
            "--embedded-registry/--no-embedded-registry",
            help="Serve an OCI registry over this node's images; users: <data>/registry/users.",
            show_default=False,
        ),
    ] = None,
    registry_port: Annotated[
        int | None, typer.Option(help="Its port. [default: 5000]", show_default=False)
    ] = None,
    registry_address: Annotated[
        str | None,
        typer.Option(
            help="Its address; TLS on any but loopback. [default: 127.0.0.1]", show_default=False
        ),
    ] = None,
    kubelet_arg: Annotated[
        list[str] | None,
        typer.Option(
            help="A flag of the node as NAME=VALUE: eviction-hard=memory.available<200Mi. Repeatable.",
            show_default=False,
        ),
    ] = None,
    kube_controller_manager_arg: Annotated[
        list[str] | None,
        typer.Option(
            help="A flag of the controllers as NAME=VALUE: horizontal-pod-autoscaler-sync-period=5s. Repeatable.",
            show_default=False,
        ),
    ] = None,
    cni_conf_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where CNI plugins are configured; without a file there the built-in bridge is used. "
            "[default: /etc/cni/net.d]",
            show_default=False,
        ),
    ] = None,
    microvm_vmm: Annotated[
        str | None,
        typer.Option(
            help="Monitor of microVM pods: auto, qemu, cloud-hypervisor or firecracker. [default: auto, "
            "QEMU where it is installed]",
            show_default=False,
        ),
    ] = None,
    datastore_endpoint: Endpoint = None,
    datastore_cafile: CAFile = None,
    datastore_certfile: CertFile = None,
    datastore_keyfile: KeyFile = None,
    merge_kubeconfig: Annotated[
        bool, typer.Option(help="Add the cluster to ~/.kube/config as context `sampan`.")
    ] = False,
    *,
    flags: dict[str, Any],
) -> None:
    """Start a cluster, wait until its node is Ready, and leave it running."""
    from sampan.cli.up import start

    settings = {
        "port": port,
        "node_port": node_port,
        "node_name": node_name,
        "bind_address": bind_address,
        "cluster_cidr": cluster_cidr,
        "service_cidr": service_cidr,
        "max_pods": max_pods,
        "tls_san": tuple(tls_san) if tls_san else None,
        "insecure_registries": tuple(insecure_registry) if insecure_registry else None,
        "private_registry": (
            str(Path(private_registry).absolute()) if private_registry else private_registry
        ),
        "embedded_registry": embedded_registry,
        "registry_port": registry_port,
        "registry_address": registry_address,
        "kubelet_args": tuple(kubelet_arg) if kubelet_arg else None,
        "controller_args": (
            tuple(kube_controller_manager_arg) if kube_controller_manager_arg else None
        ),
        "cni_conf_dir": cni_conf_dir.absolute() if cni_conf_dir else None,
        "apiserver_flags": flags or None,
        **datastore(datastore_endpoint, datastore_cafile, datastore_certfile, datastore_keyfile),
    }
    try:
        config = Config.make(data_dir, rootless=rootless, **settings)
        check_flags(config)
        if microvm_vmm:
            choose_vmm(config, microvm_vmm)
        raise typer.Exit(start(config, foreground=foreground, merge=merge_kubeconfig))
    except ConfigError as error:
        raise fail(error) from None


@app.command(epilog="Example: sampan down --keep-pods && sampan up   # new version, pods go on")
def down(
    data_dir: DataDir = None,
    keep_pods: Annotated[
        bool, typer.Option(help="Stop Sampan only; pods go on and are adopted by `up`.")
    ] = False,
) -> None:
    """Stop the cluster and its pods (SIGTERM, 2 s, SIGKILL). Its data stays; `sampan up` brings it back."""
    from sampan.cli.down import stop

    raise typer.Exit(stop(load(data_dir), pods=not keep_pods))


@app.command(epilog="Example: sampan status --data-dir ./boat")
def status(data_dir: DataDir = None) -> None:
    """Show what runs: parts and their memory, nodes, pods, services."""
    from sampan.cli.status import show

    raise typer.Exit(show(load(data_dir)))


@app.command(epilog="Example: sampan doctor")
def doctor(data_dir: DataDir = None) -> None:
    """Say what works on this machine, what does not, and the command that mends it."""
    from sampan.cli.doctor import examine

    raise typer.Exit(examine(data_dir))


@app.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],
        "allow_interspersed_args": False,  # from the first word on, all is kubectl's, `--` too
    },
    epilog="Example: sampan kubectl get pods -A",
)
def kubectl(context: typer.Context, data_dir: DataDir = None) -> None:
    """Run your kubectl on this cluster."""
    from sampan.cli.kubectl import execute

    raise typer.Exit(execute(load(data_dir), context.args))


@app.command(epilog="Example: sampan version")
def version() -> None:
    """Print the versions of Sampan and of the Kubernetes API that it serves."""
    typer.echo(
        f"sampan {__version__} (Kubernetes API {KUBERNETES_VERSION}, Python {sys.version.split()[0]})"
    )


def run_part(name: str, data_dir: Path | None, **settings: Any) -> None:
    from sampan.cli.becoming import name_process
    from sampan.cli.parts import Running, make_pki, run

    try:
        config = Config.make(data_dir, **settings)
        if name == "server":
            check_flags(config)
        config.prepare()
        if name == "server":
            make_pki(config)
        name_process(f"sampan-{name}")
        run(name, config, lambda step, detail="": typer.echo(f"{step} {detail}".rstrip(), err=True))
    except (ConfigError, Running) as error:
        raise fail(error) from None


@app.command(epilog="Example: sampan server --data-dir ./boat")
@with_flags
def server(
    data_dir: DataDir = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the API server. [default: 6443]", show_default=False)
    ] = None,
    bind_address: Annotated[
        str | None,
        typer.Option(help="Address to listen on. [default: 127.0.0.1]", show_default=False),
    ] = None,
    datastore_endpoint: Endpoint = None,
    datastore_cafile: CAFile = None,
    datastore_certfile: CertFile = None,
    datastore_keyfile: KeyFile = None,
    *,
    flags: dict[str, Any],
) -> None:
    """Run the API server, controllers and scheduler alone, in the foreground."""
    settings = datastore(
        datastore_endpoint, datastore_cafile, datastore_certfile, datastore_keyfile
    )
    settings["apiserver_flags"] = flags or None
    run_part("server", data_dir, port=port, bind_address=bind_address, **settings)


@app.command(epilog="Example: sampan node --data-dir ./boat   # with `sampan runtime` beside it")
def node(data_dir: DataDir = None) -> None:
    """Run the node agent alone, in the foreground."""
    run_part("node", data_dir)


@app.command(epilog="Example: sampan runtime --listen unix:///run/sampan/cri.sock")
def runtime(
    data_dir: DataDir = None,
    listen: Annotated[
        str | None,
        typer.Option(
            help="Socket to serve CRI on. [default: cri.sock in the run directory]",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file (docs/runtime.md).", show_default=False)
    ] = None,
) -> None:
    """Run the CRI runtime alone, in the foreground: for a stock kubelet, crictl or `sampan node`."""
    from sampan.cli.standalone import read

    try:
        settings = read(config)
    except ConfigError as error:
        raise fail(error) from None
    settings["pod_cidr_told"] = "cluster_cidr" not in settings
    run_part("runtime", data_dir, **settings | ({"cri_listen": listen} if listen else {}))


def touching_store(work: Callable[[], int]) -> typer.Exit:
    """The exit of a command on the store; what goes wrong with it is one line."""
    from sampan.store import StoreError

    try:
        return typer.Exit(work())
    except (ConfigError, StoreError) as error:
        return fail(error)


@store.command("backup", epilog="Example: sampan store backup boat.db")
def store_backup(
    file: Annotated[Path, typer.Argument(help="File to write (0600).", dir_okay=False)],
    data_dir: DataDir = None,
) -> None:
    """Copy the cluster's data into one file, while it runs or not."""
    from sampan.cli.store import backup

    raise touching_store(lambda: backup(load(data_dir), file))


@store.command("restore", epilog="Example: sampan store restore boat.db")
def store_restore(
    file: Annotated[Path, typer.Argument(help="A backup.", exists=True, dir_okay=False)],
    data_dir: DataDir = None,
) -> None:
    """Put a backup in the place of the cluster's data, while it runs or not. Clients are told to list again."""
    from sampan.cli.store import restore

    raise touching_store(lambda: restore(load(data_dir), file))


@store.command(
    "migrate",
    epilog="Example: sampan store migrate --from sqlite --to https://e1:2379,https://e2:2379",
)
def store_migrate(
    source: Annotated[
        str, typer.Option("--from", help="sqlite (of this data directory), a file, or endpoints.")
    ],
    target: Annotated[str, typer.Option("--to", help="The same.")],
    overwrite: Annotated[bool, typer.Option(help="Replace what the target holds.")] = False,
    datastore_cafile: CAFile = None,
    datastore_certfile: CertFile = None,
    datastore_keyfile: KeyFile = None,
    data_dir: DataDir = None,
) -> None:
    """Move the cluster's data to another engine. Stop the servers first (sampan down --keep-pods)."""
    from sampan.cli.store import migrate, named

    def work() -> int:
        try:
            config = Config.load(data_dir)
        except ConfigError:
            config = None
        tls = (datastore_cafile or "", datastore_certfile or "", datastore_keyfile or "")
        return migrate(named(source, config, tls), named(target, config, tls), overwrite=overwrite)

    raise touching_store(work)
