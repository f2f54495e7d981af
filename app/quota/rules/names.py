"""The names of counters as texts: in cursors, and as operators pass them back."""

import json
from collections.abc import Iterable

from app.core.errors import InvalidInputError
from app.quota.model import CounterName


def write_name(name: CounterName) -> str:
    """Return the name of a counter as a text."""
    limit_id, key = name
    return json.dumps([limit_id, key.hex() if isinstance(key, bytes) else key])


def read_name(text: str) -> CounterName:
    """Return the name that `write_name` wrote. Raises InvalidInputError if it is another text."""
    try:
        limit_id, key = json.loads(text)
        kept = bytes.fromhex(key) if isinstance(key, str) else tuple(key)
    except (ValueError, TypeError, RecursionError):
        pass
    else:
        if isinstance(limit_id, str) and (isinstance(kept, bytes) or _are_texts(kept)):
            return limit_id, kept
    raise InvalidInputError("the text is no name of a counter")


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
