"""The forms of bodies and answers, and how an answer is made out of a dataclass of a feature's model."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Input(BaseModel):
    """A body: unknown fields are refused, and so are values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class View(BaseModel):
    """An answer. `model_validate` makes it out of a dataclass with attributes of the same names."""

    model_config = ConfigDict(from_attributes=True)


def _seconds(value: object) -> object:
    return int(value.total_seconds()) if isinstance(value, timedelta) else value


Text = Annotated[str, BeforeValidator(str)]
"""A value that is shown as its text, such as a SPIFFE ID."""
Seconds = Annotated[int, BeforeValidator(_seconds)]
"""A duration that is shown as a whole number of seconds."""
