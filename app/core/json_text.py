"""JSON objects: parsed from the text of a peer or a user, or kept as text until a key is read."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from app.core.errors import InvalidInputError


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """Return the JSON object that a text is. Raises InvalidInputError, which names `what`, if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{what} is not a JSON object")
    return found


class JsonText(Mapping[str, object]):
    """A mapping that is its JSON text, in ASCII, until a key is read; equal to every mapping with its content.

    What it has to parse it does not keep: a caller that needs more than one key takes `value()`.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, value: Mapping[str, object]) -> Self:
        """Return the mapping as its text."""
        return value if isinstance(value, cls) else cls(json.dumps(value))

    def value(self) -> dict[str, object]:
        """Return what the text describes. Raises ValueError if that is not a JSON object."""
        value = json.loads(self.text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 - it is the text's content that is wrong
        return value

    def __getitem__(self, key: str) -> object:
        return self.value()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.value())

    def __len__(self) -> int:
        return len(self.value())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JsonText):
            return self.text == other.text or self.value() == other.value()
        return self.value() == other if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.value()))

    def __repr__(self) -> str:
        return self.text
