"""Issuing SVIDs: each is verified after it was signed, and recorded before it is returned."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.ca.model import CaConfig, Entry, IssuedChain, Surface
from app.ca.ports import CaTransactions
from app.ca.rules.csr import CertificateRequest, parse_csr
from app.ca.rules.leaf import Leaf, LeafProfile
from app.ca.rules.names import check_entry, check_workload_id
from app.ca.rules.rotation import granted_ttl, validity
from app.ca.service.active_signer import ActiveSigner
from app.ca.service.authorities import Authorities
from app.ca.service.bans import Bans
from app.ca.service.recording import Draft, EntryChanged, Recorder
from app.ca.service.signing import ToSign, sign_one
from app.ca.service.signing_requests import new_serial
from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    MeshwardError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from app.core.rates import Buckets, RateLimit
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import WorkloadSvid
from app.telemetry.metrics import Metrics

log = structlog.get_logger(__name__)

# For a caller that asks for no lifetime of its own.
NO_TTL = 0
CHECK_TTL = timedelta(minutes=1)
# The life of a serving SVID that could not be recorded: it is tried again at half of it.
UNRECORDED_TTL = timedelta(hours=1)
# An SVID is signed again if the entry of its identity changed meanwhile.
MAX_ATTEMPTS = 3
# The credentials that prove a workload's identity.
PROOFS = frozenset(
    {Credential.SVID, Credential.JOIN_TOKEN, Credential.JWT, Credential.SERVICE_ACCOUNT, Credential.FORWARDED}
)
# About 1 KB each; an identity that is not among them costs a second signature.
MAX_KNOWN_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class _Subject:
    """The identity to issue to, the join token that it is proved by, and further names for the certificate."""

    spiffe_id: SpiffeId
    token_id: str | None = None
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[IPv4Address | IPv6Address, ...] = ()


class Issuance:
    """Issues SVIDs to callers for their own identity, and to the control plane for its listeners."""

    def __init__(
        self,
        config: CaConfig,
        transactions: CaTransactions,
        authorities: Authorities,
        bans: Bans,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._config, self._transactions, self._authorities = config, transactions, authorities
        self._bans = bans
        self._clock, self._metrics = clock, metrics
        self._issued = Buckets(clock.monotonic)
        self._budget = RateLimit(config.svids_per_hour / 3600, config.svids_per_hour)
        self._server_id = config.trust_domain.server_id
        self._recorder = Recorder(transactions, bans, clock)
        # Entries as they were last seen. Recording compares, so that one which has changed since is only a second try.
        self._entries: dict[SpiffeId, Entry] = {}

    async def issue(self, caller: Principal, csr: str, ttl_seconds: int, surface: Surface) -> IssuedChain:
        """Return an SVID of the caller's own id for the key of its CSR (PEM).

        `ttl_seconds` zero or less leaves the lifetime to the entry of the id, else to the default. A join token is
        used up if and only if the SVID is recorded. Raises UnauthenticatedError if the caller did not prove a
        workload's identity or its token is used up, PermissionDeniedError if the identity is banned, InvalidInputError
        for the CSR or the lifetime,
        ResourceExhaustedError if the identity has been issued as many as it may, UnavailableError or PreconditionError
        if nothing can be issued now, InternalError if what was signed is not valid.
        """
        with self._counted(surface):
            subject, request = self._subject(caller), parse_csr(csr)
            with self._charged(subject):
                return await self._issue(subject, request, ttl_seconds, surface)

    async def issue_with_new_key(self, caller: Principal, surface: Surface) -> WorkloadSvid:
        """Return an SVID of the caller's own id with a new key (P-256). Raises as `issue` does."""
        with self._counted(surface):
            subject = self._subject(caller)
            with self._charged(subject):
                return await self._issue_with_new_key(subject, surface)

    async def issue_serving(self) -> WorkloadSvid:
        """Return the control plane's own serving SVID, for its names and addresses. Raises as `issue` does.

        While the database is away it is one that is not recorded, for UNRECORDED_TTL: its key never leaves this
        process, and sidecars can go on asking.
        """
        with self._counted(Surface.SERVING):
            config = self._config
            subject = _Subject(self._server_id, None, config.server_dns_names, config.server_addresses)
            try:
                return await self._issue_with_new_key(subject, Surface.SERVING)
            except UnavailableError as error:
                return await self._unrecorded(subject, error.message)

    async def _unrecorded(self, subject: _Subject, reason: str) -> WorkloadSvid:
        active = self._authorities.active()
        key = ec.generate_private_key(ec.SECP256R1())
        request = CertificateRequest(key.public_key(), wants_common_name=False)
        ttl = min(UNRECORDED_TTL, self._config.default_ttl)
        profile = self._profile(subject, request, None, int(ttl.total_seconds()), active)
        leaf = await sign_one(ToSign(profile, active), self._clock.now())
        svid = _workload_svid(self._chain(profile, leaf, active), key)
        log.warning("serving_svid_not_recorded", serial=f"{profile.serial:032x}", reason=reason)
        return svid

    async def check(self) -> None:
        """Sign an SVID and discard it. Raises as `issue` does if nothing can be issued now."""
        active = self._authorities.active()
        signer, key = active.signer, active.key.public_key
        now = self._clock.now()
        not_before, not_after = validity(now, CHECK_TTL, signer.not_before, signer.not_after)
        await sign_one(ToSign(LeafProfile(self._server_id, key, new_serial(), not_before, not_after), active), now)

    def _subject(self, caller: Principal) -> _Subject:
        if caller.credential not in PROOFS or caller.spiffe_id is None:
            raise UnauthenticatedError(
                "SVIDs are issued to callers that prove an identity: use a join token or an SVID"
            )
        if caller.credential is Credential.JOIN_TOKEN and caller.token_id is None:
            raise UnauthenticatedError("a join token without its id cannot be used up")
        try:
            check_workload_id(caller.spiffe_id, self._config.trust_domain)
        except InvalidInputError as error:
            raise UnauthenticatedError(error.message) from error
        if refusal := self._bans.refusal(caller.spiffe_id.principal, caller.serial):
            raise refusal
        return _Subject(caller.spiffe_id, caller.token_id)

    async def _issue_with_new_key(self, subject: _Subject, surface: Surface) -> WorkloadSvid:
        key = ec.generate_private_key(ec.SECP256R1())
        request = CertificateRequest(key.public_key(), wants_common_name=False)
        return _workload_svid(await self._issue(subject, request, NO_TTL, surface), key)

    async def _issue(
        self, subject: _Subject, request: CertificateRequest, ttl_seconds: int, surface: Surface
    ) -> IssuedChain:
        active = self._authorities.active()
        for _ in range(MAX_ATTEMPTS):
            entry = self._entries.get(subject.spiffe_id)
            try:
                profile = self._profile(subject, request, entry, ttl_seconds, active)
            except MeshwardError:
                # By the entry as it was known. It may be another one by now.
                if not await self._entry_changed(subject.spiffe_id, entry):
                    raise
                continue
            leaf = await self._recorded(Draft(ToSign(profile, active), entry, surface, subject.token_id))
            if leaf is not None:
                serial = f"{profile.serial:032x}"
                log.debug("svid_issued", spiffe_id=str(profile.spiffe_id), serial=serial, surface=surface.value)
                return self._chain(profile, leaf, active)
        raise UnavailableError(f"the entry of {subject.spiffe_id} changes too fast: retry")

    def _chain(self, profile: LeafProfile, leaf: Leaf, active: ActiveSigner) -> IssuedChain:
        chain, bundle = (leaf.pem, *active.signer.chain), self._authorities.bundle()
        return IssuedChain(profile.spiffe_id, chain, bundle, profile.not_before, profile.not_after)

    async def _recorded(self, draft: Draft) -> Leaf | None:
        """Sign and record an SVID, unless the entry that it was made by has changed, which is remembered."""
        try:
            outcome = await self._recorder.record(draft)
        except ConflictError as error:
            # As when a backup was restored under a running replica, until its next pass.
            raise InternalError("the SVID is held back: its signing authority is not in the database") from error
        if isinstance(outcome, EntryChanged):
            self._remember(draft.leaf.profile.spiffe_id, outcome.entry)
            return None
        return outcome

    async def _entry_changed(self, spiffe_id: SpiffeId, known: Entry | None) -> bool:
        async with self._transactions() as repository:
            entry = await repository.entry_of(spiffe_id)
        self._remember(spiffe_id, entry)
        return entry != known

    def _remember(self, spiffe_id: SpiffeId, entry: Entry | None) -> None:
        self._entries.pop(spiffe_id, None)
        if entry is not None:
            self._entries[spiffe_id] = entry
            if len(self._entries) > MAX_KNOWN_ENTRIES:
                del self._entries[next(iter(self._entries))]

    def _check(self, entry: Entry) -> None:
        """Raise PreconditionError unless the entry is valid now, as it may not be after settings were changed."""
        try:
            check_entry(entry, self._config)
        except InvalidInputError as error:
            problems = "; ".join(str(violation) for violation in error.violations)
            raise PreconditionError(f"the entry of {entry.spiffe_id} has to be changed: {problems}") from error

    def _profile(
        self,
        subject: _Subject,
        request: CertificateRequest,
        entry: Entry | None,
        ttl_seconds: int,
        active: ActiveSigner,
    ) -> LeafProfile:
        config, signer = self._config, active.signer
        if entry is not None:
            self._check(entry)
        ttl = granted_ttl(ttl_seconds, entry.x509_svid_ttl if entry else None, config.default_ttl, config.max_ttl)
        not_before, not_after = validity(self._clock.now(), ttl, signer.not_before, signer.not_after)
        return LeafProfile(
            spiffe_id=subject.spiffe_id,
            public_key=request.public_key,
            serial=new_serial(),
            not_before=not_before,
            not_after=not_after,
            common_name=request.wants_common_name,
            dns_names=subject.dns_names + (entry.dns_names if entry else ()),
            ip_addresses=subject.ip_addresses,
            crl_url=None if config.crl_url is None or not active.signs_crls else f"{config.crl_url}/{signer.id}",
        )

    @contextmanager
    def _charged(self, subject: _Subject) -> Iterator[None]:
        """Count an SVID of the identity, unless the block raises. Raises ResourceExhaustedError above its budget."""
        spiffe_id = subject.spiffe_id
        if wait := self._issued.take(spiffe_id, self._budget):
            raise ResourceExhaustedError(
                f"{spiffe_id} has been issued its {self._budget.burst} SVIDs an hour: retry in {wait:.0f} s",
                reason="svid_budget",
                retry_seconds=wait,
            )
        try:
            yield
        except Exception:
            self._issued.give_back(spiffe_id)
            raise

    @contextmanager
    def _counted(self, surface: Surface) -> Iterator[None]:
        try:
            yield
        except MeshwardError as error:
            self._metrics.issuances.add((surface.value, _result(error)))
            raise
        self._metrics.issuances.add((surface.value, "issued"))


def _workload_svid(issued: IssuedChain, key: ec.EllipticCurvePrivateKey) -> WorkloadSvid:
    private_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return WorkloadSvid(issued.spiffe_id, issued.chain, private_key, issued.not_before, issued.not_after)


def _result(error: MeshwardError) -> str:
    match error:
        case InvalidInputError():
            return "invalid"
        case UnauthenticatedError():
            return "unauthenticated"
        case PermissionDeniedError():
            return "banned"
        case UnavailableError():
            return "unavailable"
        case ResourceExhaustedError():
            return "over_budget"
        case _:
            return "failed"
