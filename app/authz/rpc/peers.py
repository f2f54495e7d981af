"""The peer of a check, from what Envoy verified: its certificate, or the one name that it sends of it.

Matched strictly, a peer has an X509-SVID or no identity, and any other certificate is refused. Matched as Istio does,
every name counts that Envoy's RBAC filter compares: the URI names, the DNS names and the subject.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import unquote

from cryptography import x509
from cryptography.x509.oid import NameOID

from app.authz.identity import ANONYMOUS, Identity
from app.authz.model import Matching
from app.core.errors import InvalidInputError
from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import MALFORMED, MAX_CERTIFICATE_BYTES, parse_certificate, read_leaf

# Peers that were read recently, by name or by the certificate's text, about 1 KB each.
MAX_KNOWN_NAMES = 4096
MAX_KNOWN_CERTIFICATES = 1024
# A percent-encoded byte takes three characters.
MAX_ENCODED_CERTIFICATE = 3 * MAX_CERTIFICATE_BYTES

# No name of a peer has them, and an expression would not match beyond one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# As OpenSSL writes an RFC 2253 name.
_SHORT_NAMES = {NameOID.EMAIL_ADDRESS: "emailAddress", NameOID.SERIAL_NUMBER: "serialNumber"}

ReadPeer = Callable[[str, str], Identity]
"""Takes `source.principal` and `source.certificate`, each empty if it was not sent, and returns the peer's identity.

Raises InvalidInputError if they are not what Envoy sends of one peer."""


def reader_of_peers(matching: Matching) -> ReadPeer:
    """Return how the peer of a check is read."""
    return _strict_peer if matching is Matching.STRICT else _named_peer


@lru_cache(maxsize=MAX_KNOWN_NAMES)
def read_identity(spiffe_id: str) -> Identity:
    """Return the peer's identity from its verified SPIFFE id; the empty text is a peer without one.

    Raises InvalidInputError if the text is not a SPIFFE id: a name of another kind is no identity in this mesh.
    """
    return Identity.of((str(SpiffeId.parse(spiffe_id)),)) if spiffe_id else ANONYMOUS


@lru_cache(maxsize=MAX_KNOWN_NAMES)
def read_name(name: str) -> Identity:
    """Return the peer's identity from the one name of it that is known; the empty text is a peer without one."""
    _check_name(name)
    return Identity.of((name,)) if name else ANONYMOUS


def _strict_peer(principal: str, certificate: str) -> Identity:
    if not certificate:
        return read_identity(principal)
    certified = _svid(certificate)
    if principal and read_identity(principal).principal != certified.principal:
        raise InvalidInputError("the source's principal is not the identity in its certificate")
    return certified


def _named_peer(principal: str, certificate: str) -> Identity:
    if not certificate:
        return read_name(principal)
    certified = _certified(certificate)
    if principal and principal not in certified.names:
        raise InvalidInputError("the source's principal is not a name in its certificate")
    return certified


@lru_cache(maxsize=MAX_KNOWN_CERTIFICATES)
def _svid(encoded: str) -> Identity:
    """Return the identity in a percent-encoded PEM certificate, which must be an X509-SVID."""
    try:
        certificate = _parsed(encoded)
        svid = read_leaf(certificate)
        names = tuple(_names_of(certificate))
    except InvalidInputError as error:
        raise InvalidInputError(f"the source's certificate is not an X509-SVID: {error.message}") from error
    if any("/" in name for name in names[1:]):
        # A rule about principals or namespaces could match it.
        raise InvalidInputError("the source's certificate has a name with a slash besides its SPIFFE ID")
    return Identity.of(names, svid.serial)


@lru_cache(maxsize=MAX_KNOWN_CERTIFICATES)
def _certified(encoded: str) -> Identity:
    """Return the identity in a percent-encoded PEM certificate of any kind."""
    certificate = _parsed(encoded)
    return Identity.of(_names_of(certificate), f"{certificate.serial_number:032x}")


def _parsed(encoded: str) -> x509.Certificate:
    if len(encoded) > MAX_ENCODED_CERTIFICATE:
        raise InvalidInputError(f"the source's certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    return parse_certificate(unquote(encoded))


def _names_of(certificate: x509.Certificate) -> Iterator[str]:
    """Yield the names that Envoy takes for a principal, in its order."""
    try:
        names = _alternative_names(certificate)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
        dns = names.get_values_for_type(x509.DNSName) if names else []
        subject = _subject(certificate.subject)
    except MALFORMED as error:
        raise InvalidInputError("the source's certificate is not well-formed") from error
    for name in (*uris, *dns, subject):
        if name:
            _check_name(name)
            yield name


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _check_name(name: str) -> None:
    if _CONTROL.search(name):
        raise InvalidInputError("a name of the source has a control character")


def _subject(name: x509.Name) -> str:
    """Return the subject as Envoy has it, in RFC 2253's form, in which OpenSSL escapes each byte beyond ASCII."""
    text = name.rfc4514_string(_SHORT_NAMES)
    if text.isascii():
        return text
    return "".join(one if one.isascii() else "".join(f"\\{byte:02X}" for byte in one.encode()) for one in text)
