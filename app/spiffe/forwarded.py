"""The header `x-forwarded-client-cert`, as Envoy writes it for the peer that it verified."""

from collections.abc import Iterator

from app.core.errors import InvalidInputError

# A chain of a few proxies, each with a certificate's fields; Envoy's whole header block has 60 KB.
MAX_HEADER_LENGTH = 16 * 1024


def peer_uri(header: str, *, alone: bool = False) -> str:
    """Return the URI name of the direct peer's certificate, the last element of the header; `alone`: the only one.

    Elements are parted by commas, fields by semicolons, and a value may stand in double quotes, in which a backslash
    keeps the next character. Raises InvalidInputError if the element has not exactly one `URI`, as an SVID has, or the
    header is not written so.
    """
    if len(header) > MAX_HEADER_LENGTH:
        raise InvalidInputError("x-forwarded-client-cert is too long")
    *others, element = _split(header, ",")
    if others and alone:
        raise InvalidInputError("x-forwarded-client-cert has several elements")
    uris = [value for field in _split(element, ";") if (value := _uri(field)) is not None]
    if len(uris) != 1:
        raise InvalidInputError(
            f"x-forwarded-client-cert has {len(uris)} URI names of the peer: an SVID has exactly one"
        )
    return uris[0]


def _split(text: str, separator: str) -> Iterator[str]:
    """Yield the parts of `text` between separators that stand outside of quotes."""
    start, quoted, escaped = 0, False, False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            yield text[start:position]
            start = position + 1
    if quoted:
        raise InvalidInputError("x-forwarded-client-cert has a quote that does not end")
    yield text[start:]


def _uri(field: str) -> str | None:
    key, _, value = field.strip().partition("=")
    return value.strip('"') if key.lower() == "uri" else None
