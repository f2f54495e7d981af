"""The trust bundle in the forms that it is handed out in."""

import base64
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from app.core.errors import InternalError
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import parse_certificate

# How often a consumer is asked to look for changes. Keys are published several hints before they are used.
REFRESH_HINT_SECONDS = 300

_JWK_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48)}


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The root certificates (PEM, one each) that vouch for the SVIDs of a trust domain.

    `sequence` grows whenever the roots change.
    """

    trust_domain: TrustDomain
    roots: tuple[str, ...]
    sequence: int = 0


def bundle_pem(bundle: TrustBundle) -> str:
    """Return the roots as one PEM document."""
    return "".join(bundle.roots)


def bundle_jwks(bundle: TrustBundle) -> dict[str, Any]:
    """Return the SPIFFE bundle document (SPIFFE Trust Domain and Bundle, section 4; X509-SVID, section 6.1)."""
    return {
        "keys": [_jwk(parse_certificate(root)) for root in bundle.roots],
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": REFRESH_HINT_SECONDS,
    }


def _jwk(root: x509.Certificate) -> dict[str, Any]:
    der = base64.b64encode(root.public_bytes(Encoding.DER)).decode("ascii")
    return {**_key_parameters(root), "use": "x509-svid", "x5c": [der]}


def _key_parameters(root: x509.Certificate) -> dict[str, str]:
    match root.public_key():
        case ec.EllipticCurvePublicKey() as key if key.curve.name in _JWK_CURVES:
            name, size = _JWK_CURVES[key.curve.name]
            numbers = key.public_numbers()
            return {"kty": "EC", "crv": name, "x": _base64url(numbers.x, size), "y": _base64url(numbers.y, size)}
        case _:
            raise InternalError("a root has a key of a kind that has no JWK form here")


def _base64url(value: int, size: int) -> str:
    """RFC 7518, sections 2 and 6: big-endian, for curve points of the full size of the field."""
    return base64.urlsafe_b64encode(value.to_bytes(size, "big")).decode("ascii").rstrip("=")
