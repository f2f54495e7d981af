"""The authorities as read from the database in one pass."""

from dataclasses import dataclass
from datetime import datetime

from app.ca.model import KnownAuthorities, Signer, SigningRequest
from app.ca.ports import CaRepository
from app.ca.rules.lifecycle import Trust

# Requests read in one pass: more data directories than any installation has, and signed in a fraction of a second.
MAX_REQUESTS_PER_PASS = 1000


@dataclass(frozen=True, slots=True)
class Known:
    """The roots with their stages, and the signing authorities under them, the last to end first.

    `requests` are to be signed; `unapproved` are not authentic, and wait for an operator.
    """

    trust: Trust
    signers: tuple[Signer, ...]
    requests: tuple[SigningRequest, ...] = ()
    unapproved: tuple[SigningRequest, ...] = ()

    @classmethod
    def of(cls, kept: KnownAuthorities) -> "Known":
        """Return what is known from authorities that were kept."""
        return cls(Trust.of(kept.roots, kept.stages), kept.signers)

    @property
    def kept(self) -> KnownAuthorities:
        """What is to be kept of it for a start without the database."""
        return KnownAuthorities(self.trust.roots, self.signers, tuple(self.trust.stages.values()))


async def read_trust(repository: CaRepository) -> Trust:
    """Return the roots and their stages."""
    return Trust.of(await repository.roots(), await repository.stages())


async def read_known(repository: CaRepository, now: datetime) -> Known | None:
    """Return the authorities, None if there is no root."""
    trust = await read_trust(repository)
    if not trust.roots:
        return None
    requests: list[SigningRequest] = []
    unapproved: list[SigningRequest] = []
    signers: list[Signer] = []
    # In this order, a request that is answered meanwhile is in one of them.
    for root in trust.targets:
        requests += await repository.signing_requests(root.id, MAX_REQUESTS_PER_PASS)
        unapproved += await repository.unapproved_requests(root.id, MAX_REQUESTS_PER_PASS)
    for root in trust.roots:
        if now <= root.not_after:
            signers += await repository.signers(root.id, now)
    signers.sort(key=lambda signer: (-signer.not_after.timestamp(), signer.id))
    return Known(trust, tuple(signers), tuple(requests), tuple(unapproved))
