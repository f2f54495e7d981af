"""The keys of one issuer of JWTs, kept and refreshed."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.spiffe.jwks import KeySet, VerificationKey, parse_key_set
from app.spiffe.jwt import refused
from app.telemetry.metrics import Metrics


class KeySetSource(Protocol):
    """Where an issuer of JWTs publishes its keys."""

    async def fetch(self) -> bytes:
        """Return its JWK Set, not parsed, bounded in time and size.

        Raises UnavailableError if it cannot be had now, InvalidInputError if it is none.
        """


@dataclass(frozen=True, slots=True)
class Pace:
    """How often keys are fetched, in seconds.

    `refresh`: the interval of fetches, for which a key that its issuer revoked is still trusted. `retry`: the least
    time between two attempts; it doubles after each failure in a row, up to `max_retry`. `max_stale`: how long the last
    good keys are used while none can be fetched, since they may have been revoked.
    """

    refresh: float
    retry: float
    max_retry: float
    max_stale: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """Keys as they were published, and when they were fetched (seconds since the epoch)."""

    content: bytes
    at: float


class IssuerKeys:
    """The last good keys of an issuer. `maintain`, or `begin_if_due`, is to be called about once a second.

    `problem` is why the last attempt to fetch them failed, "" if it did not. `last_good` is what was fetched last.
    """

    def __init__(self, issuer: str, source: KeySetSource, clock: Clock, metrics: Metrics, pace: Pace) -> None:
        self._issuer, self._source, self._clock, self._metrics, self._pace = issuer, source, clock, metrics, pace
        self._keys: KeySet | None = None
        self._fetched_at = self._attempted_at = float("-inf")
        self._retry = pace.retry
        self._attempt: asyncio.Task[None] | None = None
        self.problem = ""
        self.last_good: Fetched | None = None

    async def named(self, key_id: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys for a token with this `kid`, none if it is unknown even after a refresh.

        Raises UnauthenticatedError if no keys are known that may still be used.
        """
        found = self._usable().named(key_id) if self.current else ()
        if not found and self._since(self._attempted_at) >= self._retry:
            await self._refresh()
        elif not found:
            await self.attempted()
        return found or self._usable().named(key_id)

    @property
    def current(self) -> KeySet | None:
        """The keys, None if none are known that may still be used."""
        return self._keys if self._since(self._fetched_at) < self._pace.max_stale else None

    async def maintain(self) -> None:
        """Fetch the keys if that is due."""
        if self._is_due:
            await self._refresh()

    def begin_if_due(self) -> None:
        """Begin to fetch the keys if that is due; nothing waits for it."""
        if self._is_due:
            self._begin()

    def begin_soon(self) -> None:
        """Begin to fetch the keys, as a token is signed with one that is not known; but not too often."""
        if self._since(self._attempted_at) >= self._retry:
            self._begin()

    async def attempted(self) -> None:
        """Return once the attempt that is under way, if there is one, has ended; to cancel this does not end it."""
        if self._attempt is not None:
            await asyncio.shield(self._attempt)

    def restore(self, fetched: Fetched) -> None:
        """Take keys that were kept, unless others are known. Raises InvalidInputError if they cannot be read."""
        if self._keys is None:
            age = max(0.0, self._clock.now().timestamp() - fetched.at)
            self._keys, self._fetched_at = parse_key_set(fetched.content), self._clock.monotonic() - age
            self.last_good = fetched

    def close(self) -> None:
        """End the attempt that is under way."""
        if self._attempt is not None:
            self._attempt.cancel()

    @property
    def is_fetching(self) -> bool:
        """Whether an attempt to fetch them is under way."""
        return self._attempt is not None

    @property
    def _is_due(self) -> bool:
        return self._since(self._attempted_at) >= (self._retry if self.problem else self._pace.refresh)

    def _usable(self) -> KeySet:
        if (keys := self.current) is None:
            raise refused("keys_unavailable", "cannot be verified: the keys of its issuer could not be fetched")
        return keys

    async def _refresh(self) -> None:
        """Fetch the keys once for all who wait; one of them that is cancelled ends it for no other."""
        await asyncio.shield(self._begin())

    def _begin(self) -> "asyncio.Task[None]":
        if self._attempt is None:
            self._attempted_at = self._clock.monotonic()
            self._attempt = asyncio.create_task(self._fetch())
        return self._attempt

    async def _fetch(self) -> None:
        try:
            content = await self._source.fetch()
            keys = parse_key_set(content)
        except MeshwardError as error:
            if self.problem:
                self._retry = min(2 * self._retry, self._pace.max_retry)
            self.problem = f"the keys of {self._issuer}: {error.message}"
        else:
            now = self._clock.now().timestamp()
            # The same keys stay the same object, by which it is known that what they verified still holds.
            if keys != self._keys:
                self._keys = keys
            self.problem, self._retry, self._fetched_at = "", self._pace.retry, self._clock.monotonic()
            self.last_good = Fetched(content, now)
            self._metrics.jwks_fetched.set((self._issuer,), now)
        finally:
            self._attempt = None

    def _since(self, moment: float) -> float:
        return self._clock.monotonic() - moment
