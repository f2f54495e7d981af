"""The public keys of an issuer of JWTs, read from a JWK Set (RFC 7517)."""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.core.errors import InvalidInputError
from app.core.json_text import parse_object

# An issuer has two or three keys while it rotates; a set this large is a mistake.
MAX_JWKS_BYTES = 256 << 10
MAX_KEYS = 64
MAX_KEY_ID_LENGTH = 256
# RFC 7518, section 3.3, asks for 2048 bits; verifying with a larger key than the other costs milliseconds.
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# Each with the curve that it is for (RFC 7518, section 3.4).
EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# Of Ed25519 keys (RFC 8037, section 3.1).
ED_ALGORITHMS = frozenset({"EdDSA"})
# Everything that is verified here: no symmetric algorithm, and never `none`.
ALGORITHMS = RSA_ALGORITHMS | ED_ALGORITHMS | frozenset(EC_ALGORITHMS.values())
# What a key may say that it is for: nothing, signatures (RFC 7517, section 4.2), or JWT-SVIDs (SPIFFE bundles).
USES = frozenset({None, "sig", "jwt-svid"})

# Members of a key that only its holder may know: of a private key, and of a symmetric one.
_SECRETS = frozenset({"d", "k"})

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, its `kid` if it has one, and the only algorithms that it verifies; `declared` if it names them."""

    key_id: str | None
    public_key: PublicKey
    algorithms: frozenset[str]
    declared: bool = False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of one issuer."""

    keys: tuple[VerificationKey, ...]

    def named(self, key_id: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys that a token with this `kid` may be signed with: any key if it has none."""
        return tuple(key for key in self.keys if key_id in {None, key.key_id})


def parse_key_set(content: bytes) -> KeySet:
    """Return the keys of a JWK Set, without those that are not for signatures that are verified here.

    Raises InvalidInputError if it is not a JWK Set, is larger than MAX_JWKS_BYTES, has more than MAX_KEYS keys, or has
    keys of which none can be used. A set without keys is valid: its issuer has revoked them all.
    """
    found = _listed(content)
    keys = tuple(_usable(found))
    if found and not keys:
        raise InvalidInputError("the JWK Set has no RSA, EC or Ed25519 key for signatures")
    return KeySet(keys)


def secret_keys(content: bytes) -> tuple[int, ...]:
    """Return the numbers of the keys in a JWK Set that are private or symmetric (RFC 7518, section 6).

    Raises InvalidInputError if it is not a JWK Set.
    """
    keys = enumerate(_listed(content))
    return tuple(number for number, jwk in keys if isinstance(jwk, dict) and not _SECRETS.isdisjoint(jwk))


def _listed(content: bytes) -> list[object]:
    if len(content) > MAX_JWKS_BYTES:
        raise InvalidInputError(f"the JWK Set is larger than {MAX_JWKS_BYTES} bytes")
    found = parse_object(content, "the JWK Set").get("keys")
    if not isinstance(found, list):
        raise InvalidInputError("the JWK Set has no list 'keys'")
    if len(found) > MAX_KEYS:
        raise InvalidInputError(f"the JWK Set has more than {MAX_KEYS} keys")
    return found


def _usable(found: Iterable[object]) -> Iterable[VerificationKey]:
    for jwk in found:
        # RFC 7517, section 5: a key that is not understood is ignored.
        if isinstance(jwk, dict) and (key := _key(jwk)) is not None:
            yield key


def _key(jwk: dict[str, object]) -> VerificationKey | None:
    key_id, use, operations = jwk.get("kid"), jwk.get("use"), jwk.get("key_ops", ["verify"])
    if not (key_id is None or (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID_LENGTH)):
        return None
    if not (use is None or isinstance(use, str)) or use not in USES:
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        public_key, algorithms = _public_key(jwk)
    except (PyJWTError, ValueError, TypeError, AttributeError, KeyError, OverflowError, UnsupportedAlgorithm):
        return None
    if "alg" in jwk:
        algorithms &= {str(jwk["alg"])}
    return VerificationKey(key_id, public_key, algorithms, "alg" in jwk) if algorithms else None


def _public_key(jwk: dict[str, object]) -> tuple[PublicKey, frozenset[str]]:
    """Return the key and what it can verify. Raises ValueError, or what PyJWT and cryptography raise.

    A private key that somebody published proves nothing.
    """
    match jwk.get("kty"):
        case "RSA":
            key = RSAAlgorithm.from_jwk(jwk)
            if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                return key, RSA_ALGORITHMS
        case "EC":
            point = ECAlgorithm.from_jwk(jwk)
            if isinstance(point, ec.EllipticCurvePublicKey):
                return point, frozenset({EC_ALGORITHMS[point.curve.name]})
        case "OKP":
            edwards = OKPAlgorithm.from_jwk(jwk)
            if isinstance(edwards, ed25519.Ed25519PublicKey):
                return edwards, ED_ALGORITHMS
    raise ValueError("not a key for signatures")
