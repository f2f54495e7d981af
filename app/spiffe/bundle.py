"""Trust bundles, as PEM and as JSON (SPIFFE Trust Domain and Bundle, section 4; X509-SVID, section 6.1)."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.core.errors import InternalError, InvalidInputError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.x509_svid import MALFORMED, authority_ids, parse_certificate

# Roots of one trust domain: the current one, the next one, and room for a slow migration.
MAX_ROOTS = 64
# A bundle of that many roots with RSA keys is about 128 KB.
MAX_BUNDLE_BYTES = 256 * 1024
# The revocation lists of all signing authorities, PEM: some 15,000 certificates. Each stream is sent all of it.
MAX_CRLS_BYTES = 1024 * 1024
# How often a consumer is asked to look for changes. Keys are published several hints before they are used.
REFRESH_HINT_SECONDS = 300
# Hexadecimal digits of a version: 64 bits distinguish the few bundles of a trust domain.
VERSION_DIGITS = 16

_X509_USE = "x509-svid"
_CRL_END = "-----END X509 CRL-----\n"
_JWK_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots (PEM, one each) that vouch for the SVIDs of a trust domain. `sequence` grows when they change.

    `withdrawn` are the ids of signing authorities whose SVIDs are to be replaced. `crls` are the revocation lists (PEM)
    of all signing authorities, or none of them: a verifier that has some refuses what other authorities have signed.
    """

    trust_domain: TrustDomain
    roots: tuple[str, ...]
    sequence: int = 0
    withdrawn: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """A short name of exactly these roots and lists, the same at every replica."""
        return hashlib.sha256("".join((*self.roots, *self.crls)).encode()).hexdigest()[:VERSION_DIGITS]


def parse_bundle(text: str) -> tuple[x509.Certificate, ...]:
    """Return the roots in a bundle document of either form.

    Keys of a JSON document that are not for X509-SVIDs are ignored. Raises InvalidInputError if the document is too
    large or not well-formed, or has no root or too many.
    """
    if len(text) > MAX_BUNDLE_BYTES:
        raise InvalidInputError(f"the trust bundle is longer than {MAX_BUNDLE_BYTES} bytes")
    is_json = text.lstrip().startswith("{")
    try:
        roots = _jwks_certificates(text) if is_json else x509.load_pem_x509_certificates(text.encode("ascii"))
    except (*MALFORMED, KeyError, AttributeError, RecursionError) as error:
        problem = "the trust bundle holds no well-formed PEM certificate or SPIFFE bundle document"
        raise InvalidInputError(problem) from error
    if not 1 <= len(roots) <= MAX_ROOTS:
        raise InvalidInputError(f"the trust bundle has {len(roots)} X.509 roots, not 1 to {MAX_ROOTS}")
    return tuple(roots)


def parse_crls(text: str) -> tuple[str, ...]:
    """Return the revocation lists (PEM) in a document of any number of them, each in the form that it is compared in.

    Raises InvalidInputError if the document is too large or not well-formed.
    """
    if len(text) > MAX_CRLS_BYTES:
        raise InvalidInputError(f"the revocation lists are longer than {MAX_CRLS_BYTES} bytes")
    *parts, rest = text.split(_CRL_END)
    try:
        crls = [x509.load_pem_x509_crl(f"{part}{_CRL_END}".encode("ascii")) for part in parts]
    except MALFORMED as error:
        raise InvalidInputError("the trust bundle has a malformed revocation list") from error
    if rest.strip():
        raise InvalidInputError("the trust bundle has something else among its revocation lists")
    return tuple(crl.public_bytes(Encoding.PEM).decode("ascii") for crl in crls)


def trust_domain_of(roots: Sequence[x509.Certificate]) -> TrustDomain:
    """Return the trust domain whose id the roots have. Raises InvalidInputError if they have none, or several."""
    try:
        ids = {SpiffeId.parse(spiffe_id) for root in roots for spiffe_id in authority_ids(root)}
    except MALFORMED as error:
        raise InvalidInputError("a root of the trust bundle is not well-formed") from error
    if len(ids) != 1:
        raise InvalidInputError(f"its roots have the SPIFFE IDs of {len(ids)} trust domains, not of one")
    return ids.pop().trust_domain


def bundle_pem(bundle: TrustBundle) -> str:
    """Return the roots as one PEM document."""
    return "".join(bundle.roots)


def bundle_jwks(bundle: TrustBundle) -> dict[str, Any]:
    """Return the SPIFFE bundle document."""
    return {
        "keys": [_jwk(parse_certificate(root)) for root in bundle.roots],
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": REFRESH_HINT_SECONDS,
    }


def _jwks_certificates(text: str) -> list[x509.Certificate]:
    chains = [key["x5c"] for key in json.loads(text)["keys"] if key["use"] == _X509_USE]
    return [x509.load_der_x509_certificate(base64.b64decode(der, validate=True)) for (der,) in chains]


def _jwk(root: x509.Certificate) -> dict[str, Any]:
    der = base64.b64encode(root.public_bytes(Encoding.DER)).decode("ascii")
    return {**_key_parameters(root), "use": _X509_USE, "x5c": [der]}


def _key_parameters(root: x509.Certificate) -> dict[str, str]:
    match root.public_key():
        case ec.EllipticCurvePublicKey() as key if key.curve.name in _JWK_CURVES:
            name, size = _JWK_CURVES[key.curve.name]
            point = key.public_numbers()
            return {"kty": "EC", "crv": name, "x": _base64url(point.x, size), "y": _base64url(point.y, size)}
        case rsa.RSAPublicKey() as key:
            numbers, size = key.public_numbers(), key.key_size // 8
            exponent_size = (numbers.e.bit_length() + 7) // 8
            return {"kty": "RSA", "n": _base64url(numbers.n, size), "e": _base64url(numbers.e, exponent_size)}
        case ed25519.Ed25519PublicKey() as key:
            return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(int.from_bytes(key.public_bytes_raw()), 32)}
        case _:
            raise InternalError("a root has a key of a kind that has no JWK form here")


def _base64url(value: int, size: int) -> str:
    """RFC 7518, sections 2 and 6: big-endian, for curve points of the full size of the field, for RSA the shortest."""
    return base64.urlsafe_b64encode(value.to_bytes(size, "big")).decode("ascii").rstrip("=")
