"""Signing certificates for other Meshwards, whose authorities are beneath this one's."""

import structlog

from app.audit.model import record_of
from app.ca.model import CaConfig, IssuedAuthority, Signer
from app.ca.ports import CaTransactions
from app.ca.rules.downstream import authority_profile, downstream_builder, policy_of
from app.ca.rules.log import downstream_entry
from app.ca.rules.profile import authority_id
from app.ca.service.active_signer import ActiveSigner
from app.ca.service.authorities import Authorities
from app.ca.service.bans import Bans
from app.ca.service.known import read_trust
from app.ca.service.leaves import append
from app.ca.service.signing_requests import new_serial
from app.core.clock import Clock
from app.core.errors import InternalError, InvalidInputError, PermissionDeniedError, PreconditionError
from app.spiffe.keys import accepted_key
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import authority_life, parse_certificate, pem

log = structlog.get_logger(__name__)


class Downstreams:
    """Signs for callers that the settings name; each certificate is audited, and in the transparency log."""

    def __init__(
        self, config: CaConfig, transactions: CaTransactions, authorities: Authorities, bans: Bans, clock: Clock
    ) -> None:
        self._config, self._transactions, self._authorities = config, transactions, authorities
        self._bans, self._clock = bans, clock

    async def sign(self, caller: Principal, csr: str, seconds: int) -> IssuedAuthority:
        """Return a signing certificate for the key of a request (PEM), for so many seconds at most.

        Raises UnauthenticatedError or PermissionDeniedError if the caller may not have one, InvalidInputError for the
        request, UnavailableError or PreconditionError if nothing here may sign it now.
        """
        policy = policy_of(caller, self._config.downstreams)
        if refusal := self._bans.refusal(policy.spiffe_id.principal, caller.serial):
            raise refusal
        issuer, now = await self._authorities.issuer(), self._clock.now()
        profile = authority_profile(csr, seconds, policy, (*issuer.chain, issuer.root), now)
        signed = await issuer.key.sign(downstream_builder(profile, issuer.certificate, self._config, new_serial()))
        signer = self._checked(pem(signed), issuer)
        async with self._transactions() as repository:
            bans = await self._bans.held(repository)  # of another replica too, and those made since the check above
            if ban := bans.find(policy.spiffe_id.principal, caller.serial, self._clock.now()):
                raise ban.refusal
            await repository.hold_authorities()
            if (stage := (await read_trust(repository)).stage(signer.id)) is not None:
                raise PermissionDeniedError(
                    f"the authority {signer.id} is {stage.value}: make a new key", reason="authority_withdrawn"
                )
            known = await repository.signer(signer.id)
            if known is not None and known.root_id != signer.root_id:
                raise PreconditionError(f"the authority {signer.id} is known under another root: make a new key")
            if known is None or known.not_after <= signer.not_after:  # the longest is what can still be withdrawn
                await repository.put_signer(signer, now)
            await append(repository, [downstream_entry(signer, policy.spiffe_id)])
            after = {"id": signer.id, "not_after": signer.not_after.isoformat(), "path_length": profile.path_length}
            await repository.record(record_of(caller, now, "downstream.sign", str(policy.spiffe_id), after=after))
        log.info(
            "ca_downstream_signed",
            spiffe_id=str(policy.spiffe_id),
            authority=signer.id,
            path_length=profile.path_length,
            not_after=signer.not_after.isoformat(),
        )
        return IssuedAuthority(signer.chain, self._authorities.bundle())

    def _checked(self, certificate: str, issuer: ActiveSigner) -> Signer:
        """Return the authority with a certificate just signed, read back as its verifiers will."""
        above = issuer.signer.chain if issuer.signer.id != issuer.signer.root_id else ()
        read = parse_certificate(certificate)
        try:
            chain = (read, *(parse_certificate(each) for each in above))
            life = authority_life(chain, issuer.root, self._config.trust_domain)
        except InvalidInputError as error:
            raise InternalError(f"the signing certificate is not valid and is held back: {error.message}") from error
        key = accepted_key(read)
        return Signer(authority_id(key), issuer.signer.root_id, certificate, life[0], life[1], above)
