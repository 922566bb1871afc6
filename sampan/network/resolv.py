"""A pod's resolv.conf, from its dnsPolicy and dnsConfig and the host's file. Pure but for reading the host's file.

Rules: kubelet's (pkg/kubelet/network/dns): ClusterFirst searches the namespace, the cluster and then what the host
searches; ClusterFirstWithHostNet is ClusterFirst for host-network pods, which else fall back to Default; dnsConfig is
appended, its options win. Limits as glibc ≥ 2.26 and Kubernetes have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_NAMESERVERS, MAX_SEARCHES, MAX_SEARCH_LENGTH = 3, 32, 2048
CLUSTER_OPTIONS = ("ndots:5",)
HOST_FILE = Path("/etc/resolv.conf")
SYSTEMD_FILE = Path("/run/systemd/resolve/resolv.conf")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = tuple(words[1:])  # the last line counts
        elif words[0] == "options":
            options += words[1:]
    return ResolvConf(tuple(servers), searches, tuple(options))


def read_host(path: Path | None = None) -> ResolvConf:
    """The host's configuration: this file's, or that of the usual place; behind systemd-resolved's stub, that which the stub
    itself uses, since the stub answers nobody but the host.
    """
    for candidate in (path,) if path is not None else (HOST_FILE, SYSTEMD_FILE):
        try:
            found = parse(candidate.read_text())
        except OSError:
            continue
        stub = all(server.startswith("127.0.0.53") for server in found.nameservers)
        if path is not None or (found.nameservers and not stub):
            return found
    return ResolvConf()


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def for_pod(
    spec: Mapping[str, Any],
    namespace: str,
    *,
    cluster_dns: Iterable[str],
    cluster_domain: str = "cluster.local",
    host: ResolvConf | None = None,
) -> tuple[ResolvConf, list[str]]:
    """The pod's configuration, and a sentence for each limit that cut something off."""
    host = host if host is not None else read_host()
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    if policy == "ClusterFirstWithHostNet":
        policy = "ClusterFirst"
    servers = tuple(cluster_dns)
    if policy == "None":
        config = ResolvConf()
    elif policy == "ClusterFirst" and servers:
        own = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        config = ResolvConf(servers, _unique((*own, *host.searches)), CLUSTER_OPTIONS)
    else:
        config = host
    return _limit(_extend(config, spec.get("dnsConfig") or {}))


def _extend(config: ResolvConf, extra: Mapping[str, Any]) -> ResolvConf:
    options = {option.partition(":")[0]: option for option in config.options}
    for option in extra.get("options") or []:
        name, value = str(option.get("name", "")), option.get("value")
        options[name] = f"{name}:{value}" if value else name
    return ResolvConf(
        _unique((*config.nameservers, *(extra.get("nameservers") or []))),
        _unique((*config.searches, *(extra.get("searches") or []))),
        tuple(option for name, option in options.items() if name),
    )


def _limit(config: ResolvConf) -> tuple[ResolvConf, list[str]]:
    cut: list[str] = []
    if len(config.nameservers) > MAX_NAMESERVERS:
        config = replace(config, nameservers=config.nameservers[:MAX_NAMESERVERS])
        cut.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied "
            f"nameserver line is: {' '.join(config.nameservers)}"
        )
    searches = list(config.searches[:MAX_SEARCHES])
    while searches and len(" ".join(searches)) > MAX_SEARCH_LENGTH:
        searches.pop()
    if len(searches) < len(config.searches):
        config = replace(config, searches=tuple(searches))
        cut.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied "
            f"search line is: {' '.join(searches)}"
        )
    return config, cut
