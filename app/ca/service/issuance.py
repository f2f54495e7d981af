"""Issuing SVIDs: each is checked after it was signed, and recorded before it leaves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.model import CaConfig, IssuedChain, IssuedSvid, Surface
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.csr import CertificateRequest, parse_csr
from app.ca.rules.names import SERVER_PATH, check_workload_id
from app.ca.rules.profile import LeafProfile, check_leaf, leaf_builder
from app.ca.rules.rotation import granted_ttl, validity
from app.ca.service.authorities import ActiveSigner, Authorities, new_serial
from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    MeshwardError,
    UnauthenticatedError,
    UnavailableError,
)
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import WorkloadSvid, pem
from app.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# For a caller that asks for no lifetime of its own.
NO_TTL = 0
CHECK_TTL = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Subject:
    """For whom to issue, and what besides the id goes into the certificate."""

    spiffe_id: SpiffeId
    request: CertificateRequest
    token_id: str | None = None
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()


class Issuance:
    """Issues SVIDs to callers for their own identity, and to the control plane for its listeners."""

    def __init__(
        self, config: CaConfig, transactions: CaTransactions, authorities: Authorities, clock: Clock, metrics: Metrics
    ) -> None:
        self._config, self._transactions, self._authorities = config, transactions, authorities
        self._clock, self._metrics = clock, metrics

    async def issue(self, caller: Principal, csr: str, ttl_seconds: int, surface: Surface) -> IssuedChain:
        """Return an SVID of the caller's own id for the key of its CSR (PEM).

        `ttl_seconds` zero or less leaves the lifetime to the entry of the id, else to the default. A join token is
        used up with the record of the SVID, or not at all. Raises UnauthenticatedError if the caller did not prove a
        workload's identity or its token is used up, InvalidInputError for the CSR or the lifetime, UnavailableError or
        PreconditionError if nothing can be issued now, InternalError if what was signed is not valid.
        """
        with self._counted(surface):
            spiffe_id = self._identity(caller)
            subject = _Subject(spiffe_id, parse_csr(csr), caller.token_id)
            return await self._issue(subject, ttl_seconds, surface)

    async def issue_with_new_key(self, caller: Principal, surface: Surface) -> WorkloadSvid:
        """Return an SVID of the caller's own id with a key (P-256) made here. Raises as `issue` does."""
        with self._counted(surface):
            spiffe_id = self._identity(caller)
            key = ec.generate_private_key(ec.SECP256R1())
            request = CertificateRequest(key.public_key(), wants_common_name=False)
            subject = _Subject(spiffe_id, request, caller.token_id)
            return _with_key(await self._issue(subject, NO_TTL, surface), key)

    async def issue_serving(
        self,
        dns_names: Sequence[str],
        ip_addresses: Sequence[IPv4Address | IPv6Address],
        ttl: timedelta | None = None,
    ) -> WorkloadSvid:
        """Return the control plane's own serving SVID for the names and addresses. Raises as `issue` does."""
        with self._counted(Surface.SERVING):
            key = ec.generate_private_key(ec.SECP256R1())
            subject = _Subject(
                SpiffeId(self._config.trust_domain, SERVER_PATH),
                CertificateRequest(key.public_key(), wants_common_name=False),
                dns_names=tuple(dns_names),
                ip_addresses=tuple(ip_addresses),
            )
            ttl_seconds = int(ttl.total_seconds()) if ttl else NO_TTL
            return _with_key(await self._issue(subject, ttl_seconds, Surface.SERVING), key)

    async def check(self) -> None:
        """Sign an SVID and discard it. Raises as `issue` does if nothing can be issued now."""
        active = self._authorities.active()
        signer = active.signer
        not_before, not_after = validity(self._clock.now(), CHECK_TTL, signer.not_before, signer.not_after)
        spiffe_id = SpiffeId(self._config.trust_domain, SERVER_PATH)
        await self._sign(LeafProfile(spiffe_id, active.key.public_key, new_serial(), not_before, not_after), active)

    def _identity(self, caller: Principal) -> SpiffeId:
        if caller.credential not in {Credential.SVID, Credential.JOIN_TOKEN} or caller.spiffe_id is None:
            raise UnauthenticatedError(
                "SVIDs are issued to callers that prove an identity: use a join token or an SVID"
            )
        if caller.credential is Credential.JOIN_TOKEN and caller.token_id is None:
            raise UnauthenticatedError("a join token without its id cannot be used up")
        try:
            check_workload_id(caller.spiffe_id, self._config.trust_domain)
        except InvalidInputError as error:
            raise UnauthenticatedError(error.message) from error
        return caller.spiffe_id

    async def _issue(self, subject: _Subject, ttl_seconds: int, surface: Surface) -> IssuedChain:
        try:
            return await self._sign_and_record(subject, ttl_seconds, surface)
        except ConflictError as error:
            # As when a backup was restored under a running replica, until its next pass.
            raise InternalError("the SVID is held back: the database does not know what signed it") from error

    async def _sign_and_record(self, subject: _Subject, ttl_seconds: int, surface: Surface) -> IssuedChain:
        active = self._authorities.active()
        now = self._clock.now()
        async with self._transactions() as repository:
            if subject.token_id is not None and not await repository.redeem_token(subject.token_id, now):
                raise UnauthenticatedError("the join token was used already or has expired: make a new one")
            profile = await self._profile(repository, subject, ttl_seconds, active)
            leaf = await self._sign(profile, active)
            record = IssuedSvid(
                serial=f"{profile.serial:032x}",
                spiffe_id=subject.spiffe_id,
                signer_id=active.signer.id,
                fingerprint=sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest(),
                not_before=profile.not_before,
                not_after=profile.not_after,
                issued_at=now,
                surface=surface,
                token_id=subject.token_id,
            )
            await repository.add_svid(record)
        log.debug("svid_issued", spiffe_id=str(record.spiffe_id), serial=record.serial, surface=surface.value)
        chain = (pem(leaf), active.signer.certificate)
        bundle = self._authorities.bundle()
        return IssuedChain(subject.spiffe_id, chain, bundle, profile.not_before, profile.not_after)

    async def _profile(
        self, repository: CaRepository, subject: _Subject, ttl_seconds: int, active: ActiveSigner
    ) -> LeafProfile:
        entry = await repository.entry_of(subject.spiffe_id)
        config = self._config
        ttl = granted_ttl(ttl_seconds, entry.x509_svid_ttl if entry else None, config.default_ttl, config.max_ttl)
        signer = active.signer
        not_before, not_after = validity(self._clock.now(), ttl, signer.not_before, signer.not_after)
        return LeafProfile(
            spiffe_id=subject.spiffe_id,
            public_key=subject.request.public_key,
            serial=new_serial(),
            not_before=not_before,
            not_after=not_after,
            common_name=subject.request.wants_common_name,
            dns_names=subject.dns_names + (entry.dns_names if entry else ()),
            ip_addresses=subject.ip_addresses,
        )

    async def _sign(self, profile: LeafProfile, active: ActiveSigner) -> x509.Certificate:
        signed = await active.key.sign(leaf_builder(profile, active.certificate))
        return check_leaf(signed, profile, active.certificate, active.root, self._clock.now())

    @contextmanager
    def _counted(self, surface: Surface) -> Iterator[None]:
        try:
            yield
        except MeshwardError as error:
            self._metrics.issuances.add((surface.value, _result(error)))
            raise
        self._metrics.issuances.add((surface.value, "issued"))


def _result(error: MeshwardError) -> str:
    match error:
        case InvalidInputError():
            return "invalid"
        case UnauthenticatedError():
            return "unauthenticated"
        case UnavailableError():
            return "unavailable"
        case _:
            return "failed"


def _with_key(issued: IssuedChain, key: ec.EllipticCurvePrivateKey) -> WorkloadSvid:
    private_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return WorkloadSvid(issued.spiffe_id, issued.chain, private_key, issued.not_before, issued.not_after)
