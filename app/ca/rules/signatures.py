"""Signatures of authorities: the hash that goes with a key, and what `cryptography` has no builder for."""

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

from app.spiffe.keys import SubjectKey

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
SigningHash = SHA256 | SHA384 | SHA512 | None
"""The hash that is signed over; None for Ed25519, which has its own."""

_HASHES: dict[str, SigningHash] = {"secp384r1": SHA384(), "secp521r1": SHA512()}


def signing_hash(public_key: SubjectKey) -> SigningHash:
    """Return the hash that goes with a key's strength (FIPS 186-5, section 6.1.1)."""
    match public_key:
        case ec.EllipticCurvePublicKey():
            return _HASHES.get(public_key.curve.name, SHA256())
        case rsa.RSAPublicKey():
            return SHA256()
        case _:
            return None


def signature_of(private_key: PrivateKey, content: bytes, algorithm: SigningHash) -> bytes:
    """Return a signature: ECDSA, RSASSA-PKCS1-v1_5 or Ed25519. Raises ValueError for a hash that is not the key's."""
    match private_key:
        case ed25519.Ed25519PrivateKey() if algorithm is None:
            return private_key.sign(content)
        case rsa.RSAPrivateKey() if algorithm is not None:
            return private_key.sign(content, PKCS1v15(), algorithm)
        case ec.EllipticCurvePrivateKey() if algorithm is not None:
            return private_key.sign(content, ec.ECDSA(algorithm))
        case _:
            raise ValueError("the hash is not the key's")


def verify_signature(public_key: SubjectKey, signature: bytes, content: bytes) -> None:
    """Check a signature over the hash of `signing_hash`. Raises InvalidSignature of `cryptography`."""
    algorithm = signing_hash(public_key)
    match public_key:
        case ed25519.Ed25519PublicKey():
            public_key.verify(signature, content)
        case rsa.RSAPublicKey() if algorithm is not None:
            public_key.verify(signature, content, PKCS1v15(), algorithm)
        case ec.EllipticCurvePublicKey() if algorithm is not None:
            public_key.verify(signature, content, ec.ECDSA(algorithm))
