"""Certificates that a gateway verified, as proof of an identity: an Attestor for what gateways pass on."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from app.core.errors import InvalidInputError, UnauthenticatedError
from app.core.net import ip_of
from app.spiffe.attestation import Evidence
from app.spiffe.forwarded import MAX_HEADER_LENGTH, peer_uri
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal


class ForwardedCertificates:
    """Accepts `x-forwarded-client-cert` of the gateways whose addresses are in `networks`.

    Such a gateway is trusted for every workload's identity.
    """

    def __init__(self, trust_domain: TrustDomain, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._trust_domain, self._networks = trust_domain, tuple(networks)

    async def attest(self, evidence: Evidence) -> Principal | None:
        """Return the caller whose certificate the gateway verified, None if there is no such header.

        The header has one element with one `URI`, a SPIFFE ID of this trust domain; names of other kinds prove nothing.
        Raises UnauthenticatedError with the reason.
        """
        if not evidence.forwarded:
            return None
        address = ip_of(evidence.host)
        if address is None or not any(address in network for network in self._networks):
            raise _refused("untrusted", "comes from an address that is not in ca.xfcc_networks")
        if len(evidence.forwarded) != 1:
            raise _refused("malformed", "is there more than once")
        try:
            spiffe_id = SpiffeId.parse(peer_uri(evidence.forwarded[0], alone=True))
        except InvalidInputError as error:
            raise _refused("malformed", f"names no peer: {error.message[:MAX_HEADER_LENGTH]}") from error
        if spiffe_id.trust_domain != self._trust_domain:
            raise _refused("foreign", "names a peer of another trust domain")
        return Principal(Credential.FORWARDED, spiffe_id)


def _refused(reason: str, problem: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"x-forwarded-client-cert {problem}", reason=f"xfcc_{reason}")
