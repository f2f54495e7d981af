"""What the CA's parts need from outside, as Protocols."""

from typing import Protocol

from app.ca.model import TrustBundle, WorkloadSvid
from app.core.caller import Caller


class SecretSession(Protocol):
    """The secrets of one SDS stream."""

    async def svid(self) -> WorkloadSvid:
        """Return the caller's current SVID, making it on first use. Raises UnauthenticatedError or UnavailableError."""
        ...

    async def bundle(self) -> TrustBundle:
        """Return the current trust bundle."""
        ...

    async def wait_for_change(self) -> None:
        """Return once what `svid` or `bundle` answered last has been, or is due to be, replaced."""
        ...


class SecretSource(Protocol):
    """Where SDS takes secrets from: the CA itself in the control plane, the held SVID in the agent."""

    def open(self, caller: Caller) -> SecretSession:
        """Return the session of a stream that `caller` opened."""
        ...
