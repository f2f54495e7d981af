"""The roots of the trust domain: the first one, and their changes from prepared to revoked."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import structlog

from app.audit.model import record_of, state_of
from app.ca.model import AuthorityStage, CaConfig, Origin, Root, Stage
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.authority import chain_includes, root_builder, root_of
from app.ca.rules.bans import BanIndex
from app.ca.rules.external import ExternalAuthority
from app.ca.rules.lifecycle import (
    Trust,
    activated,
    activating,
    adopted,
    check_prepare,
    completed,
    followed,
    held_back,
    prepared,
    revoked,
    tainted,
)
from app.ca.rules.log import check_head, root_entry, signer_entry, stage_entry
from app.ca.service.authority_keys import AuthorityKeys
from app.ca.service.known import read_known, read_trust
from app.ca.service.leaves import append
from app.ca.service.signing_requests import new_serial
from app.core.clock import Clock
from app.core.errors import ConflictError, InvalidInputError, NotFoundError, PreconditionError, UnavailableError
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate

ROOT_GONE = (
    "the root of the CA is not in the database, or was not written with the secret of this data directory: restore the "
    "database, or put the keys/replica.secret of the other replicas into this data directory"
)

# How many identities are looked at before a root is revoked: any of them is a reason not to.
MAX_IDENTITIES = 1000
# How many are named in a refusal.
SHOWN_IDENTITIES = 5

Rule = Callable[[Trust, str, datetime], Sequence[AuthorityStage]]
"""What becomes of the stages by a change of the root with an id."""

log = structlog.get_logger(__name__)


class Roots:
    """Creates roots, and changes the stages of authorities. Each change is audited and in the transparency log.

    `refresh` makes a change known at this replica; others read it with their next pass.
    """

    def __init__(
        self,
        config: CaConfig,
        transactions: CaTransactions,
        keys: AuthorityKeys,
        clock: Clock,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._config, self._transactions, self._keys, self._clock = config, transactions, keys, clock
        self._refresh = refresh
        # Roots whose storing ended without an answer of the database: whether they are stored is found out later.
        self._unanswered: set[str] = set()

    async def create_first(self, now: datetime) -> None:
        """Store the first root, unless another replica does: its key is kept before its certificate is visible."""
        root = await self._new(1, now)
        stage = AuthorityStage(root.id, Stage.ACTIVE, 1, now)
        try:
            async with self._key_removed_unless_stored(root), self._transactions() as repository:
                await self._add(repository, root)
                await repository.put_stage(stage)
            log.info("ca_root_created", root=root.id, trust_domain=str(root.trust_domain))
        except ConflictError:
            return

    async def prepare(self, caller: Principal) -> Root:
        """Create a root with a new key that is trusted and does not sign yet, and return it.

        Raises PreconditionError if one is prepared already.
        """
        now = self._clock.now()
        async with self._transactions() as repository:
            trust = await read_trust(repository)
        check_prepare(trust)
        root = await self._new(trust.roots[-1].generation + 1 if trust.roots else 1, now)
        async with self._key_removed_unless_stored(root), self._transactions() as repository:
            await repository.hold_authorities()
            trust = await read_trust(repository)
            change = prepared(trust, root.id, now)
            await self._add(repository, root)
            await self._store(repository, caller, "authority.prepare", trust, change)
        log.info("ca_root_created", root=root.id, trust_domain=str(root.trust_domain))
        await self._refresh()
        return root

    async def settle(self, stored: Sequence[Root]) -> None:
        """Remove the keys of roots that were to be stored and are not, as the database now says."""
        ids = {root.id for root in stored}
        while self._unanswered:
            root_id = self._unanswered.pop()
            if root_id not in ids:
                await self._keys.remove(root_id)

    async def adopt(self, authority: ExternalAuthority) -> None:
        """Trust the roots of an authority from outside, and have it sign as `lifecycle.adopted` says.

        A certificate that was issued again for a known key replaces the one before. Raises PreconditionError if the
        authority may not sign.
        """
        caller = Principal(Credential.INTERNAL, self._config.trust_domain.server_id)
        async with self._transactions() as repository:
            await repository.hold_authorities()
            stored, now = await read_trust(repository), self._clock.now()
            before = await repository.signer(authority.signer.id)
            new = before is None or before.not_before < authority.signer.not_before
            trust, added = _with(stored, authority.roots)
            others = [root.id for root in authority.others]
            changes = adopted(trust, authority.anchor.id, others, now, changed=new)
            for root in added:
                await self._add(repository, root)
                log.info("ca_root_adopted", root=root.id)
            await _renew(repository, {root.id: root for root in stored.roots}, authority.roots)
            if changes:
                await self._store(repository, caller, "authority.adopt", trust, changes)
            if new:
                await repository.put_signer(authority.signer, now)
                await append(repository, [signer_entry(authority.signer)])

    async def follow(self, origin: Origin, roots: Sequence[Root], withdrawn: Collection[str]) -> bool:
        """Trust the roots that an origin trusts, and no others of it; taint signing authorities that it withdrew.

        One beneath a signing authority that it withdrew is tainted too.
        Returns whether anything was changed, as it is in steps: a root is tainted before it is revoked. Raises
        UnavailableError if the log cannot be verified without a root that leaves yet.
        """
        caller = Principal(Credential.INTERNAL, self._config.trust_domain.server_id)
        async with self._transactions() as repository:
            await repository.hold_authorities()
            now = self._clock.now()
            known = await read_known(repository, now)
            stored = Trust((), {}) if known is None else known.trust
            trust, added = _with(stored, roots)
            for root in added:
                await self._add(repository, root)
                log.info("ca_root_adopted", root=root.id)
            await _renew(repository, {root.id: root for root in stored.roots}, roots)
            changes = list(followed(trust, origin, {root.id for root in roots}, now))
            signers = () if known is None else known.signers
            for signer in signers:
                if trust.stage(signer.id) is None and chain_includes(signer, withdrawn):
                    changes += tainted(trust, signer.id, now, signers)
            leaving = {each.id for each in changes if each.stage is Stage.REVOKED}
            if leaving:
                await _check_log(repository, [root for root in trust.trusted if root.id not in leaving])
            for change in changes:
                await self._store(repository, caller, "authority.follow", trust, (change,))
            return bool(changes)

    async def activate(self, caller: Principal, root_id: str, *, force: bool = False) -> None:
        """Have the prepared root sign once everybody has accepted the trust bundle, or an old one again, at once.

        With `force` nobody is waited for. The active root becomes old. Raises NotFoundError, or PreconditionError with
        the reason.
        """
        rule = activated if force else activating
        await self._change(caller, "authority.activate", root_id, rule)

    async def complete(self, caller: Principal, root_id: str) -> None:
        """Make the root that is activating the active one. Raises PreconditionError if it is not activating."""
        await self._change(caller, "authority.activate", root_id, completed)

    async def hold_back(self, caller: Principal, root_id: str) -> None:
        """Make the root that is activating a prepared one again. Raises PreconditionError if it is not activating."""
        await self._change(caller, "authority.hold_back", root_id, held_back)

    async def taint(self, caller: Principal, authority_id: str) -> None:
        """Have all that an authority signed be replaced: an old root, or a signing authority, which stops signing.

        Raises NotFoundError, or PreconditionError with the reason.
        """
        async with self._transactions() as repository:
            now = self._clock.now()
            await repository.hold_authorities()
            known = await read_known(repository, now)
            if known is None:
                raise NotFoundError(f"there is no authority {authority_id}")
            change = tainted(known.trust, authority_id, now, known.signers)
            await self._store(repository, caller, "authority.taint", known.trust, change)
        await self._refresh()

    async def revoke(self, caller: Principal, root_id: str, *, force: bool = False) -> None:
        """Take a root out of the trust bundle, for good.

        Unless it is a matter of `force`, it is refused while identities that are not banned have no other certificate
        than of this root. Raises NotFoundError, or PreconditionError with the reason.
        """
        async with self._transactions() as repository:
            await repository.hold_authorities()
            trust, now = await read_trust(repository), self._clock.now()
            change = revoked(trust, root_id, now)
            if not force:
                await _check_renewed(repository, root_id, now)
            await _check_log(repository, [root for root in trust.trusted if root.id != root_id])
            await self._store(repository, caller, "authority.revoke", trust, change)
        await self._refresh()

    async def _change(self, caller: Principal, action: str, root_id: str, rule: Rule) -> None:
        async with self._transactions() as repository:
            await repository.hold_authorities()
            trust, now = await read_trust(repository), self._clock.now()
            await self._store(repository, caller, action, trust, rule(trust, root_id, now))
        await self._refresh()

    async def _new(self, generation: int, now: datetime) -> Root:
        _, certificate = await self._keys.create(lambda key: root_builder(self._config, key, new_serial(), now))
        return root_of(certificate, self._config.trust_domain, generation, now)

    @asynccontextmanager
    async def _key_removed_unless_stored(self, root: Root) -> AsyncIterator[None]:
        """Remove the key of a new root if the block, which stores the root, fails: at once, or by `settle`."""
        try:
            yield
        except (ConflictError, PreconditionError):
            await self._keys.remove(root.id)
            raise
        except BaseException:  # the commit may have been made, and then the key is needed
            self._unanswered.add(root.id)
            raise

    async def _add(self, repository: CaRepository, root: Root) -> None:
        await repository.add_root(root)
        await append(repository, [root_entry(root)])

    async def _store(
        self,
        repository: CaRepository,
        caller: Principal,
        action: str,
        trust: Trust,
        changes: Sequence[AuthorityStage],
    ) -> None:
        """Store changes, with their audit records and entries of the log; the last one is what the caller asked for."""
        stored = {each.id for each in await repository.stages()}
        for each in trust.stages.values():  # that of a database without stages, which the first change writes down
            if each.id not in stored:
                await repository.put_stage(each)
        for change in changes:
            await repository.put_stage(change)
            log.warning("ca_authority_changed", authority=change.id, stage=change.stage.value)
        asked, before = changes[-1], trust.stages.get(changes[-1].id)
        record = record_of(
            caller,
            asked.since,
            action,
            asked.id,
            before=None if before is None else state_of(before),
            after=state_of(asked),
        )
        await repository.record(record)
        await append(repository, [stage_entry(change) for change in changes])


def _with(trust: Trust, roots: Sequence[Root]) -> tuple[Trust, Sequence[Root]]:
    """Return the trust with roots from outside that are not known yet, and these, with their generations."""
    known = {root.id for root in trust.roots}
    generation = max((root.generation for root in trust.roots), default=0)
    new = (root for root in roots if root.id not in known)
    added = [replace(root, generation=generation + place) for place, root in enumerate(new, 1)]
    return Trust((*trust.roots, *added), trust.stages), added


async def _renew(repository: CaRepository, known: Mapping[str, Root], roots: Sequence[Root]) -> None:
    """Store the certificates of known roots that were issued again, for the same key and name."""
    for root in roots:
        before = known.get(root.id)
        if before is None or root.not_before <= before.not_before:
            continue
        if parse_certificate(root.certificate).subject != parse_certificate(before.certificate).subject:
            raise PreconditionError(f"the root {root.id} was issued again under another name: give it another key")
        renewed = replace(root, generation=before.generation, created_at=before.created_at, origin=before.origin)
        await repository.replace_root(renewed)
        await append(repository, [root_entry(root)])


async def _check_renewed(repository: CaRepository, root_id: str, now: datetime) -> None:
    """Check that what a root has signed was replaced. Raises PreconditionError with those that have nothing else."""
    bans = BanIndex.of(await repository.bans())
    found = await repository.identities_under(root_id, now, MAX_IDENTITIES)
    left = [str(each) for each in found if bans.find(each.principal, "", now) is None]
    if left:
        some = ", ".join(sorted(left)[:SHOWN_IDENTITIES])
        raise PreconditionError(
            f"{len(left)} identities have no certificate but of the root {root_id}: {some}; wait until they have "
            "renewed it, or revoke it by force"
        )


async def _check_log(repository: CaRepository, remaining: Sequence[Root]) -> None:
    """Check that the newest tree head can be verified without the root that leaves. Raises UnavailableError."""
    head = await repository.newest_head()
    if head is None:
        return
    try:
        check_head(head, [parse_certificate(root.certificate) for root in remaining])
    except InvalidInputError as error:
        raise UnavailableError(
            "the newest tree head of the transparency log was signed under this root: retry in a second"
        ) from error
