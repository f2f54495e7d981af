"""One Envoy sidecar as plain values, and how the options of `meshward envoy bootstrap` spell them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from app.core.errors import InvalidInputError, located
from app.core.net import Address, UnixSocket, parse_address, parse_endpoint, parse_socket_path
from app.spiffe.id import SpiffeId

# SVIDs live for hours, or for minutes in a careful installation; a handshake a minute costs nothing.
CONNECTION_SECONDS = 60.0
# No comma and no percent sign: Envoy writes labels into a header, as a list and through its formatter.
_LABEL = re.compile(r"[A-Za-z0-9./_-]{1,317}")

Value = TypeVar("Value")


class Protocol(Enum):
    """The protocol of the sidecar's authorization checks."""

    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Inbound:
    """A listener for mutual TLS: each request is checked, counted, and forwarded to the workload."""

    name: str
    listen: Address
    workload: Address
    check: Protocol = Protocol.GRPC


@dataclass(frozen=True, slots=True)
class Outbound:
    """A plaintext listener for the workload itself; its requests go to `peer` over mutual TLS.

    The peer must prove to be `peer_id`. A connection to it is replaced after `connection_seconds`, so that a new
    certificate is soon in use; calls in flight end on the old one.
    """

    name: str
    listen: Address
    peer: Address
    peer_id: SpiffeId
    connection_seconds: float = CONNECTION_SECONDS


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The address of the control plane's TLS port, and the DNS name that it is called by (SNI).

    Or its Unix socket, which has no TLS and so no name. A connection to it is replaced after `connection_seconds`. It
    must be well below half the life of the sidecar's SVID: the control plane refuses calls over a connection whose
    client certificate has expired.
    """

    address: Address | UnixSocket
    name: str = ""
    connection_seconds: float = CONNECTION_SECONDS


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One Envoy: its workload, where its agent and the control plane are, and what it listens on.

    `sds_socket` is the path of the agent's Unix socket; `quota_domain` the domain of the limits that inbound requests
    count against. `labels` are the workload's: a check carries them as those of the destination. `admin` is where
    Envoy's admin interface listens; it has none unless that is given.
    """

    spiffe_id: SpiffeId
    sds_socket: str
    control_plane: ControlPlane
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    quota_domain: str = "mesh"
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    admin: Address | None = None


def sidecar_of(  # noqa: PLR0913 - each command line option is a parameter
    *,
    spiffe_id: str,
    control_plane: str,
    control_plane_name: str,
    sds_socket: str,
    inbound: Sequence[str],
    outbound: Sequence[str],
    label: Sequence[str],
    quota_domain: str,
    check: Protocol,
    admin: str | None,
) -> Sidecar:
    """Return the sidecar that the options spell. Raises InvalidInputError that names the option at fault.

    An `inbound` is `LISTEN=WORKLOAD`, an `outbound` is `LISTEN=PEER=SPIFFE-ID`, where each address is `HOST:PORT`; a
    `label` is `KEY=VALUE`. The `control_plane` may be `unix:/path` as well. An empty `control_plane_name` stands for
    the host of `control_plane`.
    """
    address = _read("--control-plane", control_plane, parse_endpoint)
    name = _read("--control-plane-name", control_plane_name, lambda text: _server_name(text, address))
    return Sidecar(
        spiffe_id=_read("--spiffe-id", spiffe_id, _workload),
        sds_socket=_read("--sds-socket", sds_socket, parse_socket_path),
        control_plane=ControlPlane(address, name),
        inbound=tuple(_read("--inbound", text, lambda text: _inbound(text, check)) for text in inbound),
        outbound=tuple(_read("--outbound", text, _outbound) for text in outbound),
        quota_domain=_read("--quota-domain", quota_domain, _not_empty),
        labels=dict(_read("--label", text, _label) for text in label),
        admin=None if admin is None else _read("--admin", admin, parse_address),
    )


def _workload(text: str) -> SpiffeId:
    spiffe_id = SpiffeId.parse(text)
    if not spiffe_id.path:
        raise InvalidInputError(f"{text!r} has no path: it names a trust domain, not a workload")
    return spiffe_id


def _server_name(text: str, address: Address | UnixSocket) -> str:
    if isinstance(address, Address):
        return text or address.host
    if text:
        raise InvalidInputError(f"nothing is verified on {address}: leave the name out")
    return text


def _not_empty(text: str) -> str:
    if not text:
        raise InvalidInputError("must not be empty")
    return text


def _inbound(text: str, check: Protocol) -> Inbound:
    listen, workload = (parse_address(part) for part in _parts(text, "LISTEN=WORKLOAD"))
    return Inbound(f"inbound-{listen.port}", listen, workload, check)


def _outbound(text: str) -> Outbound:
    listen, peer, peer_id = _parts(text, "LISTEN=PEER=SPIFFE-ID")
    at = parse_address(listen)
    return Outbound(f"outbound-{at.port}", at, parse_address(peer), _workload(peer_id))


def _label(text: str) -> tuple[str, str]:
    key, value = _parts(text, "KEY=VALUE")
    if not _LABEL.fullmatch(key) or not _LABEL.fullmatch(value):
        raise InvalidInputError(f"{text!r} has a character other than letters, digits, dot, dash, underscore, slash")
    return key, value


def _parts(text: str, form: str) -> list[str]:
    parts = text.split("=")
    if len(parts) != form.count("=") + 1 or not all(parts):
        raise InvalidInputError(f"{text!r} is not {form}")
    return parts


def _read(option: str, text: str, parse: Callable[[str], Value]) -> Value:
    with located(option):
        return parse(text)
