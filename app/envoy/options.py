"""A sidecar as the command line spells it: `meshward envoy bootstrap`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.core.errors import InvalidInputError, located
from app.core.net import parse_address
from app.envoy.sidecar import ControlPlane, Inbound, Outbound, Protocol, Sidecar
from app.spiffe.id import SpiffeId

# The length of `sun_path` on Linux, less its closing NUL.
MAX_SOCKET_PATH_BYTES = 107
# No comma and no percent sign: Envoy writes labels into a header, as a list and through its formatter.
_LABEL = re.compile(r"[A-Za-z0-9./_-]{1,317}")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """The options as they were given.

    `inbound` is `LISTEN=WORKLOAD`, `outbound` is `LISTEN=PEER=SPIFFE-ID`, where each address is `HOST:PORT`; `label`
    is `KEY=VALUE`. `control_plane_name` may be empty: the host of `control_plane` then.
    """

    spiffe_id: str
    sds_socket: str
    control_plane: str
    control_plane_name: str
    admin: str
    quota_domain: str
    check: Protocol
    inbound: Sequence[str]
    outbound: Sequence[str]
    label: Sequence[str]


def sidecar_of(options: BootstrapOptions) -> Sidecar:
    """Return the sidecar that `options` describe. Raises InvalidInputError that names the option at fault."""
    control_plane = _read("--control-plane", options.control_plane, parse_address)
    return Sidecar(
        spiffe_id=_read("--spiffe-id", options.spiffe_id, workload_of),
        admin=_read("--admin", options.admin, parse_address),
        sds_socket=_read("--sds-socket", options.sds_socket, _socket_path),
        control_plane=ControlPlane(control_plane, options.control_plane_name or control_plane.host),
        inbound=tuple(_read("--inbound", text, lambda text: _inbound(text, options.check)) for text in options.inbound),
        outbound=tuple(_read("--outbound", text, _outbound) for text in options.outbound),
        quota_domain=_read("--quota-domain", options.quota_domain, _not_empty),
        labels=dict(_read("--label", text, _label) for text in options.label),
    )


def workload_of(text: str) -> SpiffeId:
    """Return the SPIFFE ID of a workload that `text` spells. Raises InvalidInputError."""
    spiffe_id = SpiffeId.parse(text)
    if not spiffe_id.path:
        raise InvalidInputError(f"{text!r} has no path: it names a trust domain, not a workload")
    return spiffe_id


def _socket_path(text: str) -> str:
    if len(text.encode()) > MAX_SOCKET_PATH_BYTES or not text.startswith("/"):
        raise InvalidInputError(f"{text!r} is not an absolute path of up to {MAX_SOCKET_PATH_BYTES} bytes")
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
    return Outbound(f"outbound-{at.port}", at, parse_address(peer), workload_of(peer_id))


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
