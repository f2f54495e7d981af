"""The authorities of the trust domain: roots for all replicas, and signing authorities for each data directory.

Certificates are shared through the database; private keys never leave the key store that created them. A replica
without a root's key requests its signing certificate through the database, and the replica that has the key answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

import structlog

from app.ca.model import AuthorityStage, CaConfig, KnownAuthorities, Root, Signer
from app.ca.ports import BundlePublisher, CaTransactions, KeyStore, PlugInSource, SigningKey, UpstreamCa
from app.ca.rules.authority import check_trust_domain, valid_at, validity_problem
from app.ca.rules.downstream import may_sign_authorities
from app.ca.rules.lifecycle import NO_ACTIVE_ROOT, Trust
from app.ca.rules.profile import ROOT_TITLE, SIGNER_TITLE
from app.ca.rules.rotation import signer_is_due
from app.ca.service.active_signer import ActiveSigner, read_signer, root_as_signer
from app.ca.service.authority_keys import AuthorityKeys
from app.ca.service.known import Known, read_known
from app.ca.service.plug_in import PlugIn
from app.ca.service.roots import ROOT_GONE, Roots
from app.ca.service.signing_requests import SigningRequests
from app.ca.service.upstream import Upstream
from app.ca.status import CaStatus
from app.core.clock import Clock
from app.core.errors import InternalError, InvalidInputError, MeshwardError, PreconditionError, UnavailableError
from app.core.signals import Latest, Signal
from app.spiffe.bundle import TrustBundle
from app.telemetry.metrics import Metrics

Value = TypeVar("Value")

NOT_OURS = "nothing here signs under the active root, which is from outside:"
AGAIN = "set ca.plugin_dir or upstream.server again, or prepare a root of our own and activate it"

log = structlog.get_logger(__name__)


class Authorities:
    """Creates and renews the authorities, and provides the one to sign with.

    `changed` fires when the trust bundle changes, or SVIDs are withdrawn; `ready` is set once there is an authority to
    sign with. `roots` changes the roots, `requests` are those of signing authorities.
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
        self._config, self._transactions = config, transactions
        self._publisher, self._clock, self._metrics = publisher, clock, metrics
        self._keys = AuthorityKeys(config, keys)
        self.roots = Roots(config, transactions, self._keys, clock, self.maintain)
        self.requests = SigningRequests(config, transactions, self._keys, clock, metrics)
        self._plug_in: PlugIn | None = None
        self._upstream: Upstream | None = None
        # Passes one after the other, so that what was read before a change never replaces what was read after it.
        self._passing = asyncio.Lock()
        self._known: Known | None = None
        self._bundle: TrustBundle | None = None
        self._own: tuple[ActiveSigner, ...] = ()
        self._withdrawn: frozenset[str] = frozenset()
        # Called with authorities before they are used: returns the ids of those that are held back.
        self.begin: Callable[[Sequence[ActiveSigner]], Awaitable[Collection[str]]] | None = None
        self._begun: set[str] = set()
        self._held_back: dict[str, float] = {}
        self._crls: Mapping[str, str] = {}
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
        """Return the state of the authorities. Raises UnavailableError before the first pass."""
        known, active = self._require(self._known), self._valid(self._own)
        root = known.trust.active
        return CaStatus(
            trust_domain=self._config.trust_domain,
            roots=known.trust.roots,
            signers=known.signers,
            stages=tuple(known.trust.stages.values()),
            unapproved=known.unapproved,
            root_id=root.id if root else None,
            root_key_held=root is not None and self._keys.holds(root.id),
            signer_id=active.signer.id if active else None,
            waiting_for=self.waiting_for,
            default_ttl=self._config.default_ttl,
            max_ttl=self._config.max_ttl,
            plug_in=None if self._plug_in is None else self._plug_in.status,
            upstream=None if self._upstream is None else self._upstream.status,
        )

    def trust(self) -> Trust:
        """Return the roots with their stages, as of the last pass. Raises UnavailableError before the first one."""
        return self._require(self._known).trust

    def known(self) -> KnownAuthorities:
        """Return the authorities as of the last pass. Raises UnavailableError before the first one."""
        return self._require(self._known).kept

    def stage(self, authority: Root | Signer) -> AuthorityStage | None:
        """Return the stage of an authority, None if it is not trusted."""
        return self._require(self._known).trust.stage_of(authority)

    def bundle(self) -> TrustBundle:
        """Return the trust bundle.

        Raises UnavailableError before the first pass, and PreconditionError if no root was trusted since the start.
        """
        if self._bundle is None and self._known is not None:
            raise PreconditionError(NO_ACTIVE_ROOT)
        return self._require(self._bundle)

    def held(self) -> Sequence[ActiveSigner]:
        """Return the signing authorities whose keys are here and that are valid now, tainted ones among them."""
        now = self._clock.now()
        return [each for each in self._own if valid_at(each.signer, now)]

    def distribute(self, crls: Mapping[str, str]) -> None:
        """Give revocation lists (PEM, by their authorities) out with the trust bundle, or none of them any more."""
        if crls == self._crls:
            return
        self._crls = crls
        if self._bundle is not None:
            self._bundle = replace(self._bundle, crls=tuple(crls.values()))
            self.changed.fire()
        log.info("crls_distributed", authorities=list(crls))

    def held_back(self) -> Mapping[str, float]:
        """Return since when (monotonic) authorities of this replica wait until everybody has their revocation lists."""
        return dict(self._held_back)

    def is_accepted(self, authority_id: str) -> bool:
        """Whether sidecars that have the trust bundle accept what an authority signs, by the lists that are in it."""
        return not self._crls or authority_id in self._crls

    def release(self, authority_id: str) -> None:
        """Sign with an authority that was held back."""
        del self._held_back[authority_id]
        if self._known is not None:
            self._announce(self._known)

    def is_withdrawn(self, chain: Sequence[str]) -> bool:
        """Whether the SVID with this chain (PEM, leaf first) is to be replaced, as its authority is tainted."""
        return not self._withdrawn.isdisjoint(chain)

    def active(self) -> ActiveSigner:
        """Return the authority to sign with: of those that are valid now, under the active root, the last to end.

        One of an old root signs until there is one of the active root. Raises UnavailableError while there is none, and
        PreconditionError if the root or every signing certificate is not valid at this time, or no root is active.
        """
        known, now = self._require(self._known), self._clock.now()
        root = known.trust.active
        if root is None:
            raise PreconditionError(NO_ACTIVE_ROOT)
        active = self._valid(self._own)
        if active is not None:
            return active
        problem = validity_problem("root", root, now)
        if problem is None and (own := self._signing(known.trust, self._own)):
            problem = validity_problem("signing", own[0].signer, now)
        if problem is not None:
            raise PreconditionError(problem)
        if self._held_back:
            waiting = ", ".join(self._held_back)
            raise UnavailableError(f"the signing authority {waiting} waits until sidecars have its revocation list")
        if self._plug_in is not None and root.origin is not None:
            raise UnavailableError(self._plug_in.waits(root))
        if self._upstream is not None and root.origin is not None:
            raise UnavailableError(self._upstream.waits(known.trust))
        if root.origin is not None:
            raise PreconditionError(f"{NOT_OURS} {root.id}: {AGAIN}")
        raise UnavailableError(
            f"the signing certificate waits for the replica that holds the key of root {root.id}: "
            f"start it, or put its file keys/{root.id}.pem into this data directory; if it has another secret, approve "
            f"there the signing request {self.requests.waiting(root.id)}; if the key is lost, prepare and activate "
            "another root"
        )

    async def issuer(self) -> ActiveSigner:
        """Return the authority that may sign other authorities: the active root, or the one that signs, if it may.

        Raises UnavailableError if neither can here, or as `active` does.
        """
        root, now = self._require(self._known).trust.active, self._clock.now()
        key = None if root is None else await self._keys.find(root.id)
        if root is not None and key is not None and validity_problem("root", root, now) is None:
            issuer = root_as_signer(root, key)
        else:
            issuer = self.active()
        if may_sign_authorities((*issuer.chain, issuer.root)):
            return issuer
        raise UnavailableError(
            "the signing certificate here allows no authority beneath it: ask the replica that holds the root's key "
            "(root_key_held in `meshward ca show`), or plug in a certificate with a longer path length"
        )

    async def start(self) -> None:
        """Find or create the authorities. Then there is a bundle, and `waiting_for` is None if SVIDs can be issued.

        Raises PreconditionError if the database belongs to another trust domain, or a key cannot be kept or is not safe
        to use.
        """
        await self.maintain()

    def use_plug_in(self, source: PlugInSource) -> None:
        """Have the authority in an operator's files sign. To be called before the first pass."""
        self._plug_in = PlugIn(self._config, source, self.roots, self._keys, self._clock, self._metrics)

    def use_upstream(self, source: UpstreamCa) -> None:
        """Have an upstream certify the signing authority of this replica. To be called before the first pass."""
        self._upstream = Upstream(self._config, source, self.roots, self._keys, self._clock, self._metrics)

    async def restore(self, kept: KnownAuthorities) -> None:
        """Use authorities that were kept in a file, without the database, until the first pass.

        Raises PreconditionError if there is no root among them, they are of another trust domain, or a key is not safe
        to use.
        """
        if not kept.roots:
            raise PreconditionError("no root of the CA was kept: start with the database")
        if self._plug_in is not None:
            await self._plug_in.restore(kept)
        self._begun.update(signer.id for signer in kept.signers)  # they have been used before
        await self._use(Known.of(kept))

    async def maintain(self) -> None:
        """Make one pass: read what other replicas did, answer their requests, renew what is due.

        Outside the life of a root, as at a wrong clock, nothing is renewed under it.
        """
        async with self._passing:
            now = self._clock.now()
            await self._maintain_external(now)
            known = await self._read(now)
            await self.roots.settle(known.trust.roots if known else ())
            if known is None and (external := self._plug_in or self._upstream) is not None:
                raise PreconditionError(external.refusal)
            if known is None:
                await self.roots.create_first(now)
                known = await self._read(now)
                if known is None:
                    raise InternalError("the root of the CA was stored and cannot be found")
            check_trust_domain(known.trust.roots, self._config.trust_domain)
            for root in known.trust.targets:
                await self._keys.find(root.id)
            known = await self.requests.make(known, await self._lacking(known, now), now)
            if await self.requests.answer(known, now):
                known = await self._read(now) or known
            await self._use(known)

    async def _maintain_external(self, now: datetime) -> None:
        if self._plug_in is not None:
            await self._plug_in.maintain()
        if self._upstream is not None:
            known = await self._read(now)
            own = () if known is None else await self._own_signers(known)
            await self._upstream.maintain(own, Trust((), {}) if known is None else known.trust)

    async def _use(self, known: Known) -> None:
        check_trust_domain(known.trust.roots, self._config.trust_domain)
        own = await self._own_signers(known)
        await self._begin(own)
        self._own, self._known = own, known
        await self._publish(known)
        self._announce(known)

    async def _begin(self, own: Sequence[ActiveSigner]) -> None:
        """Have the first revocation lists of authorities signed, and hold back those that wait."""
        new = [each for each in own if each.signer.id not in self._begun]
        if not new or self.begin is None:
            return
        for authority_id in await self.begin(new):
            self._held_back[authority_id] = self._clock.monotonic()
        self._begun.update(each.signer.id for each in new)

    async def _read(self, now: datetime) -> Known | None:
        """Return the authorities, None if this is a new database.

        Raises PreconditionError if there was a root: another would be no remedy, nobody who trusts the first accepts
        it.
        """
        async with self._transactions() as repository:
            if known := await read_known(repository, now):
                return known
            stored = self._known is not None or await repository.has_roots()
            # Read again, as another replica may have stored the first one meanwhile.
            known = await read_known(repository, now)
            if stored and known is None:
                raise PreconditionError(ROOT_GONE)
            return known

    async def _lacking(self, known: Known, now: datetime) -> list[Root]:
        """Return the roots under which this replica needs a signing authority, or the next one."""
        own = await self._own_signers(known)
        lacking = []
        for root in known.trust.targets:
            if root.origin is not None:
                continue
            usable = (each.signer for each in own if self._usable(known, each))
            best = next((signer for signer in usable if signer.root_id == root.id), None)
            if best is None or signer_is_due(now, best.not_before, best.not_after, root.not_after):
                lacking.append(root)
        return lacking

    def _usable(self, known: Known, own: ActiveSigner) -> bool:
        return not known.trust.is_withdrawn(own.signer) and valid_at(own.signer, self._clock.now())

    async def _own_signers(self, known: Known) -> tuple[ActiveSigner, ...]:
        """Return the authorities whose keys are here and whose certificates are good, the last to end first."""
        found: list[ActiveSigner] = []
        roots = {root.id: root for root in known.trust.trusted}
        for signer in known.signers:
            root, key = roots.get(signer.root_id), await self._keys.find(signer.id)
            if root is None or key is None:
                continue
            try:
                found.append(self._activated(signer, key, root))
            except InvalidInputError as error:
                self._metrics.refusals.record("database", "signer", row=signer.id, reason=error.message)
        return tuple(found)

    def _activated(self, signer: Signer, key: SigningKey, root: Root) -> ActiveSigner:
        """Return the authority with its certificate read and checked, or as it was in the last pass."""
        before = (each for each in self._own if each.signer == signer)
        return next(before, None) or read_signer(signer, key, root)

    def _signing(self, trust: Trust, own: Sequence[ActiveSigner]) -> list[ActiveSigner]:
        """Return those that may sign, those of the active root first, and of these the one that is plugged in."""
        may_sign = [each for each in own if trust.may_sign(each.signer) and each.signer.id not in self._held_back]
        active = None if trust.active is None else trust.active.id
        plugged = None if self._plug_in is None else self._plug_in.signer_id
        return sorted(may_sign, key=lambda each: (each.signer.root_id != active, each.signer.id != plugged))

    def _valid(self, own: Sequence[ActiveSigner]) -> ActiveSigner | None:
        if self._known is None:
            return None
        now, trust = self._clock.now(), self._known.trust
        valid = {root.id for root in trust.roots if valid_at(root, now)}
        signing = (each for each in self._signing(trust, own) if each.signer.root_id in valid)
        return next((each for each in signing if valid_at(each.signer, now)), None)

    async def _publish(self, known: Known) -> None:
        roots = tuple(root.certificate for root in known.trust.trusted)
        if not roots:  # Envoy verifies nobody by a bundle without roots, so that the one of before stays
            return
        withdrawn = [each for each in known.signers if known.trust.is_withdrawn(each)]
        ids = tuple(sorted(each.id for each in withdrawn))
        crls = tuple(self._crls.values())
        bundle = TrustBundle(self._config.trust_domain, roots, known.trust.sequence, ids, crls)
        if bundle != self._bundle:
            await self._publisher.publish(bundle)
            self._bundle = bundle
            self._withdrawn = self._withdrawn.union(each.certificate for each in withdrawn)
            self.changed.fire()

    def _announce(self, known: Known) -> None:
        """Set `ready`, metrics and the log after a pass."""
        if known.trust.active is not None:
            self._metrics.authority_expiry.set((ROOT_TITLE,), known.trust.active.not_after.timestamp())
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
