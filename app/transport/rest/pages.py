"""Cursor pagination: a page carries the key to continue from, so that changes in between skip and repeat nothing."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.core.errors import InvalidInputError, Violation

DEFAULT_PAGE_SIZE = 100
# Bounds the memory and time that one request can ask for.
MAX_PAGE_SIZE = 1000
# Keys are names and ids; nothing that this service hands out is longer.
MAX_CURSOR_LENGTH = 4096

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")]
Cursor = Annotated[str | None, Query(max_length=MAX_CURSOR_LENGTH, description="`next_cursor` of the page before")]


class Page(BaseModel, Generic[Item]):
    """Some items in key order; `next_cursor` is absent on the last page."""

    items: Sequence[Item]
    next_cursor: str | None = None


def encode_cursor(key: str) -> str:
    """Return the opaque form of the key of the last item on a page."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str | None:
    """Return the key to continue after, None for the first page. Raises InvalidInputError if it is not a cursor."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidInputError(
            "cursor is not one that this service made", Violation("cursor", "take next_cursor of the page before")
        ) from error
