"""What the agent's decisions need from outside, as Protocols."""

from typing import Protocol

from app.agent.model import Identity, JoinToken

Proof = JoinToken | Identity
"""What the agent authenticates with: a join token at first, the identity that it holds afterwards."""


class CertificateAuthority(Protocol):
    """The part of the control plane that the agent calls."""

    async def certify(self, csr: str, proof: Proof) -> tuple[str, ...]:
        """Return the `cert_chain` for a PEM request.

        Raises UnauthenticatedError, PermissionDeniedError or InvalidInputError if it was refused, PreconditionError if
        the server could not be trusted, and UnavailableError if it may work later.
        """
        ...


class TokenSource(Protocol):
    """Where join tokens come from."""

    def read(self) -> JoinToken | None:
        """Return the current token, None if there is none. Raises InvalidInputError if it is malformed."""
        ...


class IdentityKeeping(Protocol):
    """Where the identity is kept between runs."""

    def save(self, identity: Identity) -> None:
        """Replace the saved identity. Raises PreconditionError if that fails."""
        ...
