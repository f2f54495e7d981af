"""A signing key in the memory of this process."""

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.ca.backends.encrypted_key import TITLE, encrypted
from app.ca.model import KeyAlgorithm
from app.ca.ports import Document, SigningKey, Unsigned
from app.ca.rules.signatures import PrivateKey, signing_hash
from app.core.errors import InternalError, InvalidInputError
from app.spiffe.keys import MIN_RSA_EXPONENT, SubjectKey
from app.spiffe.x509_svid import MALFORMED

_CURVES: dict[KeyAlgorithm, type[ec.EllipticCurve]] = {
    KeyAlgorithm.P256: ec.SECP256R1,
    KeyAlgorithm.P384: ec.SECP384R1,
    KeyAlgorithm.P521: ec.SECP521R1,
}
_RSA_BITS = {KeyAlgorithm.RSA_2048: 2048, KeyAlgorithm.RSA_3072: 3072, KeyAlgorithm.RSA_4096: 4096}


class LocalKey(SigningKey):
    """A SigningKey around a private key object, which only this module reads."""

    def __init__(self, private_key: PrivateKey) -> None:
        self._private_key = private_key
        self._public_key = private_key.public_key()
        self._hash = signing_hash(self._public_key)

    @property
    def public_key(self) -> SubjectKey:
        return self._public_key

    async def sign(self, document: Unsigned[Document]) -> Document:
        try:
            return document.sign(self._private_key, self._hash)
        except MALFORMED as error:
            raise InternalError("a certificate could not be signed") from error


def generate(algorithm: KeyAlgorithm, passphrase: bytes | None = None) -> tuple[LocalKey, bytes]:
    """Return a new key, and its PKCS#8 PEM for the store that keeps it, encrypted if there is a passphrase."""
    private_key: PrivateKey
    if algorithm in _CURVES:
        private_key = ec.generate_private_key(_CURVES[algorithm]())
    elif algorithm is KeyAlgorithm.ED25519:
        private_key = ed25519.Ed25519PrivateKey.generate()
    else:
        private_key = rsa.generate_private_key(MIN_RSA_EXPONENT, _RSA_BITS[algorithm])
    key = LocalKey(private_key)
    return key, as_pem(key, passphrase)


def as_pem(key: LocalKey, passphrase: bytes | None) -> bytes:
    """Return a key as PKCS#8 PEM, encrypted if there is a passphrase."""
    encoding = Encoding.PEM if passphrase is None else Encoding.DER
    content = key._private_key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())  # noqa: SLF001 - as above
    return content if passphrase is None else encrypted(content, passphrase)


def is_encrypted(pem: bytes) -> bool:
    """Whether PEM says that it is a key under a passphrase."""
    return f"-----BEGIN {TITLE}-----".encode() in pem


def parse(pem: bytes, passphrase: bytes | None = None) -> LocalKey:
    """Return the key that PKCS#8 PEM contains.

    Raises InvalidInputError if it does not contain an EC, RSA or Ed25519 private key, or not under the passphrase.
    """
    if (passphrase is not None) != is_encrypted(pem):
        problem = "not encrypted, and there is a passphrase" if passphrase else "encrypted, and there is no passphrase"
        raise InvalidInputError(problem)
    try:
        private_key = load_pem_private_key(pem, password=passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        wrong = "the passphrase is wrong, or it is damaged" if passphrase else "not a private key in PKCS#8 PEM"
        # What the library raises is not passed on: it may quote what it read.
        raise InvalidInputError(wrong) from error
    if not isinstance(private_key, PrivateKey):
        raise InvalidInputError("not an EC, RSA or Ed25519 private key")
    return LocalKey(private_key)
