"""What is on the list of an authority, whatever was issued and banned: its live SVIDs that a ban covers, no others."""

import asyncio
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import Ban, CaConfig, IssuedSvid, Surface
from app.ca.rules.crl import read_lasting, serials_on
from app.ca.service import CaService
from app.spiffe.id import SpiffeId, TrustDomain
from app.telemetry.metrics import Metrics
from tests.fakes.ca_store import MemoryPublisher, MemoryTransactions
from tests.fakes.clock import ManualClock

DOMAIN = TrustDomain("example.org")
NOW = ManualClock().now()
SECOND = timedelta(seconds=1)
# Paths that begin as others do, in another case, and below each other.
PATHS = st.lists(st.sampled_from(["a", "ab", "A", "ns"]), min_size=1, max_size=3).map("/".join)
ENDS = st.sampled_from([NOW - SECOND, NOW, NOW + SECOND, NOW + timedelta(days=1)])
SVIDS = st.lists(st.tuples(PATHS, ENDS, st.booleans()), max_size=8)
BANS = st.lists(st.tuples(PATHS, st.sampled_from(["", "/*"]), st.sampled_from([None, NOW, NOW + SECOND])), max_size=4)
REVOKED = st.sets(st.integers(0, 7), max_size=3)


def serial(number):
    return f"{number + 1:032x}"


def covers(ban, svid):
    """The law, segment by segment."""
    if ban.subject == svid.serial:
        return True
    wanted, given_id = ban.subject.split("/"), str(svid.spiffe_id).split("/")
    if wanted[-1] != "*":
        return wanted == given_id
    return len(given_id) >= len(wanted) and given_id[: len(wanted) - 1] == wanted[:-1]


async def listed(drawn_svids, bans):
    """Store SVIDs of two authorities, and bans; return the records of each, and what its lists have."""
    clock, transactions = ManualClock(), MemoryTransactions()
    replicas = [
        CaService(CaConfig(DOMAIN), transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())
        for _ in range(2)
    ]
    for replica in replicas:
        await replica.start()
    for replica in replicas:  # the first one signs what the second has requested
        await replica.authorities.maintain()
    signers = [replica.authorities.active() for replica in replicas]
    async with transactions() as repository:
        for number, (path, end, second) in enumerate(drawn_svids):
            spiffe_id, signer = SpiffeId.parse(f"spiffe://example.org/{path}"), signers[second].signer.id
            svid = IssuedSvid(serial(number), spiffe_id, signer, "f" * 64, NOW, end, NOW, Surface.ISTIO_CA)
            await repository.add_svids([svid])
        for ban in bans:
            await repository.add_ban(ban)
            await repository.next_ban_revision()
        svids = await repository.svids(None, 100, None)
    found = []
    for replica, signer in zip(replicas, signers, strict=True):
        await replica.bans.refresh()
        await replica.maintain_crls()
        crl = replica.crls.get(signer.signer.id)
        assert serials_on(crl.der) == read_lasting(crl, signer.certificate).serials
        found.append(([svid for svid in svids if svid.signer_id == signer.signer.id], serials_on(crl.der)))
    return found


@settings(max_examples=40)
@given(SVIDS, BANS, REVOKED)
def test_a_list_has_the_live_certificates_of_its_authority_that_a_ban_covers_and_no_others(svids, drawn, revoked):
    subjects = {f"spiffe://example.org/{path}{below}": end for path, below, end in drawn}
    subjects |= {serial(number): None for number in revoked}
    bans = [Ban(f"{number:032x}", subject, "why", NOW, end) for number, (subject, end) in enumerate(subjects.items())]
    active = [ban for ban in bans if ban.expires_at is None or ban.expires_at > NOW]
    for issued, on_list in asyncio.run(listed(svids, bans)):
        live = [svid for svid in issued if svid.not_after > NOW]
        assert on_list == {svid.serial for svid in live if any(covers(ban, svid) for ban in active)}
