"""Revocation lists: one of each signing authority, signed by the replica that has its key, served by every replica."""

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.model import Crl, CrlEntry
from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.bans import BanIndex
from app.ca.rules.crl import MAX_CRL_ENTRIES, check_crl, crl_builder, crl_is_due, entry_of
from app.ca.service.authorities import ActiveSigner, Authorities
from app.ca.service.bans import Bans
from app.core.clock import Clock
from app.core.errors import NotFoundError, ResourceExhaustedError

# Databases bound the conditions of one query.
SUBJECTS_PER_QUERY = 100

log = structlog.get_logger(__name__)


class RevocationLists:
    """Signs the lists of the authorities whose keys are here, and knows those of all.

    A list has the revoked certificates of its authority, and those of banned identities, until they end.
    """

    def __init__(self, transactions: CaTransactions, authorities: Authorities, bans: Bans, clock: Clock) -> None:
        self._transactions, self._authorities, self._bans, self._clock = transactions, authorities, bans, clock
        self._stored: dict[str, Crl] = {}
        # The subjects of the active bans by which the list of an authority was signed here.
        self._signed_by: dict[str, frozenset[str]] = {}

    def get(self, authority_id: str) -> Crl:
        """Return the list of a signing authority. Raises NotFoundError if there is none."""
        found = self._stored.get(authority_id)
        if found is None:
            raise NotFoundError("there is no revocation list of a signing authority with this id")
        return found

    async def maintain(self) -> None:
        """Make one pass: read what other replicas signed, sign what has changed or is due."""
        await self._read()
        active = frozenset(ban.id for ban in self._bans.known() if ban.active(self._clock.now()))
        for signer in self._authorities.held():
            if not signer.signs_crls:
                continue
            stored = self._stored.get(signer.signer.id)
            changed = self._signed_by.get(signer.signer.id) != active
            if changed or stored is None or crl_is_due(stored.this_update, self._clock.now()):
                await self._sign(signer)
                self._signed_by[signer.signer.id] = active

    async def _read(self) -> None:
        async with self._transactions() as repository:
            numbers = await repository.crl_numbers()
            changed = [each for each, number in numbers.items() if number != self._number(each)]
            read = await repository.crls(changed) if changed else ()
        self._stored = {each: crl for each, crl in self._stored.items() if each in numbers}
        self._stored.update({crl.id: crl for crl in read})

    def _number(self, authority_id: str) -> int | None:
        stored = self._stored.get(authority_id)
        return None if stored is None else stored.number

    async def _sign(self, signer: ActiveSigner) -> None:
        async with self._transactions() as repository:
            bans, now = await self._bans.held(repository), self._clock.now()
            entries = await self._entries(repository, signer.signer.id, bans)
            number = (await repository.crl_numbers()).get(signer.signer.id, 0) + 1
            signed: x509.CertificateRevocationList = await signer.key.sign(
                crl_builder(signer.certificate, number, entries, now)
            )
            check_crl(signed, signer.certificate)
            crl = Crl(signer.signer.id, number, signed.last_update_utc, signed.public_bytes(Encoding.DER))
            await repository.put_crl(crl)
        self._stored[crl.id] = crl
        log.info("crl_signed", authority=crl.id, number=number, entries=len(entries))

    async def _entries(self, repository: CaRepository, signer_id: str, bans: BanIndex) -> list[CrlEntry]:
        now, entries = self._clock.now(), dict[str, CrlEntry]()
        subjects = [ban.subject for ban in bans.by_subject.values() if ban.active(now)]
        for first in range(0, len(subjects), SUBJECTS_PER_QUERY):
            some = subjects[first : first + SUBJECTS_PER_QUERY]
            for svid in await repository.live_svids(signer_id, some, now, MAX_CRL_ENTRIES + 1):
                # The database may compare in its own way, without regard to case for one.
                if ban := bans.find(svid.spiffe_id.principal, svid.serial, now):
                    entries[svid.serial] = entry_of(svid, ban)
            if len(entries) > MAX_CRL_ENTRIES:
                raise ResourceExhaustedError(
                    f"more than {MAX_CRL_ENTRIES} certificates of the authority {signer_id} are banned: its revocation "
                    "list stays as it is"
                )
        return sorted(entries.values(), key=lambda entry: entry.serial)
