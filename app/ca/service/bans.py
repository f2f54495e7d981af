"""Bans: identities and certificates that are refused everywhere, from the next call on."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from app.audit.model import record_of, state_of
from app.ca.model import CLOCK_DIFFERENCE, Ban, CaConfig, Surface
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.bans import BanIndex, banned_subject, check_reason, serial_number
from app.ca.rules.log import ban_entry, unban_entry
from app.ca.service.leaves import append
from app.core.clock import Clock
from app.core.errors import (
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    PreconditionError,
    ResourceExhaustedError,
    UnavailableError,
    Violation,
)
from app.core.pruning import Pruning
from app.core.signals import Signal
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

# All of them are in memory, and read again by every replica after each change.
MAX_BANS = 5000
# A ban that is longer has no end.
MAX_BAN = timedelta(days=3650)
# Without a change they are read as often nevertheless: a database that was restored may count its changes again.
REREAD_SECONDS = 60.0
# No revision of the database, so that all are read once it is back.
KEPT_REVISION = -1

NOT_LOADED = "the CA has not started: its bans are not loaded yet"

log = structlog.get_logger(__name__)


class Bans:
    """Bans and lifts bans; knows those that are stored. An implementation of `BanLookup`.

    What is changed here is in effect when the call returns; what is changed at another replica, after `refresh`.
    `caller` is who makes a change, for the audit record that is stored with it.
    """

    def __init__(self, config: CaConfig, transactions: CaTransactions, clock: Clock, metrics: Metrics) -> None:
        self.changed, self.any = Signal(), True
        self._config, self._transactions, self._clock, self._metrics = config, transactions, clock, metrics
        # One at a time, so that what was read before a change never replaces what was read after it.
        self._reading = asyncio.Lock()
        self._index: BanIndex | None = None
        self._revision, self._read_at = 0, 0.0
        self._pruning = Pruning(clock, self._remove_ended)

    async def ban(self, caller: Principal, spiffe_id: str, reason: str, lasts: timedelta | None) -> Ban:
        """Ban an identity, or with a path and `/*` every identity below it, until lifted or for a time.

        A ban of the same subject is replaced. Raises InvalidInputError for what cannot be banned, a reason that is
        missing or too long, or a duration out of bounds; ResourceExhaustedError if there are too many bans.
        """
        subject = banned_subject(spiffe_id, self._config.trust_domain)
        if lasts is not None and not timedelta(seconds=1) <= lasts <= MAX_BAN:
            problem = f"between 1 and {int(MAX_BAN.total_seconds())} seconds"
            raise InvalidInputError("the duration of a ban is out of bounds", Violation("ttl_seconds", problem))
        expires_at = None if lasts is None else self._clock.now() + lasts
        return await self._put(caller, "identity.ban", subject, reason, expires_at)

    async def revoke(self, caller: Principal, serial: str, reason: str) -> Ban:
        """Revoke the certificate with a serial number, until it ends.

        Raises NotFoundError if no record has the number, PreconditionError if the certificate has ended or is the
        control plane's own, and otherwise as `ban`.
        """
        number = serial_number(serial)
        async with self._transactions() as repository:
            svid = await repository.svid(number)
        if svid is None:
            raise NotFoundError(
                f"no certificate with the serial number {number} was recorded: ban its identity instead"
            )
        if svid.not_after <= self._clock.now():
            raise PreconditionError(f"the certificate {number} has ended already, at {svid.not_after.isoformat()}")
        if svid.surface is Surface.SERVING:
            raise PreconditionError(f"the certificate {number} is the control plane's own: restart it for a new one")
        return await self._put(caller, "svid.revoke", number, reason, svid.not_after)

    async def unban(self, caller: Principal, spiffe_id: str) -> None:
        """Lift the ban of exactly this subject. Raises NotFoundError if there is none, InvalidInputError as `ban`."""
        await self._lift(caller, "identity.unban", banned_subject(spiffe_id, self._config.trust_domain))

    async def unrevoke(self, caller: Principal, serial: str) -> None:
        """Accept a revoked certificate again. Raises NotFoundError if it is not revoked."""
        await self._lift(caller, "svid.unrevoke", serial_number(serial))

    async def page(self, after: str | None, limit: int) -> Sequence[Ban]:
        """Return at most `limit` bans whose subjects are above `after`, in their order. Some may have ended."""
        async with self._transactions() as repository:
            return await repository.ban_page(after, limit)

    def refusal(self, identity: str, serial: str) -> MeshwardError | None:
        """Return why an identity or its certificate is refused, None if it is not; see `BanLookup`."""
        index = self._index
        if index is None:
            return UnavailableError(NOT_LOADED)
        if not index.by_subject:
            return None
        ban = index.find(identity, serial, self._clock.now())
        return None if ban is None else ban.refusal

    def known(self) -> Sequence[Ban]:
        """Return the bans that are active here, in the order of their subjects. Raises UnavailableError before any."""
        if self._index is None:
            raise UnavailableError(NOT_LOADED)
        return sorted(self._index.by_subject.values(), key=lambda ban: ban.subject)

    def restore(self, kept: Sequence[Ban]) -> None:
        """Use bans that were kept in a file, without the database, until the first refresh."""
        self._install(kept, KEPT_REVISION)

    async def held(self, repository: CaRepository) -> BanIndex:
        """Return the bans as a transaction finds them, in which they do not change until it ends."""
        return await self.at(repository, await repository.hold_bans())

    async def at(self, repository: CaRepository, revision: int) -> BanIndex:
        """Return the bans of the revision that a transaction holds."""
        if self._index is not None and revision == self._revision:
            return self._index
        return BanIndex.of(await repository.bans())

    async def refresh(self) -> None:
        """Read the bans if they have changed. Raises UnavailableError; those that are known stay active then."""
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.ban_revision()
                if self._index is not None and revision == self._revision and self._read_recently():
                    return
                bans = await repository.bans()
            self._install(bans, revision)

    async def maintain(self) -> None:
        """Remove bans that have ended, if that is due."""
        await self._pruning.maintain()

    def _read_recently(self) -> bool:
        return self._clock.monotonic() - self._read_at < REREAD_SECONDS

    async def _put(self, caller: Principal, action: str, subject: str, reason: str, expires_at: datetime | None) -> Ban:
        check_reason(reason)
        now = self._clock.now()
        ban = Ban(secrets.token_hex(16), subject, reason, now, expires_at)
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.next_ban_revision()
                replaced = await repository.remove_ban(subject)
                others = await repository.bans()
                if len(others) >= MAX_BANS:
                    raise ResourceExhaustedError(f"there are {MAX_BANS} bans: lift some, or ban a path with /*")
                await repository.add_ban(ban)
                before = None if replaced is None else state_of(replaced)
                await repository.record(record_of(caller, now, action, subject, before=before, after=state_of(ban)))
                await append(repository, [ban_entry(ban)])
            self._install([*others, ban], revision)
        return ban

    async def _lift(self, caller: Principal, action: str, subject: str) -> None:
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.next_ban_revision()
                lifted = await repository.remove_ban(subject)
                if lifted is None:
                    raise NotFoundError(f"there is no ban of {subject}")
                bans, now = await repository.bans(), self._clock.now()
                await repository.record(record_of(caller, now, action, subject, before=state_of(lifted)))
                await append(repository, [unban_entry(lifted, now)])
            self._install(bans, revision)

    def _install(self, bans: Sequence[Ban], revision: int) -> None:
        index = BanIndex.of(bans)
        changed = index != self._index
        self._index, self._revision, self._read_at = index, revision, self._clock.monotonic()
        self.any = bool(index.by_subject)
        self._metrics.bans.set((), len(bans))
        if changed:
            self.changed.fire()
            log.info("bans_changed", bans=len(bans), revision=revision)

    async def _remove_ended(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_bans(self._clock.now() - CLOCK_DIFFERENCE, limit)
