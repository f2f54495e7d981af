"""Entries: the lifetime and DNS names of an identity's SVIDs."""

import secrets
from collections.abc import Sequence

from app.audit.model import record_of, state_of
from app.ca.model import CaConfig, Entry, EntrySpec
from app.ca.ports import CaTransactions
from app.ca.rules.names import check_entry
from app.core.clock import Clock
from app.core.errors import ConflictError, InvalidInputError, NotFoundError, Violation
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Principal


class Entries:
    """Creates, reads, replaces and deletes entries. A change applies from the next issuance on.

    `caller` is who makes a change, for the audit record that is stored with it.
    """

    def __init__(self, config: CaConfig, transactions: CaTransactions, clock: Clock) -> None:
        self._config, self._transactions, self._clock = config, transactions, clock

    async def create(self, caller: Principal, spec: EntrySpec) -> Entry:
        """Store a new entry. Raises InvalidInputError for the invalid fields, ConflictError if its id has one."""
        check_entry(spec, self._config)
        now = self._clock.now()
        entry = Entry(
            spec.spiffe_id,
            spec.x509_svid_ttl,
            spec.dns_names,
            spec.hint,
            id=secrets.token_hex(16),
            version=1,
            created_at=now,
            updated_at=now,
        )
        async with self._transactions() as repository:
            taken = await repository.entry_of(spec.spiffe_id)
            if taken is not None:
                raise ConflictError(f"{spec.spiffe_id} has the entry {taken.id} already: change that one")
            await repository.add_entry(entry)
            await repository.record(record_of(caller, now, "entry.create", str(entry.spiffe_id), after=state_of(entry)))
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
        """Return at most `limit` entries whose SPIFFE IDs are above `after`, in their order."""
        async with self._transactions() as repository:
            return await repository.entries(after, limit)

    async def replace(self, caller: Principal, entry_id: str, spec: EntrySpec, version: int | None) -> Entry:
        """Replace what is set in an entry, if it has `version` or that is None.

        Raises InvalidInputError for the invalid fields, NotFoundError if there is no such entry, ConflictError if it
        has changed since.
        """
        check_entry(spec, self._config)
        async with self._transactions() as repository:
            found = await repository.entry(entry_id)
            if found is None:
                raise _missing(entry_id)
            if found.spiffe_id != spec.spiffe_id:
                problem = f"an entry keeps its id, {found.spiffe_id}: create another entry"
                raise InvalidInputError("the entry is of another identity", Violation("spiffe_id", problem))
            if version not in {None, found.version}:
                raise _changed(entry_id)
            now = self._clock.now()
            entry = await repository.replace_entry(entry_id, spec, found.version, now)
            if entry is None:
                raise _changed(entry_id)
            target, before, after = str(entry.spiffe_id), state_of(found), state_of(entry)
            await repository.record(record_of(caller, now, "entry.replace", target, before=before, after=after))
        return entry

    async def delete(self, caller: Principal, entry_id: str, version: int | None) -> None:
        """Delete an entry, if it has `version` or that is None.

        Raises NotFoundError if there is no such entry, ConflictError if it has changed since.
        """
        async with self._transactions() as repository:
            removed = await repository.remove_entry(entry_id, version)
            if removed is None:
                raise _missing(entry_id) if await repository.entry(entry_id) is None else _changed(entry_id)
            target, before = str(removed.spiffe_id), state_of(removed)
            await repository.record(record_of(caller, self._clock.now(), "entry.delete", target, before=before))


def _missing(entry_id: str) -> NotFoundError:
    return NotFoundError(f"there is no entry {entry_id}")


def _changed(entry_id: str) -> ConflictError:
    return ConflictError(f"the entry {entry_id} has changed since it was read: read it again")
