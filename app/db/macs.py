"""Message authentication codes of rows, under keys that are not in the database."""

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.core.errors import InternalError
from app.spiffe.id import SpiffeId, TrustDomain

MAC_BYTES = 32
KEY_BYTES = 32
# Names the purpose of a derived key, and the encoding below; the name of the table follows.
KEY_LABEL = "meshward row mac 1: "
LENGTH_BYTES = 8

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class RowMacs:
    """Makes and verifies the MAC of a row: HMAC-SHA256 over its table, columns and values.

    Each table has a key of its own, derived from the secret (HKDF, RFC 5869), so that a row of one is none of another.
    """

    def __init__(self, secret: Callable[[], bytes]) -> None:
        """Take what returns the secret; it is called when a MAC is first needed, and what it raises is raised then."""
        self._secret = secret
        self._keys: dict[str, bytes] = {}

    def mac(self, table: str, row: Mapping[str, object]) -> bytes:
        """Return the MAC of a row: its columns, in any order, with their values."""
        if table not in self._keys:
            self._keys[table] = _derived(self._secret(), KEY_LABEL + table)
        return hmac.digest(self._keys[table], _encoded_row(row), sha256)

    def verifies(self, table: str, row: Mapping[str, object], mac: bytes | None) -> bool:
        """Whether `mac` is the MAC of the row. A row without one is not authentic."""
        return mac is not None and hmac.compare_digest(self.mac(table, row), mac)


def _derived(secret: bytes, label: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label.encode("ascii")).derive(secret)


def _encoded_row(row: Mapping[str, object]) -> bytes:
    return b"".join(_encoded(name) + _encoded(row[name]) for name in sorted(row))


def _encoded(value: object) -> bytes:
    """Return a value as its kind, the length of its content, and the content: no two values have one encoding."""
    kind, content = _content(value)
    return kind + len(content).to_bytes(LENGTH_BYTES) + content


def _content(value: object) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"n", b""
        case str() | SpiffeId() | TrustDomain():
            return b"s", str(value).encode("utf-8", "surrogatepass")
        case Enum():
            return _content(value.value)
        case bytes():
            return b"b", value
        case int():
            return b"i", b"%d" % value
        case datetime():
            return b"t", b"%d" % ((value - _EPOCH) // _MICROSECOND)
        case timedelta():  # of which a column keeps the whole seconds
            return b"d", b"%d" % int(value.total_seconds())
        case tuple():
            return b"l", b"".join(_encoded(item) for item in value)
        case _:
            raise InternalError(f"a value of type {type(value).__name__} cannot be in a row with a MAC")
