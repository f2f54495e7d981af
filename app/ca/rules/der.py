"""DER, as much of it as a certificate needs (X.690): every function returns the encoding of one value."""

from datetime import UTC, datetime

# X.690, section 8.1.3: a length below this is one byte, a longer one is preceded by the number of its bytes.
_LONG_LENGTH = 0x80
# RFC 5280, section 4.1.2.5: UTCTime until 2049, and no earlier than it can say.
_FIRST_YEAR, _FIRST_GENERALIZED_YEAR = 1950, 2050

INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, UTF8_STRING = 0x02, 0x03, 0x04, 0x06, 0x0C
UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x17, 0x18, 0x30, 0x31
TRUE = b"\x01\x01\xff"


def value(tag: int, content: bytes) -> bytes:
    """Return a value with its tag and length."""
    size = len(content)
    if size < _LONG_LENGTH:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, _LONG_LENGTH | len(length))) + length + content


def explicit(number: int, content: bytes) -> bytes:
    """Return an encoded value in a context-specific tag, below 31."""
    return value(0xA0 | number, content)


def implicit(number: int, content: bytes) -> bytes:
    """Return a primitive value with a context-specific tag, below 31, in the place of its own."""
    return value(0x80 | number, content)


def sequence(*members: bytes) -> bytes:
    """Return a SEQUENCE of encoded members."""
    return value(SEQUENCE, b"".join(members))


def positive(number: int) -> bytes:
    """Return an INTEGER. Raises ValueError unless it is positive."""
    if number <= 0:
        raise ValueError("the number is not positive")
    return value(INTEGER, number.to_bytes(number.bit_length() // 8 + 1))


def time(moment: datetime) -> bytes:
    """Return a time in the whole seconds of RFC 5280, section 4.1.2.5. Raises ValueError for one before 1950."""
    moment = moment.astimezone(UTC)
    if moment.year < _FIRST_YEAR:
        raise ValueError("the time is before 1950")
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return value(UTC_TIME, f"{moment:%y%m%d%H%M%S}Z".encode())
    return value(GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%S}Z".encode())
