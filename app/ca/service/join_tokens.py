"""Join tokens: a secret that proves one identity once."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from hashlib import sha256

from app.audit.model import record_of, state_of
from app.ca.model import MAX_JOIN_TOKEN_TTL, CaConfig, CreatedJoinToken, JoinToken
from app.ca.ports import CaTransactions
from app.ca.rules.names import check_workload_id
from app.core.clock import Clock
from app.core.errors import InvalidInputError, NotFoundError, UnauthenticatedError, Violation
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.jwt import is_jwt
from app.spiffe.principal import Credential, Principal

DEFAULT_TTL = timedelta(minutes=10)
MIN_TTL = timedelta(seconds=1)
SECRET_BYTES = 32
# A longer one was not created here; bounds the hashing that an unauthenticated caller can ask for.
MAX_SECRET_LENGTH = 256
# Databases bound the values of one query.
TOKENS_PER_QUERY = 1000

# The reasons that a caller gets. They depend on what it sent, and never on what is known of a token.
TOKEN_MISSING = "this call needs an SVID, or a join token as 'authorization: Bearer …'"  # noqa: S105 - a message
TOKEN_REFUSED = "the join token is unknown, used up or expired: create a new one"  # noqa: S105 - a message
BEARER_IS_JWT = (
    "the bearer token is a JWT, such as a service account's, which is not accepted here: use a join token or an SVID"
)


class JoinTokens:
    """Creates, lists and deletes join tokens; an Attestor for callers that present one.

    `caller` is who makes a change, for the audit record that is stored with it.
    """

    def __init__(self, config: CaConfig, transactions: CaTransactions, clock: Clock) -> None:
        self._config, self._transactions, self._clock = config, transactions, clock

    async def create(self, caller: Principal, spiffe_id: SpiffeId, ttl: timedelta = DEFAULT_TTL) -> CreatedJoinToken:
        """Return a new token for a workload's id, with its secret, which is not stored.

        Raises InvalidInputError if no workload of ours can hold the id, or `ttl` is not between a second and a day.
        """
        check_workload_id(spiffe_id, self._config.trust_domain)
        if not MIN_TTL <= ttl <= MAX_JOIN_TOKEN_TTL:
            problem = f"between {MIN_TTL.total_seconds():.0f} and {MAX_JOIN_TOKEN_TTL.total_seconds():.0f} seconds"
            raise InvalidInputError("the lifetime of a join token is out of bounds", Violation("ttl_seconds", problem))
        now = self._clock.now()
        secret = secrets.token_urlsafe(SECRET_BYTES)
        token = JoinToken(secrets.token_hex(16), spiffe_id, now, now + ttl)
        async with self._transactions() as repository:
            await repository.add_token(token, _hash(secret))
            await repository.record(record_of(caller, now, "join_token.create", token.id, after=state_of(token)))
        return CreatedJoinToken(token, secret)

    async def attest(self, evidence: Evidence) -> Principal:
        """Return the caller that the secret of a join token proves, without using the token up.

        Raises UnauthenticatedError, with one message whether it is unknown, used up or expired.
        """
        secret = evidence.bearer
        if secret is None:
            raise UnauthenticatedError(TOKEN_MISSING)
        if is_jwt(secret):
            raise UnauthenticatedError(BEARER_IS_JWT)
        token = None
        if len(secret) <= MAX_SECRET_LENGTH:
            # Looked up by its hash: what the timing reveals of a hash reveals nothing of a secret of 256 bits.
            async with self._transactions() as repository:
                token = await repository.token_by_hash(_hash(secret))
        if token is None or not token.usable(self._clock.now()):
            raise UnauthenticatedError(TOKEN_REFUSED)
        return Principal(Credential.JOIN_TOKEN, token.spiffe_id, token.id)

    async def settled(self, token_ids: Collection[str]) -> Mapping[str, bool]:
        """Return those of the tokens that can no longer be used, with whether they were used.

        One that is deleted or has expired, and is not known to have been used, was not.
        """
        asked, tokens = list(token_ids), list[JoinToken]()
        for first in range(0, len(asked), TOKENS_PER_QUERY):
            async with self._transactions() as repository:
                tokens += await repository.tokens_by_id(asked[first : first + TOKENS_PER_QUERY])
        now = self._clock.now()
        usable = {token.id for token in tokens if token.usable(now)}
        used = {token.id for token in tokens if token.redeemed_at is not None}
        return {token_id: token_id in used for token_id in token_ids if token_id not in usable}

    async def page(self, after: str | None, limit: int) -> Sequence[JoinToken]:
        """Return at most `limit` tokens with ids above `after`, in the order of their ids."""
        async with self._transactions() as repository:
            return await repository.tokens(after, limit)

    async def delete(self, caller: Principal, token_id: str) -> None:
        """Delete a token, so that it can no longer be used. Raises NotFoundError if there is none."""
        async with self._transactions() as repository:
            removed = await repository.remove_token(token_id)
            if removed is None:
                raise NotFoundError(f"there is no join token {token_id}")
            before = state_of(removed)
            await repository.record(record_of(caller, self._clock.now(), "join_token.delete", token_id, before=before))


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
