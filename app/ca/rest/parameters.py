"""Kinds of parameters that several endpoints of the CA have."""

from typing import Annotated

from fastapi import Path
from pydantic import Field

from app.ca.rules.names import is_random_id
from app.core.errors import InvalidInputError, NotFoundError, Violation
from app.spiffe.id import MAX_ID_BYTES, SpiffeId

# Ids of entries and tokens are 32 hexadecimal digits; a longer one is not looked up.
MAX_ID_LENGTH = 64
# What a column of 32 bits holds; the CA's own bounds are far below.
MAX_SECONDS = 2**31 - 1

Id = Annotated[str, Path(max_length=MAX_ID_LENGTH)]
SecondsInput = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
SpiffeIdInput = Annotated[str, Field(max_length=MAX_ID_BYTES, examples=["spiffe://cluster.local/ns/shop/sa/cart"])]


def known_id(text: str, what: str) -> str:
    """Return the id if it has the form of one. Nothing else reaches the database."""
    if not is_random_id(text):
        raise NotFoundError(f"there is no {what} with this id")
    return text


def parse_id(text: str) -> SpiffeId:
    """Return the SPIFFE ID. Raises InvalidInputError that names the field."""
    try:
        return SpiffeId.parse(text)
    except InvalidInputError as error:
        raise InvalidInputError(error.message, Violation("spiffe_id", error.message)) from error
