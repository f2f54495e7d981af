"""A key store on a token that makes keys inside itself and does nothing with them but sign a digest."""

from hashlib import sha256, sha384

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature

from app.ca.model import KeyAlgorithm
from app.ca.rules.profile import authority_id, signing_hash

_CURVES = {KeyAlgorithm.P256: ec.SECP256R1(), KeyAlgorithm.P384: ec.SECP384R1()}
_DIGESTS = {"sha256": sha256, "sha384": sha384}


class DigestToken:
    """What a PKCS#11 token offers: keys by label, and the two numbers of an ECDSA signature over a digest."""

    def __init__(self) -> None:
        self._keys = {}

    def generate(self, curve):
        key = ec.generate_private_key(curve)
        label = authority_id(key.public_key())
        self._keys[label] = key
        return label

    def public_key(self, label):
        return self._keys[label].public_key() if label in self._keys else None

    def sign_digest(self, label, digest):
        algorithm = {32: hashes.SHA256(), 48: hashes.SHA384()}[len(digest)]
        return decode_dss_signature(self._keys[label].sign(digest, ec.ECDSA(Prehashed(algorithm))))

    def destroy(self, label):
        self._keys.pop(label, None)


class TokenKeyStore:
    """A KeyStore over one token."""

    def __init__(self) -> None:
        self._token = DigestToken()

    async def create(self, algorithm):
        return TokenKey(self._token, self._token.generate(_CURVES[algorithm]))

    async def load(self, authority):
        return TokenKey(self._token, authority) if self._token.public_key(authority) else None

    async def remove(self, authority):
        self._token.destroy(authority)


class TokenKey:
    """A SigningKey whose private key is on the token."""

    def __init__(self, token, label) -> None:
        self._token, self._label = token, label
        self._public_key = token.public_key(label)

    @property
    def public_key(self):
        return self._public_key

    async def sign(self, document):
        return document.sign(_KeyOnToken(self._token, self._label), signing_hash(self.public_key))


class _KeyOnToken(ec.EllipticCurvePrivateKey):
    """What `cryptography` needs in the place of a private key that it cannot have."""

    def __init__(self, token, label) -> None:
        self._token, self._label = token, label

    def public_key(self):
        return self._token.public_key(self._label)

    @property
    def curve(self):
        return self.public_key().curve

    @property
    def key_size(self):
        return self.curve.key_size

    def sign(self, data, signature_algorithm):
        digest = _DIGESTS[signature_algorithm.algorithm.name](data).digest()
        return encode_dss_signature(*self._token.sign_digest(self._label, digest))

    def _refuse(self, *_args):
        raise AssertionError("the private key does not leave the token")

    exchange = private_numbers = private_bytes = __copy__ = __deepcopy__ = _refuse
