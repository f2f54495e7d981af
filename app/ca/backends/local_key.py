"""A signing key in the memory of this process."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.ca.model import KeyAlgorithm
from app.ca.ports import Document, SigningKey, Unsigned
from app.ca.rules.profile import signing_hash
from app.core.errors import InternalError, InvalidInputError
from app.spiffe.x509_svid import MALFORMED

_CURVES: dict[KeyAlgorithm, type[ec.EllipticCurve]] = {
    KeyAlgorithm.P256: ec.SECP256R1,
    KeyAlgorithm.P384: ec.SECP384R1,
}


class LocalKey(SigningKey):
    """A SigningKey around a private key object, which only this module reads."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey) -> None:
        self._private_key = private_key
        self._public_key = private_key.public_key()
        self._hash = signing_hash(self._public_key)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    async def sign(self, document: Unsigned[Document]) -> Document:
        try:
            return document.sign(self._private_key, self._hash)
        except MALFORMED as error:
            raise InternalError("a certificate could not be signed") from error


def generate(algorithm: KeyAlgorithm) -> tuple[LocalKey, bytes]:
    """Return a new key, and its PKCS#8 PEM for the store that keeps it."""
    private_key = ec.generate_private_key(_CURVES[algorithm]())
    return LocalKey(private_key), private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse(pem: bytes) -> LocalKey:
    """Return the key that PKCS#8 PEM contains. Raises InvalidInputError if it does not contain an EC private key."""
    try:
        private_key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError("not a private key in PKCS#8 PEM") from error
    if not isinstance(private_key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError("not an EC private key")
    return LocalKey(private_key)
