"""The authorities of the trust domain: one root for all replicas, and a signing authority for each data directory.

Certificates are shared through the database; private keys never leave the key store that created them. A replica
without the root's key requests its signing certificate through the database, and the replica that has the key answers.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog
from cryptography import x509

from app.audit.model import record_of
from app.ca.model import CaConfig, CaStatus, KnownAuthorities, Root, Signer, SigningRequest
from app.ca.ports import BundlePublisher, CaRepository, CaTransactions, Document, KeyStore, SigningKey, Unsigned
from app.ca.rules.authority import (
    authority_request,
    check_request,
    check_stored,
    check_trust_domain,
    is_stale,
    root_builder,
    root_of,
    signer_builder,
    signer_of,
    valid_at,
    validity_problem,
)
from app.ca.rules.log import root_entry, signer_entry
from app.ca.rules.profile import ROOT_TITLE, SERIAL_BITS, SIGNER_TITLE, authority_id
from app.ca.rules.rotation import signer_is_due
from app.ca.service.leaves import append
from app.core.clock import Clock
from app.core.errors import (
    ConflictError,
    InternalError,
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from app.core.signals import Latest, Signal
from app.spiffe.bundle import TrustBundle
from app.spiffe.keys import AuthorityKey
from app.spiffe.principal import Principal
from app.spiffe.x509_svid import parse_certificate, pem
from app.telemetry.metrics import Metrics

# Requests read in one pass: more data directories than any installation has, and signed in a fraction of a second.
MAX_REQUESTS_PER_PASS = 1000

ROOT_GONE = (
    "the root of the CA is not in the database, or was not written with the secret of this data directory: restore the "
    "database, or put the keys/replica.secret of the other replicas into this data directory"
)

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ActiveSigner:
    """The signing authority that this replica uses: its certificate and key, and the root above it."""

    signer: Signer
    certificate: x509.Certificate
    key: SigningKey
    root: x509.Certificate


@dataclass(frozen=True, slots=True)
class _Known:
    """The roots, and the authorities under the newest one, as read in one pass.

    `requests` are to be signed; `unapproved` are not authentic, and wait for an operator.
    """

    roots: tuple[Root, ...]
    signers: tuple[Signer, ...]
    requests: tuple[SigningRequest, ...]
    unapproved: tuple[SigningRequest, ...]

    @property
    def root(self) -> Root:
        return self.roots[-1]


class Authorities:
    """Creates and renews the authorities, and provides the one to sign with.

    `changed` fires when the trust bundle changes; `ready` is set once there is an authority to sign with.
    """

    def __init__(
        self,
        config: CaConfig,
        transactions: CaTransactions,
        keys: KeyStore,
        publisher: BundlePublisher,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.changed = Signal()
        self.ready = asyncio.Event()
        self._config, self._transactions, self._keys = config, transactions, keys
        self._publisher, self._clock, self._metrics = publisher, clock, metrics
        self._held: dict[str, SigningKey] = {}
        self._known: _Known | None = None
        self._bundle: TrustBundle | None = None
        self._own: tuple[ActiveSigner, ...] = ()
        self._requested = ""
        self._logged: Latest[str | None] = Latest(None)

    @property
    def waiting_for(self) -> str | None:
        """What this replica waits for before it can issue, as a sentence; None if it can."""
        try:
            self.active()
        except MeshwardError as error:
            return error.message
        return None

    def status(self) -> CaStatus:
        """Return the CA as an operator sees it. Raises UnavailableError before the first pass."""
        known, active = self._require(self._known), self._valid(self._own)
        return CaStatus(
            trust_domain=self._config.trust_domain,
            roots=known.roots,
            signers=known.signers,
            unapproved=known.unapproved,
            root_key_held=known.root.id in self._held,
            signer_id=active.signer.id if active else None,
            waiting_for=self.waiting_for,
            default_ttl=self._config.default_ttl,
            max_ttl=self._config.max_ttl,
        )

    def known(self) -> KnownAuthorities:
        """Return the authorities as of the last pass. Raises UnavailableError before the first one."""
        known = self._require(self._known)
        return KnownAuthorities(known.roots, known.signers)

    def bundle(self) -> TrustBundle:
        """Return the trust bundle. Raises UnavailableError before the first pass."""
        return self._require(self._bundle)

    def held(self) -> Sequence[ActiveSigner]:
        """Return the signing authorities whose keys are here and that are valid now."""
        now = self._clock.now()
        return [each for each in self._own if valid_at(each.signer, now)]

    def active(self) -> ActiveSigner:
        """Return the authority to sign with: of those that are valid now, the one that ends last.

        Raises UnavailableError while there is none, and PreconditionError if the root or every signing certificate is
        not valid at this time.
        """
        root, now = self._require(self._known).root, self._clock.now()
        active = self._valid(self._own)
        problem = validity_problem("root", root, now)
        if problem is None and active is not None:
            return active
        if problem is None and self._own:
            problem = validity_problem("signing", self._own[0].signer, now)
        if problem is not None:
            raise PreconditionError(problem)
        raise UnavailableError(
            f"the signing certificate waits for the replica that holds the key of root {root.id}: "
            f"start it, or put its file keys/{root.id}.pem into this data directory; if it has another secret, approve "
            f"there the signing request {self._requested}"
        )

    async def approve(self, caller: Principal, request_id: str) -> SigningRequest:
        """Make a signing request that waits for an operator authentic, and return it: the root's key signs it.

        Raises NotFoundError if none with this id waits, InvalidInputError if it is not for the key that it is named
        after.
        """
        now = self._clock.now()
        async with self._transactions() as repository:
            newest = self._require(self._known).root.id
            waiting = await repository.unapproved_requests(newest, MAX_REQUESTS_PER_PASS)
            request = next((each for each in waiting if each.id == request_id), None)
            if request is None:
                raise NotFoundError(f"no signing request {request_id} waits for approval")
            check_request(request)
            if not await repository.approve_signing_request(request):
                raise NotFoundError(f"the signing request {request_id} was answered or removed meanwhile")
            after = {"id": request.id, "root_id": request.root_id, "created_at": request.created_at.isoformat()}
            await repository.record(record_of(caller, now, "signing_request.approve", request_id, after=after))
        return request

    async def start(self) -> None:
        """Find or create the authorities. Then there is a bundle, and `waiting_for` is None if SVIDs can be issued.

        Raises PreconditionError if the database belongs to another trust domain, or a key cannot be kept or is not safe
        to use.
        """
        await self.maintain()

    async def restore(self, kept: KnownAuthorities) -> None:
        """Use authorities that were kept in a file, without the database, until the first pass.

        Raises PreconditionError if there is no root among them, they are of another trust domain, or a key is not safe
        to use.
        """
        if not kept.roots:
            raise PreconditionError("no root of the CA was kept: start with the database")
        await self._use(_Known(kept.roots, kept.signers, (), ()))

    async def maintain(self) -> None:
        """Make one pass: read what other replicas did, answer their requests, renew what is due.

        Outside the life of the root, as at a wrong clock, nothing is renewed.
        """
        now = self._clock.now()
        known = await self._read(now) or await self._create_root(now)
        check_trust_domain(known.roots, self._config.trust_domain)
        root_key = await self._key(known.root.id)
        if validity_problem("root", known.root, now) is None:
            known = await self._request_signer(known, now)
            if root_key is not None and known.requests:
                known = await self._answer_requests(known, root_key, now)
        await self._use(known)

    async def _use(self, known: _Known) -> None:
        check_trust_domain(known.roots, self._config.trust_domain)
        self._own = await self._own_signers(known)
        self._known = known
        await self._publish(known.roots)
        self._announce(known.root)

    async def _read(self, now: datetime) -> _Known | None:
        async with self._transactions() as repository:
            roots = await self._roots(repository)
            if not roots:
                return None
            newest = roots[-1].id
            # In this order, a request that is answered meanwhile is in one of them.
            requests = await repository.signing_requests(newest, MAX_REQUESTS_PER_PASS)
            unapproved = await repository.unapproved_requests(newest, MAX_REQUESTS_PER_PASS)
            signers = await repository.signers(newest, now)
            return _Known(tuple(roots), tuple(signers), tuple(requests), tuple(unapproved))

    async def _roots(self, repository: CaRepository) -> Sequence[Root]:
        """Return the roots, none if this is a new database.

        Raises PreconditionError if there was one: another would be no remedy, nobody who trusts the first accepts it.
        """
        if roots := await repository.roots():
            return roots
        stored = self._known is not None or await repository.has_roots()
        # Read again, as another replica may have stored the first one meanwhile.
        roots = await repository.roots()
        if stored and not roots:
            raise PreconditionError(ROOT_GONE)
        return roots

    async def _create_root(self, now: datetime) -> _Known:
        """Store a new root, unless another replica is first: its key is kept before its certificate is visible."""
        _, certificate = await self._new_key(lambda key: root_builder(self._config, key, new_serial(), now))
        root = root_of(certificate, self._config, now)
        try:
            async with self._transactions() as repository:
                await repository.add_root(root)
                await append(repository, [root_entry(root)])
            log.info("ca_root_created", root=root.id, trust_domain=str(root.trust_domain))
        except ConflictError:
            await self._keys.remove(root.id)
        known = await self._read(now)
        if known is None:
            raise InternalError("the root of the CA was stored and cannot be found")
        return known

    async def _request_signer(self, known: _Known, now: datetime) -> _Known:
        best = self._valid(await self._own_signers(known))
        if best is not None and not _is_due(best.signer, known.root, now):
            return known
        # One that an operator has approved at another replica is not authentic here, and still ours.
        for request in (*known.requests, *known.unapproved):
            if not is_stale(request, self._config, now) and await self._key(request.id) is not None:
                self._requested = request.id
                return known
        key, csr = await self._new_key(lambda _: authority_request())
        request = SigningRequest(authority_id(key.public_key), known.root.id, pem(csr), now)
        try:
            async with self._transactions() as repository:
                await repository.add_signing_request(request)
        except MeshwardError:
            # Every pass tries again with another key; without this a read-only database would fill the key store.
            await self._keys.remove(request.id)
            raise
        self._held[request.id] = key
        self._requested = request.id
        return _Known(known.roots, known.signers, (*known.requests, request), known.unapproved)

    async def _answer_requests(self, known: _Known, root_key: SigningKey, now: datetime) -> _Known:
        async with self._transactions() as repository:
            for request in known.requests:
                if is_stale(request, self._config, now):
                    # Kept, so that a replica whose clock is far behind waits, and does not make one after another.
                    self._metrics.refusals.record("database", "stale_signing_request", row=request.id)
                    continue
                try:
                    certificate = await root_key.sign(
                        signer_builder(request, known.root, self._config, new_serial(), now)
                    )
                    signer = signer_of(certificate, request, known.root)
                except InvalidInputError as error:
                    log.warning("ca_signing_request_refused", authority=request.id, reason=error.message)
                    await repository.remove_signing_request(request.id)
                    continue
                if await repository.answer_signing_request(signer):
                    await append(repository, [signer_entry(signer)])
                    log.info("ca_signer_signed", authority=signer.id, not_after=signer.not_after.isoformat())
        return await self._read(now) or known

    async def _new_key(self, builder: Callable[[AuthorityKey], Unsigned[Document]]) -> tuple[SigningKey, Document]:
        """Create a key and sign its first document; a key that cannot sign is removed again."""
        key = await self._keys.create(self._config.key_algorithm)
        try:
            return key, await key.sign(builder(key.public_key))
        except MeshwardError:
            await self._keys.remove(authority_id(key.public_key))
            raise

    async def _own_signers(self, known: _Known) -> tuple[ActiveSigner, ...]:
        """Return the authorities whose keys are here and whose certificates are good, the last to end first."""
        found: list[ActiveSigner] = []
        for signer in known.signers:
            key = await self._key(signer.id)
            if key is None:
                continue
            try:
                found.append(self._activated(signer, key, known.root))
            except InvalidInputError as error:
                self._metrics.refusals.record("database", "signer", row=signer.id, reason=error.message)
        return tuple(found)

    def _activated(self, signer: Signer, key: SigningKey, root: Root) -> ActiveSigner:
        """Return the authority with its certificate read and checked, or as it was in the last pass."""
        for before in self._own:
            if before.signer == signer:
                return before
        check_stored(signer, root)
        root_certificate, certificate = parse_certificate(root.certificate), parse_certificate(signer.certificate)
        return ActiveSigner(signer, certificate, key, root_certificate)

    def _valid(self, authorities: Sequence[ActiveSigner]) -> ActiveSigner | None:
        now = self._clock.now()
        return next((authority for authority in authorities if valid_at(authority.signer, now)), None)

    async def _key(self, authority: str) -> SigningKey | None:
        # A key that is missing now may be added later, so only a key that was found is cached.
        if authority not in self._held:
            key = await self._keys.load(authority)
            if key is None:
                return None
            self._held[authority] = key
        return self._held[authority]

    async def _publish(self, roots: Sequence[Root]) -> None:
        bundle = TrustBundle(
            self._config.trust_domain, tuple(root.certificate for root in roots), sequence=roots[-1].generation
        )
        if bundle != self._bundle:
            await self._publisher.publish(bundle)
            self._bundle = bundle
            self.changed.fire()

    def _announce(self, root: Root) -> None:
        """Set `ready`, metrics and the log after a pass."""
        self._metrics.authority_expiry.set((ROOT_TITLE,), root.not_after.timestamp())
        active = self._valid(self._own)
        if active is None:
            return
        self.ready.set()
        signer = active.signer
        self._metrics.authority_expiry.set((SIGNER_TITLE,), signer.not_after.timestamp())
        if self._logged.set(signer.id):
            log.info("ca_signer_active", authority=signer.id, not_after=signer.not_after.isoformat())

    def _require(self, value: Value | None) -> Value:
        if value is None:
            raise UnavailableError("the CA has not started")
        return value


def _is_due(signer: Signer, root: Root, now: datetime) -> bool:
    return signer_is_due(now, signer.not_before, signer.not_after, root.not_after)


def new_serial() -> int:
    """Return a random serial number of 128 bits, which is never zero (RFC 5280, section 4.1.2.2)."""
    return secrets.randbits(SERIAL_BITS) or 1
