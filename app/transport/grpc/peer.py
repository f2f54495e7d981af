"""Who is at the other end of the connection, from the ASGI scope."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.core.errors import MeshwardError, UnauthenticatedError
from app.spiffe.id import SpiffeId

# Hosts and client certificates whose identity is remembered; a node has a few hundred workloads.
PEER_CACHE_SIZE = 4096
# A leaf that is longer is refused before it is parsed.
MAX_CERTIFICATE_PEM_BYTES = 16 * 1024


# What the library makes of a certificate that it cannot read.
UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
    x509.DuplicateExtension,
)


@dataclass(frozen=True, slots=True)
class PeerSvid:
    """The identity in a client certificate, or `problem` if it has none that counts."""

    spiffe_id: SpiffeId | None
    not_after: datetime
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """`address` is `host:port` or `unix`; `chain` is the verified client chain, PEM, leaf first."""

    address: str
    local: bool
    tls: bool
    chain: tuple[str, ...] = ()
    svid: PeerSvid | None = None


def read_peer(scope: Mapping[str, Any]) -> Peer:
    """Return the peer of an ASGI scope. Takes the TLS chain only if the server verified it."""
    tls = scope.get("extensions", {}).get("tls")
    host, port = scope.get("client") or ("unix", 0)
    address = f"{host}:{port}" if host != "unix" else host
    if tls is None:
        return Peer(address, is_local(host), tls=False)
    chain = () if tls.get("client_cert_error") else tuple(tls["client_cert_chain"])
    return Peer(address, is_local(host), tls=True, chain=chain, svid=read_svid(chain[0]) if chain else None)


@lru_cache(maxsize=PEER_CACHE_SIZE)
def is_local(host: str) -> bool:
    """Whether `host` (an address, or `unix`) is this machine."""
    if host == "unix":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=PEER_CACHE_SIZE)
def read_svid(pem: str) -> PeerSvid:
    """Return the SPIFFE id of a client certificate whose chain has been verified.

    X509-SVID standard, 4 and 5.2: exactly one URI SAN, a valid id with a path, and not a signing certificate.
    """
    try:
        if len(pem) > MAX_CERTIFICATE_PEM_BYTES:
            raise UnauthenticatedError("client certificate is too long")
        certificate = x509.load_pem_x509_certificate(pem.encode("ascii"))
        return PeerSvid(_leaf_id(certificate), certificate.not_valid_after_utc)
    except MeshwardError as error:
        return PeerSvid(None, datetime.min.replace(tzinfo=UTC), error.message)
    except UNREADABLE as error:
        return PeerSvid(None, datetime.min.replace(tzinfo=UTC), f"client certificate cannot be read: {error}")


def _leaf_id(certificate: x509.Certificate) -> SpiffeId:
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise UnauthenticatedError(f"client certificate has {len(uris)} URI names: an SVID has exactly one")
    spiffe_id = SpiffeId.parse(uris[0])
    if not spiffe_id.path:
        raise UnauthenticatedError("client certificate carries a trust domain's id: only signing certificates do")
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise UnauthenticatedError("client certificate is a signing certificate, which never authenticates")
    except x509.ExtensionNotFound:
        pass  # absent means "not a CA" (RFC 5280, 4.2.1.9)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    if usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise UnauthenticatedError("client certificate's key usage is not that of a leaf SVID")
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise UnauthenticatedError("client certificate is not for client authentication")
    return spiffe_id
