"""Proof of an identity by anything but a client certificate."""

from dataclasses import dataclass, field
from typing import Protocol

from app.spiffe.principal import Principal


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a call presents: `bearer` is the token of its `authorization` metadata, None if there is none."""

    bearer: str | None = field(repr=False)


class Attestor(Protocol):
    """One way to prove an identity."""

    async def attest(self, evidence: Evidence) -> Principal:
        """Return the caller that the evidence proves, without consuming it.

        Raises UnauthenticatedError with the reason, which the caller may see, if it proves none, and UnavailableError
        if that cannot be found out now.
        """
