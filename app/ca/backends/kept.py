"""The authorities of the trust domain in a file, for a start without the database. Their keys are not in it."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.ca.model import KnownAuthorities, Root, Signer
from app.core.last_good import LastGoodFile
from app.db.rows import values_of
from app.spiffe.id import TrustDomain


class KeptAuthorities:
    """Keeps the roots and the signing authorities, as they were last read from the database."""

    def __init__(self, file: LastGoodFile) -> None:
        self._file = file
        self._saved: KnownAuthorities | None = None

    async def save(self, known: KnownAuthorities) -> None:
        """Keep the authorities, unless they are kept already. Raises as `LastGoodFile.write` does."""
        if known != self._saved:
            await asyncio.to_thread(self._file.write, [*map(_item_of, known.roots), *map(_item_of, known.signers)])
            self._saved = known

    async def load(self) -> KnownAuthorities:
        """Return the authorities. Raises as `LastGoodFile.read` does."""
        return await asyncio.to_thread(self._file.read, _known_of)


def _item_of(authority: Root | Signer) -> dict[str, object]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value if isinstance(value, int) else str(value)
        for name, value in values_of(authority).items()
    }


def _known_of(items: Sequence[Any]) -> KnownAuthorities:
    values = [{name: _value(name, value) for name, value in item.items()} for item in items]
    roots = tuple(Root(**each) for each in values if "generation" in each)
    return KnownAuthorities(roots, tuple(Signer(**each) for each in values if "generation" not in each))


def _value(name: str, value: Any) -> Any:
    match name:
        case "not_before" | "not_after" | "created_at":
            return datetime.fromisoformat(value)
        case "trust_domain":
            return TrustDomain(value)
        case _:
            return value
