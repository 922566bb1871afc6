"""Files that a pod's containers share and that name its place on the network: resolv.conf and hosts."""

from __future__ import annotations

from pathlib import Path

from sampan.runtime import files, spec
from sampan.runtime.records import SandboxEntry


def write_files(entry: SandboxEntry) -> Path | None:
    """The pod's resolv.conf and hosts; the path of the former, None when the host's is to be used."""
    names = [spec.hostname(entry.config)]
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{' '.join(names)}" for address in entry.network.addresses[:1]]
    files.put(entry.directory / "hosts", "\n".join(lines) + "\n", 0o644)
    dns = entry.config.dns_config
    path = entry.directory / "resolv.conf"
    if not (dns.servers or dns.searches or dns.options):
        try:
            host = Path("/etc/resolv.conf").read_text(errors="replace")
        except FileNotFoundError:
            host = ""
        files.put(path, host, 0o644)
        return path
    text = []
    if dns.searches:
        text.append("search " + " ".join(dns.searches))
    text += [f"nameserver {server}" for server in dns.servers]
    if dns.options:
        text.append("options " + " ".join(dns.options))
    files.put(path, "\n".join(text) + "\n", 0o644)
    return path
