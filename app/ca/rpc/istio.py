"""The certificate service that Istio's agents call: `istio.v1.auth.IstioCertificateService`."""

from google.protobuf.struct_pb2 import NULL_VALUE, Value

from app.ca.model import Surface
from app.ca.service.impersonation import Impersonation
from app.ca.service.issuance import Issuance
from app.ca.service.join_tokens import TOKEN_REFUSED
from app.core.errors import PreconditionError, UnauthenticatedError, UnavailableError
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.spiffe.bundle import bundle_pem
from app.spiffe.principal import Principal
from app.transport.grpc.context import CallContext
from app.transport.grpc.status import Code, RpcError

# The key of the request's metadata by which a node agent requests another workload's certificate.
IMPERSONATION_KEY = "ImpersonatedIdentity"
# Its values that request no other workload's, as in istiod. A value of any other kind is refused.
NO_NAMES = (Value(), Value(null_value=NULL_VALUE), Value(string_value=""))

# The message to every caller that is refused, whatever the reason: Istio's contract keeps it opaque. A join token that
# was used since it was looked up gets the message of one that had been used before.
REFUSAL = "authentication failed"


class IstioCertificates:
    """Implements `CreateCertificate` as Istio's own CA does."""

    def __init__(self, issuance: Issuance, impersonation: Impersonation | None = None) -> None:
        self._issuance, self._impersonation = issuance, impersonation

    async def create_certificate(
        self, request: IstioCertificateRequest, context: CallContext
    ) -> IstioCertificateResponse:
        """Return the chain for the caller's CSR: the leaf, each intermediate, then all roots as one string.

        Raises UnauthenticatedError, without the reason, for a caller that may not have a certificate (or requests one
        that it may not impersonate), InvalidInputError for the CSR or the lifetime, INTERNAL if the CA cannot sign, and
        UNAVAILABLE if a cluster cannot be asked about an impersonation.
        """
        try:
            caller = await self._caller(request, context)
            issued = await self._issuance.issue(caller, request.csr, request.validity_duration, Surface.ISTIO_CA)
        except UnauthenticatedError as error:
            message = TOKEN_REFUSED if error.message == TOKEN_REFUSED else REFUSAL
            raise UnauthenticatedError(message, reason=error.reason or "certificate") from error
        except (UnavailableError, PreconditionError) as error:
            raise RpcError(Code.INTERNAL, error.message) from error
        return IstioCertificateResponse(cert_chain=[*issued.chain, bundle_pem(issued.bundle)])

    async def _caller(self, request: IstioCertificateRequest, context: CallContext) -> Principal:
        """Return whose certificate is requested: the caller's, or a workload's that it may impersonate."""
        if not context.peer.private:
            raise UnauthenticatedError("requested over plaintext from another machine", reason="plaintext")
        wanted = request.metadata.fields.get(IMPERSONATION_KEY, NO_NAMES[0])
        if wanted in NO_NAMES:
            return context.principal
        if self._impersonation is None or wanted.WhichOneof("kind") != "string_value":
            raise UnauthenticatedError("requested for another workload", reason="impersonation")
        try:
            return await self._impersonation.of(context.principal, wanted.string_value)
        except UnavailableError as error:
            # Of the cluster, not of this CA: INTERNAL is for what keeps that from signing.
            raise RpcError(Code.UNAVAILABLE, error.message) from error
