"""Tokens that their authorization server is asked about (OAuth 2.0 Token Introspection, RFC 7662)."""

import math
from collections.abc import Collection
from functools import partial
from hashlib import sha256

from app.authz.ports import IntrospectionEndpoint
from app.authz.rules.credentials import CredentialProblem, Outcome, Proven, Rejected
from app.authz.rules.introspection import for_audiences, read_answer
from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.core.inquiries import Inquiries


class Introspection:
    """Has tokens introspected by one authorization server, each once for all who show it within `seconds`.

    A token that is revoked meanwhile is accepted for so long; one that ends meanwhile is not.
    """

    def __init__(self, endpoint: IntrospectionEndpoint, issuer: str, seconds: float, clock: Clock) -> None:
        """`issuer` is the only one of its tokens; empty for those that the answers name."""
        self._endpoint, self._issuer, self._seconds, self._clock = endpoint, issuer, seconds, clock
        self._inquiries = Inquiries[bytes, Outcome](clock.monotonic, lambda outcome: isinstance(outcome, Proven))

    def known(self, text: str, audiences: Collection[str]) -> Outcome | None:
        """Return what is remembered of a token, for one of the audiences, None if there is nothing."""
        outcome = self._inquiries.known(_digest(text))
        return None if outcome is None else for_audiences(outcome, audiences)

    async def ask(self, text: str, audiences: Collection[str]) -> Outcome:
        """Return whose token it is, or why it is not accepted."""
        answer = await self._inquiries.answer(_digest(text), partial(self._ask, text))
        return for_audiences(answer, audiences)

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()

    async def _ask(self, text: str) -> tuple[Outcome, float]:
        try:
            content = await self._endpoint.introspect(text)
        except MeshwardError as error:
            return Rejected(CredentialProblem.UNVERIFIED, error.message), 0.0
        now = self._clock.now().timestamp()
        outcome, ends = read_answer(content, self._issuer, now)
        return outcome, min(self._seconds, ends - now if ends != math.inf else self._seconds)


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
