"""API keys: made, listed and revoked; known here as the database had them last, so that a check waits for nothing."""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from app.audit.model import record_of, state_of
from app.authz.model import Workload
from app.authz.ports import ApiKeyTransactions
from app.authz.rules.api_keys import MAX_LIFETIME, PREFIX, SECRET_BYTES, ApiKey, ApiKeySpec, check_spec, digest_of
from app.authz.rules.credential_rules import ApiKeySource
from app.authz.rules.credentials import CredentialProblem, Outcome, Proven, Rejected
from app.core.clock import Clock
from app.core.errors import InvalidInputError, NotFoundError, ResourceExhaustedError, UnavailableError, Violation
from app.core.pruning import Pruning
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics

# All of them are in memory at every replica, and read again each minute.
MAX_API_KEYS = 10_000
# How long one that expired or was revoked is listed.
RETENTION = timedelta(days=7)
# Without a change they are read as often nevertheless: a database that was restored may count its changes again.
REREAD_SECONDS = 60.0
# What is read at once, in some 4 ms, which is how long checks wait for it.
PAGE_KEYS = 100
# No revision of the database, so that all are read once it is back.
KEPT_REVISION = -1

NOT_LOADED = "the API keys are not loaded yet"
_NOT_LOADED = Rejected(CredentialProblem.UNVERIFIED, NOT_LOADED)
_UNKNOWN = Rejected(CredentialProblem.INVALID, "there is no such key", final=True)
_NO_KEY = Rejected(CredentialProblem.INVALID, "it has not the form of a key")

_Known = tuple[ApiKey, Proven]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new API key with its text, which is nowhere else."""

    key: ApiKey
    text: str = field(repr=False)


class ApiKeys:
    """Makes and revokes API keys, and says whose one is.

    What is changed here is in effect when the call returns; what is changed at another replica, after `refresh`.
    `caller` is who makes a change, for the audit record that is stored with it.
    """

    def __init__(self, transactions: ApiKeyTransactions, clock: Clock, metrics: Metrics) -> None:
        self._transactions, self._clock, self._metrics = transactions, clock, metrics
        # One at a time, so that what was read before a change never replaces what was read after it.
        self._reading = asyncio.Lock()
        self._by_digest: dict[bytes, _Known] | None = None
        self._in_order: Sequence[ApiKey] | None = None
        self._revision, self._read_at = 0, 0.0
        self._pruning = Pruning(clock, self._remove_ended)

    async def create(self, caller: Principal, spec: ApiKeySpec, lasts: timedelta | None) -> CreatedApiKey:
        """Return a new key with its text, which is not stored; it ends after `lasts`, or never if that is None.

        Raises InvalidInputError for what no key may be made for, ResourceExhaustedError if there are too many keys.
        """
        check_spec(spec)
        if lasts is not None and not timedelta(seconds=1) <= lasts <= MAX_LIFETIME:
            problem = f"between 1 and {int(MAX_LIFETIME.total_seconds())} seconds"
            raise InvalidInputError("the lifetime of an API key is out of bounds", Violation("ttl_seconds", problem))
        text, now = PREFIX + secrets.token_urlsafe(SECRET_BYTES), self._clock.now()
        digest = digest_of(text)
        assert digest is not None  # noqa: S101 - it has the form of a key
        ends = None if lasts is None else now + lasts
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                if await repository.count() >= MAX_API_KEYS:
                    raise ResourceExhaustedError(
                        f"there are {MAX_API_KEYS} API keys: revoke some, and wait a week until they are removed"
                    )
                key_id, names = secrets.token_hex(16), (spec.subject, spec.namespace, spec.labels)
                key = ApiKey(key_id, *names, now, ends, None, revision, digest)
                await repository.add(key)
                await repository.record(record_of(caller, now, "api_key.create", key.id, after=state_of(key)))
            self._put([key])
        return CreatedApiKey(key, text)

    async def get(self, key_id: str) -> ApiKey:
        """Return a key. Raises NotFoundError if there is none."""
        async with self._transactions() as repository:
            key = await repository.get(key_id)
        if key is None:
            raise NotFoundError(f"there is no API key {key_id}")
        return key

    async def page(self, after: str | None, limit: int) -> Sequence[ApiKey]:
        """Return at most `limit` keys with ids above `after`, in the order of their ids."""
        async with self._transactions() as repository:
            return await repository.page(after, limit)

    async def revoke(self, caller: Principal, key_id: str) -> None:
        """Refuse a key from now on, for good. Raises NotFoundError if there is none that is not revoked."""
        now = self._clock.now()
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.next_revision()
                key = await repository.revoke(key_id, now, revision)
                if key is None:
                    raise NotFoundError(f"there is no API key {key_id} that is not revoked")
                await repository.record(record_of(caller, now, "api_key.revoke", key_id, after=state_of(key)))
            self._put([key])

    def outcome(self, source: ApiKeySource, text: str, workload: Workload | None) -> Outcome:
        """Return whose key a text is for a workload, or why it is not accepted there."""
        if self._by_digest is None:
            return _NOT_LOADED
        digest = digest_of(text)
        if digest is None:
            return _NO_KEY
        # Looked up by its hash: what the timing reveals of a hash reveals nothing of a key of 256 bits.
        found = self._by_digest.get(digest)
        if found is None:
            return _UNKNOWN
        key, proven = found
        problem = key.problem(workload.namespace if workload else None, source.labels, self._clock.now())
        return Rejected(CredentialProblem.INVALID, problem, final=True) if problem else proven

    def known(self) -> Sequence[ApiKey]:
        """Return the keys that are known here. Raises UnavailableError before any were read."""
        if self._by_digest is None:
            raise UnavailableError(NOT_LOADED)
        if self._in_order is None:
            self._in_order = sorted((key for key, _ in self._by_digest.values()), key=lambda key: key.id)
        return self._in_order

    def restore(self, kept: Sequence[ApiKey]) -> None:
        """Use keys that were kept in a file, without the database, until the first refresh."""
        self._by_digest, self._revision = {}, KEPT_REVISION
        self._put(kept)

    async def refresh(self) -> None:
        """Read the keys that have changed. Raises UnavailableError; those that are known stay so then."""
        async with self._reading:
            async with self._transactions() as repository:
                revision = await repository.revision()
                whole = self._by_digest is None or revision < self._revision or self._is_old() or self._revision < 0
                if not whole and revision == self._revision:
                    return
                changed = () if whole else await repository.changed(self._revision)
            if whole:
                await self._read_all()
            self._put(changed)
            if revision != self._revision:
                log.info("api_keys_changed", api_keys=len(self._by_digest or ()), revision=revision)
            self._revision = revision

    async def maintain(self) -> None:
        """Remove keys that ended long ago, if that is due."""
        await self._pruning.maintain()

    def _is_old(self) -> bool:
        return self._clock.monotonic() - self._read_at >= REREAD_SECONDS

    async def _read_all(self) -> None:
        found: dict[bytes, _Known] = {}
        after, more = None, True
        while more:
            page = await self.page(after, PAGE_KEYS)
            found |= self._entries(page)
            after, more = (page[-1].id, True) if len(page) == PAGE_KEYS else (None, False)
        self._by_digest, self._in_order, self._read_at = found, None, self._clock.monotonic()

    def _entries(self, keys: Iterable[ApiKey]) -> dict[bytes, _Known]:
        """Return the keys with what they prove, which stays the same object while a key is."""
        before = self._by_digest or {}
        entries = {}
        for key in keys:
            kept = before.get(key.digest)
            entries[key.digest] = kept if kept is not None and kept[0] == key else (key, Proven(key.claims))
        return entries

    def _put(self, keys: Iterable[ApiKey]) -> None:
        if self._by_digest is None:  # they are all read by the first refresh
            return
        self._by_digest |= self._entries(keys)
        self._in_order = None
        self._metrics.api_keys.set((), len(self._by_digest))

    async def _remove_ended(self, limit: int) -> int:
        async with self._transactions() as repository:
            return await repository.remove_ended(self._clock.now() - RETENTION, limit)
