"""The base models of request and response bodies; responses are made from the dataclasses of a feature's model."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema


class Input(BaseModel):
    """A request body: unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class View(BaseModel):
    """A response body. `model_validate` makes it from a dataclass with attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)


def shown_as(view: type[View]) -> Callable[[object], str]:
    """Return what shows a value as a view, in JSON."""
    return lambda value: view.model_validate(value).model_dump_json()


def with_texts(shown: str, **texts: str | None) -> str:
    """Return an object in JSON with further fields, which are JSON already."""
    more = "".join(f',"{name}":{"null" if text is None else text}' for name, text in texts.items())
    return f"{shown[:-1]}{more}}}"


def _seconds(value: object) -> object:
    return int(value.total_seconds()) if isinstance(value, timedelta) else value


def _unhex(value: object) -> object:
    return bytes.fromhex(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(str)]
"""A value that is written as its text, such as a SPIFFE ID."""
Seconds = Annotated[int, BeforeValidator(_seconds)]
"""A duration that is written as a whole number of seconds."""
Hex = Annotated[
    bytes, BeforeValidator(_unhex), PlainSerializer(bytes.hex, str, "json"), WithJsonSchema({"type": "string"})
]
"""Bytes that are written in hexadecimal."""
