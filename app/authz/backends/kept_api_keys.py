"""API keys in a file, for a start without the database: their hashes, and never a key."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.authz.rules.api_keys import ApiKey
from app.core.last_good import LastGoodFile
from app.db.rows import values_of

_TIMES = frozenset({"created_at", "expires_at", "revoked_at"})


class KeptApiKeys:
    """Keeps the API keys, as they were last read from the database."""

    def __init__(self, file: LastGoodFile) -> None:
        self._file = file
        self._saved: Sequence[ApiKey] | None = None

    async def save(self, known: Sequence[ApiKey]) -> None:
        """Keep the keys, unless they are kept already. Raises as `LastGoodFile.write` does."""
        if known != self._saved:
            await asyncio.to_thread(self._write, known)
            self._saved = known

    async def load(self) -> Sequence[ApiKey]:
        """Return the keys. Raises as `LastGoodFile.read` does."""
        return await asyncio.to_thread(self._file.read, _keys_of)

    def _write(self, known: Sequence[ApiKey]) -> None:
        self._file.write([_item_of(key) for key in known])


def _item_of(key: ApiKey) -> dict[str, object]:
    return {name: _plain(value) for name, value in values_of(key).items()}


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case bytes():
            return value.hex()
        case _:
            return value


def _keys_of(items: Sequence[Any]) -> Sequence[ApiKey]:
    return [ApiKey(**{name: _value(name, value) for name, value in item.items()}) for item in items]


def _value(name: str, value: Any) -> Any:
    if name in _TIMES:
        return None if value is None else datetime.fromisoformat(value)
    match name:
        case "digest":
            return bytes.fromhex(value)
        case "labels":
            return tuple((key, at) for key, at in value)
        case _:
            return value
