"""Rolling out a root: prepared by the schedule, and active once everybody has the trust bundle with it."""

from dataclasses import replace
from datetime import timedelta

import structlog

from app.ca.model import Acknowledgements, CaConfig, Root, Stage
from app.ca.ports import CaTransactions
from app.ca.rules.lifecycle import Trust
from app.ca.rules.rollout import Due, acknowledgements, due, is_acknowledged, is_activated, is_refused
from app.ca.service.authorities import Authorities
from app.ca.service.replicas import Replicas
from app.ca.service.roots import Roots
from app.core.clock import Clock
from app.core.errors import NotFoundError, PreconditionError
from app.core.signals import Latest
from app.spiffe.principal import Credential, Principal

# How long after a root was stored certificates may have been issued with a bundle that does not have it yet.
SPREADING = timedelta(seconds=5)
# After so long other replicas have reported which revocation lists their sidecars get.
SETTLING_SECONDS = 3.0
# A signing authority waits no longer until sidecars have its revocation list: a stream that has ended is waited for as
# long, and a sidecar that answers nothing for a minute must not keep a replica from issuing.
MAX_WAIT_SECONDS = 60.0
# Identities that are counted at most.
MAX_IDENTITIES = 10_000

log = structlog.get_logger(__name__)


class Rollout:
    """Watches the root that is to be active next. `maintain` is to be called about once a second."""

    def __init__(
        self, config: CaConfig, transactions: CaTransactions, authorities: Authorities, replicas: Replicas, clock: Clock
    ) -> None:
        self._rotation, self._transactions, self._clock = config.rotation, transactions, clock
        self._authorities, self._replicas = authorities, replicas
        self._schedule = Principal(Credential.INTERNAL, config.trust_domain.server_id)
        self._waiting: Latest[tuple[int, int, tuple[str, ...]] | None] = Latest(None)
        self._problem = Latest("")

    @property
    def problem(self) -> str:
        """Why the schedule cannot be followed, such as a key store that makes no key; "" if it can."""
        return self._problem.value

    @property
    def _roots(self) -> Roots:
        return self._authorities.roots

    async def maintain(self) -> None:
        """Make one pass: report this replica's streams, do what the schedule asks for, activate who is ready."""
        trust = self._authorities.trust()
        signers = [each.signer for each in self._authorities.held()]
        bundle = self._authorities.bundle()
        await self._replicas.report(
            bundle.version, signers, identities=trust.prepared is not None, exact=bool(bundle.crls)
        )
        await self._release()
        before, problem = self._problem.value, ""
        try:
            await self._advance(trust)
        except PreconditionError as error:
            await self._authorities.maintain()
            if self._authorities.trust().sequence == trust.sequence:  # else another replica was first
                problem = error.message
        if self._problem.set(problem) and problem:
            log.error("ca_rotation_failed", reason=problem)
        elif before and not problem:
            log.info("ca_rotation_recovered")

    async def acknowledgements(self, root_id: str) -> Acknowledgements:
        """Return who has accepted the trust bundle with the root that is to be active next, and who has not.

        Raises NotFoundError if that is another root.
        """
        root = self._authorities.trust().prepared
        if root is None or root.id != root_id:
            raise NotFoundError(f"the root {root_id} is not to be activated")
        return await self._acknowledgements(root)

    async def _release(self) -> None:
        """Let signing authorities sign whose revocation lists everybody has, and those that have waited too long."""
        now, waiting = self._clock.monotonic(), self._authorities.held_back()
        if not waiting:
            return
        async with self._transactions() as repository:
            reports = await self._replicas.present(repository)
        acknowledged = is_acknowledged(self._authorities.bundle().version, reports)
        for authority, since in waiting.items():
            accepted = acknowledged and self._authorities.is_accepted(authority)
            if accepted and now >= since + SETTLING_SECONDS:
                self._authorities.release(authority)
            elif now >= since + MAX_WAIT_SECONDS:
                log.warning("ca_signer_not_acknowledged", authority=authority)
                self._authorities.release(authority)

    async def _advance(self, trust: Trust) -> None:
        """Do what the schedule asks for, and activate the root that everybody waits for no longer."""
        match due(trust, self._rotation, self._clock.now()):
            case Due.PREPARE:
                await self._roots.prepare(self._schedule)
            case Due.ACTIVATE if trust.prepared is not None:
                await self._roots.activate(self._schedule, trust.prepared.id)
        if trust.prepared is not None and trust.stage(trust.prepared.id) is Stage.ACTIVATING:
            await self._settle(trust.prepared)

    async def _settle(self, root: Root) -> None:
        found, stage = await self._acknowledgements(root), self._authorities.trust().stages[root.id]
        if self._waiting.set((found.behind_count, found.identities_count, found.replicas)) and not found.complete:
            log.info(
                "ca_root_waits",
                root=root.id,
                streams=found.behind_count,
                identities=found.identities_count,
                replicas=list(found.replicas),
            )
        now = self._clock.now()
        if is_activated(found, stage.since, self._rotation, now):
            await self._roots.complete(self._schedule, root.id)
        elif is_refused(found, stage.since, self._rotation, now):
            log.warning("ca_root_not_activated", root=root.id, streams=found.behind_count)
            await self._roots.hold_back(self._schedule, root.id)

    async def _acknowledgements(self, root: Root) -> Acknowledgements:
        bundle, signers, now = self._authorities.bundle(), self._authorities.known().signers, self._clock.now()
        async with self._transactions() as repository:
            reports = await self._replicas.present(repository)
            unrenewed = await repository.unrenewed(root.created_at + SPREADING, now, MAX_IDENTITIES)
        found = acknowledgements(root, bundle.version, reports, signers, unrenewed)
        if any(each.id == self._replicas.id for each in reports):
            return found
        # Reports that were removed say nothing of the streams: the next one of this replica is waited for.
        return replace(found, replicas=tuple(sorted({*found.replicas, self._replicas.id})))
