"""What one Envoy sidecar is to do, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from app.core.net import Address
from app.spiffe.id import SpiffeId

# SVIDs live for hours, or for minutes where somebody is careful; a handshake a minute costs nothing.
CONNECTION_SECONDS = 60.0


class Protocol(Enum):
    """How the sidecar puts its authorization checks to the control plane."""

    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Inbound:
    """A listener for mutual TLS that has each request checked and counted, and hands it to the workload."""

    name: str
    listen: Address
    workload: Address
    check: Protocol = Protocol.GRPC


@dataclass(frozen=True, slots=True)
class Outbound:
    """A plaintext listener for the workload itself; what it takes goes to `peer` over mutual TLS.

    The peer must prove to be `peer_id`. A connection to it is replaced after `connection_seconds`, so that a new
    certificate is soon in use; calls under way on the old one end on it.
    """

    name: str
    listen: Address
    peer: Address
    peer_id: SpiffeId
    connection_seconds: float = CONNECTION_SECONDS


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Where the control plane's TLS port is, and the DNS name that its certificate must carry.

    A connection to it is replaced after `connection_seconds`. It must be well below half the life of the sidecar's
    SVID: the control plane takes no call over a connection that was made with an SVID which has expired since.
    """

    address: Address
    name: str
    connection_seconds: float = CONNECTION_SECONDS


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One Envoy: who it speaks for, where its agent and the control plane are, and what it listens on.

    `sds_socket` is the path of the agent's Unix socket; `quota_domain` the domain of the limits that inbound requests
    count against. `labels` are told to the control plane as the labels of the destination workload.
    """

    spiffe_id: SpiffeId
    admin: Address
    sds_socket: str
    control_plane: ControlPlane
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    quota_domain: str = "mesh"
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
