"""Proof of an identity by anything but a client certificate."""

from dataclasses import dataclass, field
from typing import Protocol

from app.spiffe.principal import Principal


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a call presents.

    `bearer` is the token of its `authorization` metadata, None if there is none. `cluster` is its `clusterid`, by which
    Istio's agents say which cluster's token that is; empty if they do not. `forwarded` are its
    `x-forwarded-client-cert`, and `host` is the address that it comes from, without the port.
    """

    bearer: str | None = field(repr=False)
    cluster: str = ""
    forwarded: tuple[str, ...] = ()
    host: str = ""


class Attestor(Protocol):
    """One way to prove an identity."""

    async def attest(self, evidence: Evidence) -> Principal | None:
        """Return the caller that the evidence proves, without consuming it; None if it is of a kind unknown here.

        Raises UnauthenticatedError, with a message that the caller may see, if it proves none, and UnavailableError if
        that cannot be found out now. `reason` is set if the evidence is of the kind that is verified here.
        """
