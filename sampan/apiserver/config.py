"""What an API server is told when it is made. Plain values: the environment is never read in this room."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sampan.apiserver.security import SecurityConfig


@dataclass(slots=True)
class ServerConfig:
    pki: Path  # <data>/pki: ca, apiserver, admin, kubelet-client, service-account
    kubeconfig: Path  # admin kubeconfig, written at start
    address: str = "127.0.0.1"
    port: int = 6443  # 0: any free port; `APIServer.port` says which
    names: tuple[str, ...] = ()  # further names and addresses in the serving certificate
    advertise: str = ""  # address in the `kubernetes` endpoints; "": `address`
    service_cidr: str = "10.43.0.0/16"
    node_ports: tuple[int, int] = (30000, 32767)
    cluster_domain: str = "cluster.local"
    issuer: str = ""  # of service-account tokens; "": the API server's name in the cluster's domain
    audiences: tuple[str, ...] = field(default=())  # accepted beside the issuer
    event_ttl: float = 3600.0  # seconds that Events live
    authorization: bool = True  # False: whoever is authenticated may do anything
    body_limit: int = 3 * 1024 * 1024
    # Seats that the priority levels share. Kubernetes has 600 for many processors; here one does nearly all the work, so more
    # seats would bring no more answers, only a longer wait for each of them, whoever's it is. A write holds its seat while it
    # waits for the disk with others: these many give service accounts' 82, and the disk its crowd.
    max_requests_in_flight: int = 200
    request_timeout: float = 60.0  # seconds; watches and upgrades are not bound by it
    watch_timeout: tuple[float, float] = (
        1800.0,
        3600.0,
    )  # a watch without timeoutSeconds ends in between
    bookmark_interval: float = 60.0
    security: SecurityConfig = field(default_factory=SecurityConfig)

    def __post_init__(self) -> None:
        self.issuer = (
            self.issuer
            or self.security.service_account_issuer
            or f"https://kubernetes.default.svc.{self.cluster_domain}"
        )
        self.audiences = self.audiences or self.security.audiences

    @property
    def audience(self) -> tuple[str, ...]:
        """Audiences of our own tokens."""
        return self.audiences or (self.issuer,)
