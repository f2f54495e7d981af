"""Recording SVIDs before they are returned: all that wait are written in one transaction, synced once."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.ca.model import Entry, IssuedSvid
from app.ca.ports import CaTransactions
from app.ca.rules.bans import BanIndex
from app.ca.rules.log import svid_entry
from app.ca.service.bans import Bans
from app.ca.service.join_tokens import TOKEN_REFUSED
from app.ca.service.leaves import extend
from app.core.clock import Clock
from app.core.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from app.spiffe.id import SpiffeId

# How many SVIDs one transaction records: more would hold the database, and those who wait, for longer than one commit.
MAX_BATCH = 256
# A transaction begins when the event loop has brought no further SVID in so many turns: a request that was read is
# signed and waits here within them, and a lone one waits for microseconds.
QUIET_TURNS = 2


@dataclass(frozen=True, slots=True)
class Draft:
    """A signed SVID that is not recorded yet, and the entry that it was made by."""

    svid: IssuedSvid
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The SVID is recorded, and its join token used up."""


@dataclass(frozen=True, slots=True)
class EntryChanged:
    """Nothing was written: the entry of the identity is another one now, or was deleted."""

    entry: Entry | None


Outcome = Recorded | EntryChanged
Waiting = tuple[Draft, asyncio.Future[Outcome]]

_RECORDED = Recorded()


class Recorder:
    """Records SVIDs. While one transaction is written, those that come wait and share the next one."""

    def __init__(self, transactions: CaTransactions, bans: Bans, clock: Clock) -> None:
        self._transactions, self._bans, self._clock = transactions, bans, clock
        self._waiting: list[Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, draft: Draft) -> Outcome:
        """Record an SVID and use up its join token, both or neither; durable when this returns.

        Raises UnauthenticatedError if the token can no longer be used, PermissionDeniedError if the identity is banned,
        ConflictError if the signing authority is not in the database, UnavailableError if that cannot be reached. What
        fails for one SVID fails no other.
        """
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, outcome))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await outcome

    async def _write(self) -> None:
        batch: list[Waiting] = []
        try:
            while self._waiting:
                await self._joined()
                # A caller that has gone needs no SVID.
                batch = [waiting for waiting in self._waiting[:MAX_BATCH] if not waiting[1].done()]
                del self._waiting[:MAX_BATCH]
                await self._settle(batch)
        finally:
            self._writing = None
            for _, outcome in [*batch, *self._waiting]:  # none, unless this task was cancelled
                outcome.cancel()

    async def _joined(self) -> None:
        """Let those join that the event loop has ready: fewer transactions, each of which costs milliseconds."""
        quiet = 0
        while quiet < QUIET_TURNS and len(self._waiting) < MAX_BATCH:
            waiting = len(self._waiting)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == waiting else 0

    async def _settle(self, batch: Sequence[Waiting]) -> None:
        """Write a batch; if the database refuses it, each member alone, so that the others are not refused with it."""
        try:
            outcomes = await self._store([draft for draft, _ in batch])
        except UnavailableError as error:
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            if len(batch) > 1:
                for waiting in batch:
                    await self._settle([waiting])
                return
            outcomes = [error]
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _store(self, drafts: Sequence[Draft]) -> list[Outcome | Exception]:
        """Write what can be recorded in one transaction, and return the outcome of each draft."""
        async with self._transactions() as repository:
            revision, found, frontier = await repository.hold_for_issuance({draft.svid.spiffe_id for draft in drafts})
            bans, now = await self._bans.at(repository, revision), self._clock.now()
            entries = {entry.spiffe_id: entry for entry in found}
            obstacles = [_ban_of(draft, bans, now) or _change_of(draft, entries) for draft in drafts]
            free = [draft.svid for draft, obstacle in zip(drafts, obstacles, strict=True) if obstacle is None]
            tokens = {svid.token_id for svid in free if svid.token_id is not None}
            redeemed = set(await repository.redeem_tokens(tokens, now)) if tokens else set()
            outcomes: list[Outcome | Exception] = []
            for draft, obstacle in zip(drafts, obstacles, strict=True):
                token_id = draft.svid.token_id
                if obstacle is not None:
                    outcomes.append(obstacle)
                elif token_id is not None and token_id not in redeemed:
                    outcomes.append(UnauthenticatedError(TOKEN_REFUSED))
                else:
                    redeemed.discard(token_id or "")  # of two with one token, the first has it
                    outcomes.append(_RECORDED)
            recorded = [draft.svid for draft, outcome in zip(drafts, outcomes, strict=True) if outcome is _RECORDED]
            if recorded:
                await repository.add_svids(recorded)
                await extend(repository, frontier, [svid_entry(svid) for svid in recorded])
        return outcomes


def _ban_of(draft: Draft, bans: BanIndex, now: datetime) -> PermissionDeniedError | None:
    """Return the refusal of a draft whose identity was banned while it was signed."""
    ban = bans.find(draft.svid.spiffe_id.principal, "", now)
    return None if ban is None else ban.refusal


def _change_of(draft: Draft, entries: Mapping[SpiffeId, Entry]) -> EntryChanged | None:
    entry = entries.get(draft.svid.spiffe_id)
    return None if entry == draft.entry else EntryChanged(entry)
