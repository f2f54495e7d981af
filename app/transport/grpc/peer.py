"""The peer of a connection, from the ASGI scope."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from app.core.errors import InvalidInputError
from app.core.net import ip_of
from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import parse_certificate, read_leaf

# Hosts and client certificates whose identity is remembered; a node has a few hundred workloads.
PEER_CACHE_SIZE = 4096
# The address of every peer of a Unix socket: h2corn does not report who they are.
UNIX = "unix"


@dataclass(frozen=True, slots=True)
class PeerSvid:
    """The identity in a client certificate, its end and serial number, or the `problem` if it is not an X509-SVID."""

    spiffe_id: SpiffeId | None
    not_after: datetime
    problem: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: `host:port` or `unix`, and what its certificate proves (None without one)."""

    address: str
    local: bool
    tls: bool
    svid: PeerSvid | None = None

    @property
    def host(self) -> str:
        """The address without its port."""
        return host_of(self.address)

    @property
    def private(self) -> bool:
        """Whether only this process and the peer can read what they send: over TLS, or on this machine."""
        return self.tls or self.local


def host_of(address: str) -> str:
    """Return an address without its port."""
    return address.rpartition(":")[0] or address


def read_peer(scope: Mapping[str, Any]) -> Peer:
    """Return the peer of an ASGI scope. Uses the client certificate only if the server has verified it."""
    tls = scope.get("extensions", {}).get("tls")
    host, port = scope.get("client") or (UNIX, 0)
    address = f"{host}:{port}" if host != UNIX else host
    if tls is None:
        return Peer(address, is_local(host), tls=False)
    chain = () if tls.get("client_cert_error") else tuple(tls["client_cert_chain"])
    return Peer(address, is_local(host), tls=True, svid=read_svid(chain[0]) if chain else None)


@lru_cache(maxsize=PEER_CACHE_SIZE)
def is_local(host: str) -> bool:
    """Whether `host` (an address, or `unix`) is this machine."""
    address = ip_of(host)
    return host == UNIX or (address is not None and address.is_loopback)


@lru_cache(maxsize=PEER_CACHE_SIZE)
def read_svid(pem: str) -> PeerSvid:
    """Return the identity in a client certificate whose chain the TLS server has verified."""
    try:
        leaf = read_leaf(parse_certificate(pem))
    except InvalidInputError as error:
        problem = f"the client certificate is not an X509-SVID: {error.message}"
        return PeerSvid(None, datetime.min.replace(tzinfo=UTC), problem)
    return PeerSvid(leaf.spiffe_id, leaf.not_after, serial=leaf.serial)
