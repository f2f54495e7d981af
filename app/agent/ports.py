"""What the agent's decisions need from outside, as Protocols."""

from typing import Protocol

from app.agent.model import Identity, JoinToken

Proof = JoinToken | Identity
"""What the agent proves itself with: a join token at first, the identity that it holds afterwards."""


class CertificateAuthority(Protocol):
    """The control plane, as far as the agent needs it."""

    async def certify(self, csr: str, proof: Proof) -> tuple[str, ...]:
        """Return the `cert_chain` for a PEM request.

        Raises UnauthenticatedError, PermissionDeniedError or InvalidInputError if it was refused, PreconditionError if
        the server could not be trusted, and UnavailableError if it may work later.
        """
        ...


class TokenSource(Protocol):
    """Where join tokens come from."""

    def read(self) -> JoinToken | None:
        """Return the token that is there now, None if there is none. Raises InvalidInputError if it is no token."""
        ...


class IdentityKeeping(Protocol):
    """Where the identity outlives the process."""

    def save(self, identity: Identity) -> None:
        """Keep the identity in the place of the one before. Raises PreconditionError if that fails."""
        ...
