"""Recording SVIDs before they are returned: all that wait are signed, and written in one transaction, synced once."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.ca.model import Entry, IssuedSvid, Surface
from app.ca.ports import CaTransactions
from app.ca.rules.bans import BanIndex
from app.ca.rules.leaf import Leaf
from app.ca.rules.log import svid_entry
from app.ca.service.bans import Bans
from app.ca.service.join_tokens import TOKEN_REFUSED
from app.ca.service.leaves import extend
from app.ca.service.signing import ToSign, sign_each
from app.core.clock import Clock
from app.core.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from app.spiffe.id import SpiffeId

# How many SVIDs one transaction records: more would hold the database, and those who wait, for longer than one commit.
MAX_BATCH = 256
# A batch begins when the event loop has brought no further SVID in so many turns: a request that was read waits here
# within them, and a lone one waits for microseconds.
QUIET_TURNS = 2


@dataclass(frozen=True, slots=True)
class Draft:
    """An SVID to be signed and recorded, and the entry that it was made by."""

    leaf: ToSign
    entry: Entry | None
    surface: Surface
    token_id: str | None


@dataclass(frozen=True, slots=True)
class EntryChanged:
    """Nothing was written: the entry of the identity is another one now, or was deleted."""

    entry: Entry | None


Outcome = Leaf | EntryChanged
Waiting = tuple[Draft, asyncio.Future[Outcome]]


@dataclass(frozen=True, slots=True)
class _Signed:
    """An SVID that is signed and not recorded yet, its record, and the call that waits for it."""

    leaf: Leaf
    svid: IssuedSvid
    entry: Entry | None
    outcome: asyncio.Future[Outcome]


class Recorder:
    """Signs and records SVIDs. While one transaction is written, those that come wait and share the next one."""

    def __init__(self, transactions: CaTransactions, bans: Bans, clock: Clock) -> None:
        self._transactions, self._bans, self._clock = transactions, bans, clock
        self._waiting: list[Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, draft: Draft) -> Outcome:
        """Sign and record an SVID and use up its join token, all or nothing; durable when this returns.

        Raises UnauthenticatedError if the token can no longer be used, PermissionDeniedError if the identity is banned,
        ConflictError if the signing authority is not in the database, UnavailableError if that cannot be reached, and
        as `sign_one`. What fails for one SVID fails no other.
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
                await self._settle(await self._sign(batch))
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

    async def _sign(self, batch: Sequence[Waiting]) -> list[_Signed]:
        """Sign a batch, and return what can be recorded of it."""
        now, signed = self._clock.now(), list[_Signed]()
        leaves = await sign_each([draft.leaf for draft, _ in batch], now)
        for (draft, outcome), leaf in zip(batch, leaves, strict=True):
            if isinstance(leaf, Leaf):
                signed.append(_Signed(leaf, _record_of(draft, leaf, now), draft.entry, outcome))
            else:
                _resolve(outcome, leaf)
        return signed

    async def _settle(self, batch: Sequence[_Signed]) -> None:
        """Write a batch; if the database refuses it, each member alone, so that the others are not refused with it."""
        if not batch:
            return
        try:
            outcomes = await self._store(batch)
        except UnavailableError as error:
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            if len(batch) > 1:
                for signed in batch:
                    await self._settle([signed])
                return
            outcomes = [error]
        for signed, outcome in zip(batch, outcomes, strict=True):
            _resolve(signed.outcome, outcome)

    async def _store(self, batch: Sequence[_Signed]) -> list[Outcome | Exception]:
        """Write what can be recorded in one transaction, and return the outcome of each member."""
        async with self._transactions() as repository:
            revision, found, frontier = await repository.hold_for_issuance({each.svid.spiffe_id for each in batch})
            bans, now = await self._bans.at(repository, revision), self._clock.now()
            entries = {entry.spiffe_id: entry for entry in found}
            obstacles = [_ban_of(each, bans, now) or _change_of(each, entries) for each in batch]
            free = [each.svid for each, obstacle in zip(batch, obstacles, strict=True) if obstacle is None]
            tokens = {svid.token_id for svid in free if svid.token_id is not None}
            redeemed = set(await repository.redeem_tokens(tokens, now)) if tokens else set()
            outcomes: list[Outcome | Exception] = []
            recorded: list[IssuedSvid] = []
            for each, obstacle in zip(batch, obstacles, strict=True):
                token_id = each.svid.token_id
                if obstacle is not None:
                    outcomes.append(obstacle)
                elif token_id is not None and token_id not in redeemed:
                    outcomes.append(UnauthenticatedError(TOKEN_REFUSED))
                else:
                    redeemed.discard(token_id or "")  # of two with one token, the first has it
                    recorded.append(each.svid)
                    outcomes.append(each.leaf)
            if recorded:
                await repository.add_svids(recorded)
                await extend(repository, frontier, [svid_entry(svid) for svid in recorded])
        return outcomes


def _record_of(draft: Draft, leaf: Leaf, now: datetime) -> IssuedSvid:
    profile = draft.leaf.profile
    return IssuedSvid(
        serial=f"{profile.serial:032x}",
        spiffe_id=profile.spiffe_id,
        signer_id=draft.leaf.authority.signer.id,
        fingerprint=leaf.fingerprint,
        not_before=profile.not_before,
        not_after=profile.not_after,
        issued_at=now,
        surface=draft.surface,
        token_id=draft.token_id,
    )


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    """Pass the outcome to the call that waits for it, unless that has gone."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _ban_of(signed: _Signed, bans: BanIndex, now: datetime) -> PermissionDeniedError | None:
    """Return the refusal of an SVID whose identity was banned while it was signed."""
    ban = bans.find(signed.svid.spiffe_id.principal, "", now)
    return None if ban is None else ban.refusal


def _change_of(signed: _Signed, entries: Mapping[SpiffeId, Entry]) -> EntryChanged | None:
    entry = entries.get(signed.svid.spiffe_id)
    return None if entry == signed.entry else EntryChanged(entry)
