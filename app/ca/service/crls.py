"""Revocation lists: one of each signing authority, signed by the replica that has its key, served by every replica."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.ports import CaRepository, CaTransactions
from app.ca.rules.bans import BanIndex
from app.ca.rules.crl import (
    MAX_CRL_ENTRIES,
    Crl,
    CrlEntry,
    ReadCrl,
    check_crl,
    crl_builder,
    crl_end,
    crl_is_due,
    entry_of,
    read_lasting,
    serials_on,
)
from app.ca.service.active_signer import ActiveSigner
from app.ca.service.authorities import Authorities
from app.ca.service.bans import Bans
from app.core.clock import Clock
from app.core.errors import ConflictError, InvalidInputError, NotFoundError, ResourceExhaustedError

# Databases bound the conditions of one query.
SUBJECTS_PER_QUERY = 100
# Of replicas that sign the list of one authority at once, one is first; more than so many at once are not expected.
MAX_ATTEMPTS = 10

log = structlog.get_logger(__name__)


class RevocationLists:
    """Signs the lists of the authorities whose keys are here, and knows those of all.

    A list has the revoked certificates of its authority, and those of banned identities, until they end.
    """

    def __init__(self, transactions: CaTransactions, authorities: Authorities, bans: Bans, clock: Clock) -> None:
        self._transactions, self._authorities, self._bans, self._clock = transactions, authorities, bans, clock
        # One pass at a time: a list is signed once.
        self._passing = asyncio.Lock()
        self._stored: dict[str, Crl] = {}
        # Of a list that was signed here, the active bans and the authority's certificate of then, and when the last
        # certificate on it ends.
        self._signed_by: dict[str, frozenset[str]] = {}
        self._signed_with: dict[str, str] = {}
        self._ends: dict[str, datetime] = {}

    @property
    def stored(self) -> Mapping[str, Crl]:
        """The lists by the ids of their authorities, as of the last pass."""
        return self._stored

    @property
    def is_anything_banned(self) -> bool:
        """Whether an identity or a certificate is banned. Raises UnavailableError before bans were read."""
        return any(ban.active(self._clock.now()) for ban in self._bans.known())

    def get(self, authority_id: str) -> Crl:
        """Return the list of a signing authority. Raises NotFoundError if there is none."""
        found = self._stored.get(authority_id)
        if found is None:
            raise NotFoundError("there is no revocation list of a signing authority with this id")
        return found

    async def maintain(self) -> None:
        """Make one pass: read what other replicas signed, sign what has changed or is due."""
        async with self._passing:
            await self._read()
            active = frozenset(ban.id for ban in self._bans.known() if ban.active(self._clock.now()))
            for signer in self._authorities.held():
                if signer.signs_crls and (self._signed_by.get(signer.signer.id) != active or self._is_due(signer)):
                    await self._sign(signer)
                    self._signed_by[signer.signer.id] = active

    async def begin(self, signers: Sequence[ActiveSigner]) -> Collection[str]:
        """Sign the first lists of those authorities that have none; return the ids of those that may not sign yet.

        These have signed nothing before, and lists without theirs may be in use. That is not so while nothing is
        revoked: a ban that is made from then on finds theirs stored.
        """
        async with self._passing:
            await self._read()
            without = [each for each in signers if self._lasting_of(each) is None]
            async with self._transactions() as repository:
                now = self._clock.now()
                new = [each for each in without if not await repository.has_live_svids(each.signer.id, now)]
            for signer in without:
                if signer.signs_crls:
                    self._signed_by[signer.signer.id] = await self._sign(signer)
            if not new or not await self._is_anything_revoked():
                return ()
            return [each.signer.id for each in new]

    async def unlisted(self, signer_ids: Collection[str]) -> Mapping[str, int]:
        """Return of each of these authorities how many certificates should be on its list and are not."""
        found = {}
        async with self._transactions() as repository:
            bans = await self._bans.held(repository)
            for signer_id in signer_ids:
                entries = await self._entries(repository, signer_id, bans)
                crl = self._stored.get(signer_id)
                listed = frozenset[str]() if crl is None else serials_on(crl.der)
                if missing := sum(entry.serial not in listed for entry in entries):
                    found[signer_id] = missing
        return found

    def _is_due(self, signer: ActiveSigner) -> bool:
        signer_id, now = signer.signer.id, self._clock.now()
        stored = self._stored.get(signer_id)
        if stored is None or stored.lasting is None or crl_is_due(stored.this_update, now):
            return True
        if self._signed_with.get(signer_id) != signer.signer.certificate:  # it was issued again, for the same key
            return True
        return signer_id in self._ends and now >= self._ends[signer_id]

    async def _is_anything_revoked(self) -> bool:
        async with self._transactions() as repository:
            bans, now = await self._bans.held(repository), self._clock.now()
        await self._read()
        return any(ban.active(now) for ban in bans.by_subject.values()) or any(map(_revokes, self._stored.values()))

    def _lasting_of(self, signer: ActiveSigner) -> ReadCrl | None:
        """Return the stored list of an authority for sidecars, None if there is none that they can use."""
        stored = self._stored.get(signer.signer.id)
        try:
            return None if stored is None else read_lasting(stored, signer.certificate)
        except InvalidInputError:
            return None

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

    async def _sign(self, signer: ActiveSigner) -> frozenset[str]:
        """Sign and store the list of an authority; return the ids of the active bans, which it was made by.

        Of replicas that have the key of one authority, as of a plug-in CA, one is first, and the others sign again.
        """
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(ConflictError):
                return await self._sign_once(signer)
            await self._read()
        return await self._sign_once(signer)

    async def _sign_once(self, signer: ActiveSigner) -> frozenset[str]:
        signer_id = signer.signer.id
        async with self._transactions() as repository:
            bans, now = await self._bans.held(repository), self._clock.now()
            entries = await self._entries(repository, signer_id, bans)
            number = (await repository.crl_numbers()).get(signer_id, 0) + 1
            signed = await _signed(signer, number, entries, now, crl_end(now))
            stored, before = self._stored.get(signer_id), self._lasting_of(signer)
            lasting = None if stored is None else stored.lasting
            if before is None or before.serials != {entry.serial for entry in entries}:
                end = signer.certificate.not_valid_after_utc
                lasting = (await _signed(signer, number, entries, now, end)).public_bytes(Encoding.DER)
            crl = Crl(signer_id, number, signed.last_update_utc, signed.public_bytes(Encoding.DER), lasting)
            await repository.put_crl(crl)
        self._stored[crl.id] = crl
        self._signed_with[crl.id] = signer.signer.certificate
        self._ends.pop(crl.id, None)
        if entries:
            self._ends[crl.id] = max(entry.ends_at for entry in entries)
        log.info("crl_signed", authority=crl.id, number=number, entries=len(entries))
        return frozenset(ban.id for ban in bans.by_subject.values() if ban.active(now))

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


def _revokes(crl: Crl) -> bool:
    try:
        return bool(serials_on(crl.lasting or crl.der))
    except InvalidInputError:
        return True


async def _signed(
    signer: ActiveSigner, number: int, entries: Sequence[CrlEntry], now: datetime, end: datetime
) -> x509.CertificateRevocationList:
    builder = crl_builder(signer.certificate, number, entries, now, end)
    signed: x509.CertificateRevocationList = await signer.key.sign(builder)
    check_crl(signed, signer.certificate)
    return signed
