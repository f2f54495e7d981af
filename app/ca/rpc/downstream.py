"""The service by which other Meshwards have their signing authorities certified."""

from app.ca.service.downstreams import Downstreams
from app.core.errors import PreconditionError, UnauthenticatedError, UnavailableError
from app.proto.meshward.downstream_pb2 import SignAuthorityRequest, SignAuthorityResponse
from app.transport.grpc.context import CallContext


class DownstreamAuthorities:
    """Implements `meshward.ca.v1.DownstreamAuthorities`."""

    def __init__(self, downstreams: Downstreams) -> None:
        self._downstreams = downstreams

    async def sign_authority(self, request: SignAuthorityRequest, context: CallContext) -> SignAuthorityResponse:
        """Return the chain of the caller's signing authority, and the trust bundle. Raises as `Downstreams.sign`."""
        if not context.peer.private:
            raise UnauthenticatedError("requested over plaintext from another machine", reason="plaintext")
        try:
            issued = await self._downstreams.sign(context.principal, request.csr, request.validity_seconds)
        except PreconditionError as error:  # of this server, which may be put right
            raise UnavailableError(error.message) from error
        return SignAuthorityResponse(cert_chain=issued.chain, roots=issued.bundle.roots)
