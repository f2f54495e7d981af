"""Authorities and bans in files, for a start without the database. Keys are not in them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from app.ca.model import AuthorityStage, Ban, KnownAuthorities, Origin, Root, Signer, Stage
from app.core.last_good import LastGoodFile
from app.db.rows import values_of
from app.spiffe.id import TrustDomain


class KeptAuthorities:
    """Keeps the roots and the signing authorities with their stages, as they were last read from the database."""

    def __init__(self, file: LastGoodFile) -> None:
        self._file = file
        self._saved: KnownAuthorities | None = None

    async def save(self, known: KnownAuthorities) -> None:
        """Keep the authorities, unless they are kept already. Raises as `LastGoodFile.write` does."""
        if known != self._saved:
            items = [*map(_item_of, known.roots), *map(_item_of, known.signers), *map(_item_of, known.stages)]
            await asyncio.to_thread(self._file.write, items)
            self._saved = known

    async def load(self) -> KnownAuthorities:
        """Return the authorities. Raises as `LastGoodFile.read` does."""
        return await asyncio.to_thread(self._file.read, _known_of)


class KeptBans:
    """Keeps the bans, as they were last read from the database."""

    def __init__(self, file: LastGoodFile) -> None:
        self._file = file
        self._saved: Sequence[Ban] | None = None

    async def save(self, known: Sequence[Ban]) -> None:
        """Keep the bans, unless they are kept already. Raises as `LastGoodFile.write` does."""
        if known != self._saved:
            await asyncio.to_thread(self._file.write, [*map(_item_of, known)])
            self._saved = known

    async def load(self) -> Sequence[Ban]:
        """Return the bans. Raises as `LastGoodFile.read` does."""
        return await asyncio.to_thread(self._file.read, _bans_of)


def _item_of(record: Root | Signer | AuthorityStage | Ban) -> dict[str, object]:
    return {name: _plain(value) for name, value in values_of(record).items()}


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case int() | None:
            return value
        case Enum():
            return value.value
        case tuple():
            return [*value]
        case _:
            return str(value)


def _bans_of(items: Sequence[Any]) -> Sequence[Ban]:
    return [Ban(**{name: _value(name, value) for name, value in item.items()}) for item in items]


def _known_of(items: Sequence[Any]) -> KnownAuthorities:
    values = [{name: _value(name, value) for name, value in item.items()} for item in items]
    roots = tuple(Root(**each) for each in values if "generation" in each)
    signers = tuple(Signer(**each) for each in values if "root_id" in each)
    return KnownAuthorities(roots, signers, tuple(AuthorityStage(**each) for each in values if "stage" in each))


def _value(name: str, value: Any) -> Any:
    match name:
        case "not_before" | "not_after" | "created_at" | "expires_at" | "since" if value is not None:
            return datetime.fromisoformat(value)
        case "trust_domain":
            return TrustDomain(value)
        case "stage":
            return Stage(value)
        case "origin" if value is not None:
            return Origin(value)
        case "intermediates":
            return tuple(value)
        case _:
            return value
