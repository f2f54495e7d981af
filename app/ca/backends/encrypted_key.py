"""Private keys under a passphrase: PKCS#8 with PBES2, scrypt and AES-256-CBC (RFC 5958, RFC 8018, RFC 7914).

`cryptography` reads these and writes keys with 2,048 rounds of PBKDF2 alone, which a passphrase that people choose does
not withstand; so the dozen elements around the ciphertext are written here. `openssl pkey` reads them as well.
"""

import os
import textwrap
from base64 import b64encode

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

# 16 MiB and a fifth of a second a guess: what OpenSSL can still read, repeated as OWASP advises for so little memory.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5
SALT_BYTES = 16
KEY_BYTES = 32
BLOCK_BITS = 128
# In PEM (RFC 7468, section 11).
TITLE = "ENCRYPTED PRIVATE KEY"

_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
# 1.2.840.113549.1.5.13, 1.3.6.1.4.1.11591.4.11 and 2.16.840.1.101.3.4.1.42.
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_AES_256_CBC = bytes.fromhex("60864801650304012a")
_LONG_LENGTH = 0x80


def encrypted(pkcs8: bytes, passphrase: bytes) -> bytes:
    """Return a key (PKCS#8, DER) as an EncryptedPrivateKeyInfo in PEM."""
    salt, vector = os.urandom(SALT_BYTES), os.urandom(BLOCK_BITS // 8)
    key = Scrypt(salt, KEY_BYTES, SCRYPT_N, SCRYPT_R, SCRYPT_P).derive(passphrase)
    padder, encryptor = PKCS7(BLOCK_BITS).padder(), Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    content = encryptor.update(padder.update(pkcs8) + padder.finalize()) + encryptor.finalize()
    costs = b"".join(map(_integer, (SCRYPT_N, SCRYPT_R, SCRYPT_P)))
    derivation = _algorithm(_SCRYPT, _element(_SEQUENCE, _element(_OCTETS, salt) + costs))
    scheme = _algorithm(_AES_256_CBC, _element(_OCTETS, vector))
    algorithm = _algorithm(_PBES2, _element(_SEQUENCE, derivation + scheme))
    document = b64encode(_element(_SEQUENCE, algorithm + _element(_OCTETS, content))).decode()
    lines = (f"-----BEGIN {TITLE}-----", *textwrap.wrap(document, 64), f"-----END {TITLE}-----")
    return "".join(f"{line}\n" for line in lines).encode()


def _algorithm(oid: bytes, parameters: bytes) -> bytes:
    return _element(_SEQUENCE, _element(_OID, oid) + parameters)


def _integer(value: int) -> bytes:
    return _element(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def _element(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < _LONG_LENGTH:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, _LONG_LENGTH | len(octets))) + octets + content
