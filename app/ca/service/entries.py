"""Entries: what an operator says of an identity."""

import secrets
from collections.abc import Sequence

from app.ca.model import CaConfig, Entry, EntrySpec
from app.ca.ports import CaTransactions
from app.ca.rules.names import check_entry
from app.core.clock import Clock
from app.core.errors import ConflictError, InvalidInputError, NotFoundError, Violation
from app.spiffe.id import SpiffeId


class Entries:
    """Makes, reads, changes and removes entries. A change applies from the next issuance on."""

    def __init__(self, config: CaConfig, transactions: CaTransactions, clock: Clock) -> None:
        self._config, self._transactions, self._clock = config, transactions, clock

    async def create(self, spec: EntrySpec) -> Entry:
        """Store a new entry. Raises InvalidInputError for the fields at fault, ConflictError if its id has one."""
        check_entry(spec, self._config.trust_domain, self._config.max_ttl)
        now = self._clock.now()
        entry = Entry(secrets.token_hex(16), spec, 1, now, now)
        async with self._transactions() as repository:
            taken = await repository.entry_of(spec.spiffe_id)
            if taken is not None:
                raise ConflictError(f"{spec.spiffe_id} has the entry {taken.id} already: change that one")
            await repository.add_entry(entry)
        return entry

    async def get(self, entry_id: str) -> Entry:
        """Return an entry. Raises NotFoundError if there is none."""
        async with self._transactions() as repository:
            entry = await repository.entry(entry_id)
        if entry is None:
            raise _missing(entry_id)
        return entry

    async def find(self, spiffe_id: SpiffeId) -> Entry | None:
        """Return the entry of a SPIFFE ID, if it has one."""
        async with self._transactions() as repository:
            return await repository.entry_of(spiffe_id)

    async def page(self, after: str | None, limit: int) -> Sequence[Entry]:
        """Return at most `limit` entries whose SPIFFE IDs stand after the one given, in their order."""
        async with self._transactions() as repository:
            return await repository.entries(after, limit)

    async def replace(self, entry_id: str, spec: EntrySpec, version: int | None) -> Entry:
        """Put `spec` in the place of what the entry says, if it has `version` or that is None.

        Raises InvalidInputError for the fields at fault, NotFoundError if there is no such entry, ConflictError if it
        has changed since.
        """
        check_entry(spec, self._config.trust_domain, self._config.max_ttl)
        async with self._transactions() as repository:
            found = await repository.entry(entry_id)
            if found is None:
                raise _missing(entry_id)
            if found.spec.spiffe_id != spec.spiffe_id:
                problem = f"an entry keeps its id, {found.spec.spiffe_id}: make another entry"
                raise InvalidInputError("the entry is of another identity", Violation("spiffe_id", problem))
            now = self._clock.now()
            if version not in {None, found.version}:
                raise _changed(entry_id)
            if not await repository.replace_entry(entry_id, spec, found.version, now):
                raise _changed(entry_id)
        return Entry(entry_id, spec, found.version + 1, found.created_at, now)

    async def delete(self, entry_id: str, version: int | None) -> None:
        """Remove an entry, if it has `version` or that is None.

        Raises NotFoundError if there is no such entry, ConflictError if it has changed since.
        """
        async with self._transactions() as repository:
            if await repository.remove_entry(entry_id, version):
                return
            if await repository.entry(entry_id) is None:
                raise _missing(entry_id)
            raise _changed(entry_id)


def _missing(entry_id: str) -> NotFoundError:
    return NotFoundError(f"there is no entry {entry_id}")


def _changed(entry_id: str) -> ConflictError:
    return ConflictError(f"the entry {entry_id} has changed since it was read: read it again")
