"""The certificate service that Istio's agents call: `istio.v1.auth.IstioCertificateService`."""

from app.ca.model import Surface
from app.ca.rules.bundle import bundle_pem
from app.ca.service.issuance import Issuance
from app.core.errors import MeshwardError, PreconditionError, UnauthenticatedError, UnavailableError
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import is_local
from app.transport.grpc.status import Code, RpcError

# The key of the request's metadata with which a node agent asks for another workload's certificate.
IMPERSONATION_KEY = "ImpersonatedIdentity"

# What a caller that is not let in is told, whatever the reason: the contract keeps it opaque.
REFUSAL = "authentication failed"


class IstioCertificates:
    """Answers `CreateCertificate` as Istio's own CA does."""

    def __init__(self, issuance: Issuance) -> None:
        self._issuance = issuance

    async def create_certificate(
        self, request: IstioCertificateRequest, context: CallContext
    ) -> IstioCertificateResponse:
        """Return the chain for the caller's CSR: the leaf, each intermediate, then all roots as one string.

        Raises UnauthenticatedError, without the reason, for a caller that may not have a certificate (another's
        included), InvalidInputError for the CSR or the lifetime, and INTERNAL for whatever keeps the CA from signing.
        """
        if not _is_private(context) or IMPERSONATION_KEY in request.metadata.fields:
            raise UnauthenticatedError(REFUSAL)
        try:
            issued = await self._issuance.issue(
                context.caller, request.csr, request.validity_duration, Surface.ISTIO_CA
            )
        except UnauthenticatedError as error:
            raise UnauthenticatedError(REFUSAL) from error
        except (UnavailableError, PreconditionError) as error:
            raise _internal(error) from error
        return IstioCertificateResponse(cert_chain=[*issued.chain, bundle_pem(issued.bundle)])


def _is_private(context: CallContext) -> bool:
    """Whether nobody on the way can read the token of this call."""
    host = context.peer.rpartition(":")[0] or context.peer
    return context.tls or is_local(host.strip("[]"))


def _internal(error: MeshwardError) -> RpcError:
    return RpcError(Code.INTERNAL, error.message)
