"""Entity tags: the version that was read, sent back in `If-Match`, so that no change is overwritten unseen.

RFC 9110, sections 8.8.3 and 13.1.1. A service compares the version in the transaction that writes and raises
ConflictError; which is a 412 for a request with `If-Match` (see `app.transport.rest.problems`).
"""

import re
from typing import Annotated

from fastapi import Header, Request

from app.core.errors import InvalidInputError, PreconditionError, Violation

# A strong tag of this service: a version between quotes, as many digits as 63 bits need.
MAX_TAG_LENGTH = 64

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_NOT_EVALUATED = ("If-None-Match", "If-Unmodified-Since")
_TAG = re.compile(r'"([0-9]{1,18})"')

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The `ETag` that was read; the change is made only if it is still current"),
]


def check_preconditions(request: Request) -> None:
    """Raise InvalidInputError for a change under a condition that is not supported, rather than ignore it."""
    if request.method in _SAFE_METHODS:
        return
    for name in _NOT_EVALUATED:
        if name in request.headers:
            raise InvalidInputError(f"{name} is not supported: send If-Match", Violation(name, "is not supported"))
    if len(request.headers.getlist("if-match")) > 1:
        raise InvalidInputError("If-Match must be one entity tag", Violation("If-Match", "is repeated"))


def etag_of(version: int) -> str:
    """Return the strong entity tag of a version, quotes included."""
    return f'"{version}"'


def expected_version(if_match: str | None) -> int | None:
    """Return the version that the header requires, None without a header.

    Raises PreconditionError for a tag that cannot match, because this service did not make it (weak tags included), and
    InvalidInputError for a header that is not exactly one tag.
    """
    if if_match is None:
        return None
    text = if_match.strip()
    if len(text) > MAX_TAG_LENGTH or text == "*" or "," in text:
        raise InvalidInputError("If-Match must be one entity tag", Violation("If-Match", "send the ETag that was read"))
    tag = _TAG.fullmatch(text)
    if tag is None:
        raise PreconditionError(
            "If-Match is not an entity tag of this service: read the resource again and send its ETag"
        )
    return int(tag[1])
