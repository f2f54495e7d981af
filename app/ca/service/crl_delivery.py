"""Which revocation lists go to sidecars with the trust bundle, and what keeps them from going there."""

from collections.abc import Collection, Mapping

import structlog

from app.ca.model import Root, Signer
from app.ca.ports import CaTransactions
from app.ca.rules.authority import check_stored
from app.ca.rules.crl import Crl, ReadCrl, delivery_problem, lists_to_send, read_lasting
from app.ca.service.authorities import Authorities
from app.ca.service.crls import RevocationLists
from app.ca.service.replicas import Replicas
from app.core.clock import Clock
from app.core.errors import InvalidInputError
from app.core.signals import Latest
from app.spiffe.x509_svid import parse_certificate
from app.telemetry.metrics import Metrics

# How often it is looked whether an authority without a list has signed anything that is in use, and whether a list
# lacks certificates because nobody can sign it.
LOOK_SECONDS = 5.0

log = structlog.get_logger(__name__)


class CrlDelivery:
    """Gives the revocation lists of all authorities to sidecars while anything is revoked.

    Nothing is given while a root from outside is trusted, unless with `only_issuer` nobody else issues under it.
    """

    def __init__(
        self,
        transactions: CaTransactions,
        authorities: Authorities,
        crls: RevocationLists,
        replicas: Replicas,
        clock: Clock,
        metrics: Metrics,
        *,
        only_issuer: bool,
    ) -> None:
        self._only_issuer = only_issuer
        self._transactions, self._authorities, self._crls = transactions, authorities, crls
        self._replicas, self._clock, self._metrics = replicas, clock, metrics
        self._looked_for: set[str] = set()
        self._signed: dict[str, tuple[Signer, bool]] = {}
        self._read: dict[str, tuple[Crl, Signer, ReadCrl | None]] = {}
        # Of each authority without a list, whether it has signed what is in use; when that was looked at.
        self._in_use: dict[str, tuple[bool, float]] = {}
        self._unlisted: Mapping[str, int] = {}
        self._looked_at = -LOOK_SECONDS
        self._problems: Latest[tuple[str, ...]] = Latest(())

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps revoked certificates from being refused by sidecars, and what to do about it, a sentence each."""
        return self._problems.value

    async def maintain(self) -> None:
        """Make one pass: give to sidecars what is signed now."""
        await self._know_authorities()
        signers = self._signers()
        lists = {each.id: read for each in signers if (read := self._list_of(each)) is not None}
        self._in_use = {each: looked for each, looked in self._in_use.items() if each not in lists}
        missing = [each.id for each in signers if each.id not in lists and await self._is_in_use(each.id)]
        problem = delivery_problem(lists, missing, self._from_outside(), await self._of_others())
        sent = lists_to_send(lists) if problem is None else {}
        self._authorities.distribute(sent)
        await self._look_for_unlisted(signers)
        self._metrics.crl_entries.set((), sum(len(lists[each].serials) for each in sent))
        self._metrics.crl_missing.set((), len(missing))
        self._metrics.crl_unlisted.set((), sum(self._unlisted.values()))
        if not self._crls.is_anything_banned:
            problem = None if not missing else problem
        self._report(self._problems_of(problem))

    async def _know_authorities(self) -> None:
        """Have the authorities read again if there is a list of one that was made since."""
        unknown = self._crls.stored.keys() - self._known_ids() - self._looked_for
        if unknown:
            await self._authorities.maintain()
            self._looked_for |= unknown - self._known_ids()

    def _known_ids(self) -> set[str]:
        return {signer.id for signer in self._authorities.known().signers}

    def _signers(self) -> list[Signer]:
        """Return the authorities that sidecars accept: under a trusted root, signed by it, and not ended."""
        known, trust, now = self._authorities.known(), self._authorities.trust(), self._clock.now()
        roots = {root.id: root for root in trust.trusted}
        return [
            signer
            for signer in known.signers
            if signer.root_id in roots and now < signer.not_after and self._is_signed(signer, roots[signer.root_id])
        ]

    def _is_signed(self, signer: Signer, root: Root) -> bool:
        """Whether the root has signed an authority, as it was found when the authority was seen first."""
        before = self._signed.get(signer.id)
        if before is None or before[0] != signer:
            try:
                check_stored(signer, root)
                before = (signer, True)
            except InvalidInputError:
                before = (signer, False)
            self._signed[signer.id] = before
        return before[1]

    def _list_of(self, signer: Signer) -> ReadCrl | None:
        """Return the list of an authority as it was read when it was stored, None if there is none that can be sent."""
        stored = self._crls.stored.get(signer.id)
        if stored is None:
            return None
        before = self._read.get(signer.id)
        if before is not None and before[:2] == (stored, signer):
            return before[2]
        try:
            read = read_lasting(stored, parse_certificate(signer.certificate))
        except InvalidInputError as error:
            self._metrics.refusals.record("database", "crl", row=signer.id, reason=error.message)
            read = None
        self._read[signer.id] = (stored, signer, read)
        return read

    async def _is_in_use(self, signer_id: str) -> bool:
        now = self._clock.monotonic()
        found, at = self._in_use.get(signer_id, (False, -LOOK_SECONDS))
        if now >= at + LOOK_SECONDS:
            async with self._transactions() as repository:
                found = await repository.has_live_svids(signer_id, self._clock.now())
            self._in_use[signer_id] = (found, now)
        return found

    async def _look_for_unlisted(self, signers: Collection[Signer]) -> None:
        """Find certificates that should be on lists whose authorities' keys no replica that is there has."""
        now = self._clock.monotonic()
        if now < self._looked_at + LOOK_SECONDS:
            return
        self._looked_at = now
        async with self._transactions() as repository:
            reports = await self._replicas.present(repository)
        held = {each.signer.id for each in self._authorities.held()}.union(*(each.signers for each in reports))
        self._unlisted = await self._crls.unlisted([each.id for each in signers if each.id not in held])

    def _from_outside(self) -> list[str]:
        """Return the trusted roots that are not our own, unless nobody but this CA issues under them."""
        if self._only_issuer:
            return []
        return [root.id for root in self._authorities.trust().trusted if root.origin is not None]

    async def _of_others(self) -> list[str]:
        """Return the trusted roots of our own under which a control plane beneath this one issues."""
        async with self._transactions() as repository:
            found = await repository.roots_above_others(self._clock.now())
        return sorted(root.id for root in self._authorities.trust().trusted if root.origin is None and root.id in found)

    def _problems_of(self, problem: str | None) -> tuple[str, ...]:
        problems = [] if problem is None else [problem]
        problems += [
            f"{number} banned certificates are on no revocation list, since no running replica has the key of the "
            f"signing authority {signer_id}: start that replica; if the key is lost, sidecars accept new connections "
            "with them until they end, or their root is revoked"
            for signer_id, number in self._unlisted.items()
        ]
        return tuple(problems)

    def _report(self, problems: tuple[str, ...]) -> None:
        before = self._problems.value
        if not self._problems.set(problems):
            return
        for problem in problems:
            if problem not in before:
                log.error("crl_not_delivered", reason=problem)
        if not problems:
            log.info("crl_delivered")
