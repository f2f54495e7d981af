"""The keys of one issuer of JWTs, kept and refreshed."""

import asyncio

from app.ca.ports import KeySetSource
from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.spiffe.jwks import KeySet, VerificationKey, parse_key_set
from app.spiffe.jwt import refused
from app.telemetry.metrics import Metrics

# How often the keys are fetched: what an issuer has revoked is trusted for so long.
REFRESH_SECONDS = 300.0
# The least time between two attempts, whoever asks: after a failure, or for tokens with a `kid` that is not known.
RETRY_SECONDS = 10.0
# The last good keys decide for so long while they cannot be fetched, and then no more: they may have been revoked.
MAX_STALE_SECONDS = 24 * 3600.0


class IssuerKeys:
    """The last good keys of an issuer. `maintain` is to be called about once a second.

    `problem` is why the last attempt to fetch them failed, "" if it did not.
    """

    def __init__(self, issuer: str, source: KeySetSource, clock: Clock, metrics: Metrics) -> None:
        self._issuer, self._source, self._clock, self._metrics = issuer, source, clock, metrics
        self._keys: KeySet | None = None
        self._fetched_at = self._attempted_at = float("-inf")
        self._attempt: asyncio.Task[None] | None = None
        self.problem = ""

    async def named(self, key_id: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys for a token with this `kid`, none if it is unknown even after a refresh.

        Raises UnauthenticatedError if no keys are known that may still be used.
        """
        found = self._usable().named(key_id) if self._has_usable else ()
        if not found and self._since(self._attempted_at) >= RETRY_SECONDS:
            await self._refresh()
        elif not found and self._attempt is not None:
            await asyncio.shield(self._attempt)
        return found or self._usable().named(key_id)

    async def maintain(self) -> None:
        """Fetch the keys if that is due."""
        due = REFRESH_SECONDS if not self.problem else RETRY_SECONDS
        if self._since(self._attempted_at) >= due:
            await self._refresh()

    @property
    def _has_usable(self) -> bool:
        return self._keys is not None and self._since(self._fetched_at) < MAX_STALE_SECONDS

    def _usable(self) -> KeySet:
        if self._keys is None or not self._has_usable:
            raise refused("keys_unavailable", "cannot be verified: the keys of its issuer could not be fetched")
        return self._keys

    async def _refresh(self) -> None:
        """Fetch the keys once for all who wait; one of them that is cancelled ends it for no other."""
        if self._attempt is None:
            self._attempted_at = self._clock.monotonic()
            self._attempt = asyncio.create_task(self._fetch())
        await asyncio.shield(self._attempt)

    async def _fetch(self) -> None:
        try:
            self._keys = parse_key_set(await self._source.fetch())
        except MeshwardError as error:
            self.problem = f"the keys of {self._issuer}: {error.message}"
        else:
            self.problem, self._fetched_at = "", self._clock.monotonic()
            self._metrics.jwks_fetched.set((self._issuer,), self._clock.now().timestamp())
        finally:
            self._attempt = None

    def _since(self, moment: float) -> float:
        return self._clock.monotonic() - moment
