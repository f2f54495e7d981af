"""Which revocation lists sidecars get, what keeps them from it, and which authorities wait for them."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import CrlOverSds, Origin, Surface
from app.ca.rules import crl as crl_module
from app.ca.service import CaService
from app.core.errors import UnavailableError
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

CART = "spiffe://example.org/ns/shop/sa/cart"
NEWS = "spiffe://example.org/ns/press/sa/news"
CSR = csr()
DAY = 24 * 3600


async def issue(ca, spiffe_id=CART):
    """Issue an SVID and return its serial number."""
    await ca.issuance.issue(Principal(Credential.SVID, SpiffeId.parse(spiffe_id)), CSR, 0, Surface.ISTIO_CA)
    return (await ca.records.page(None, 1))[0].serial


async def passes(clock, *services, count=2, seconds=1.0):
    for _ in range(count):
        clock.advance(seconds)
        for service in services:
            await service.bans.refresh()
            await service.maintain()
            await service.maintain_crls()


def sent(ca):
    """The serial numbers on the lists that sidecars get, by the names of their issuers; None if they get none."""
    crls = [x509.load_pem_x509_crl(text.encode()) for text in ca.authorities.bundle().crls]
    return {crl.issuer: {f"{each.serial_number:032x}" for each in crl} for crl in crls} or None


def name_of(ca):
    return ca.authorities.active().certificate.subject


@pytest.fixture
def replica(config, transactions, clock):
    def make(keys=None, **changes):
        changed = replace(config, **changes)
        return CaService(changed, transactions, keys or MemoryKeyStore(), MemoryPublisher(), clock, Metrics())

    return make


@pytest.fixture
async def replicas(replica, clock):
    services = replica(), replica()
    for service in services:
        await service.start()
    await passes(clock, *services)
    return services


async def test_sidecars_get_lists_while_something_is_revoked_and_none_otherwise(ca, clock, publisher):
    cart = await issue(ca)
    await passes(clock, ca)
    version, published = ca.authorities.bundle().version, len(publisher.published)
    assert sent(ca) is None
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await ca.maintain_crls()
    assert sent(ca) == {name_of(ca): {cart}}
    assert ca.authorities.bundle().version != version
    await ca.bans.unban(OPERATOR, CART)
    await ca.maintain_crls()
    assert sent(ca) is None
    assert ca.authorities.bundle().version == version
    assert len(publisher.published) == published


async def test_a_ban_of_who_has_no_certificate_sends_nothing(ca, clock):
    await issue(ca, NEWS)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    assert sent(ca) is None


async def test_lists_are_no_longer_sent_once_the_banned_certificates_have_ended(ca, clock):
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    assert sent(ca) is not None
    await passes(clock, ca, seconds=DAY)
    assert sent(ca) is None


async def test_a_list_that_sidecars_have_stays_as_it_is_until_other_certificates_are_on_it(ca, clock):
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await ca.maintain_crls()
    before = ca.authorities.bundle()
    (crl,) = (x509.load_pem_x509_crl(text.encode()) for text in before.crls)
    assert crl.next_update_utc == ca.authorities.active().certificate.not_valid_after_utc
    await ca.bans.ban(OPERATOR, NEWS, "stolen as well", None)
    await passes(clock, ca, seconds=6.5 * 3600)
    assert ca.crls.get(ca.authorities.active().signer.id).number > 2
    assert ca.authorities.bundle() == before


async def test_every_replica_sends_the_lists_of_all_authorities(replicas, clock):
    one, two = replicas
    cart, again = await issue(one), await issue(two)
    await two.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, one, two)
    assert sent(one) == sent(two) == {name_of(one): {cart}, name_of(two): {again}}
    assert one.authorities.bundle() == two.authorities.bundle()


async def test_without_the_setting_nothing_is_sent_and_no_authority_waits(replica, clock):
    ca = replica(crl_over_sds=CrlOverSds.OFF)
    await ca.start()
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    assert sent(ca) is None
    await ca.authorities.roots.taint(OPERATOR, ca.authorities.active().signer.id)
    assert ca.authorities.waiting_for is None


@pytest.mark.parametrize("spoiled", ["removed", "of an older version", "malformed", "of another authority", "ended"])
async def test_while_an_authority_in_use_has_no_list_none_is_sent_and_it_is_reported(
    replicas, clock, transactions, spoiled
):
    one, two = replicas
    await issue(one)
    await issue(two)
    stored = transactions.state._crls
    mine, theirs = (each.authorities.active().signer.id for each in replicas)
    spoiled_list = {
        "of an older version": None,
        "malformed": b"\x30\x03",
        "of another authority": stored[mine].lasting,
        "ended": stored[theirs].der,
    }
    if spoiled == "removed":
        del stored[theirs]
    else:
        stored[theirs] = replace(stored[theirs], number=stored[theirs].number + 1, lasting=spoiled_list[spoiled])
    await one.bans.ban(OPERATOR, CART, "stolen", None)
    with capture_logs() as lines:
        await passes(clock, one)
    assert sent(one) is None
    (problem,) = one.status().problems
    assert theirs in problem
    assert mine not in problem
    assert "crl_not_delivered" in [line["event"] for line in lines]
    await two.bans.refresh()
    await two.maintain_crls()
    with capture_logs() as lines:
        await passes(clock, one)
    assert sent(one) is not None
    assert one.status().problems == ()
    assert "crl_delivered" in [line["event"] for line in lines]


async def test_an_authority_without_a_list_that_has_signed_nothing_in_use_keeps_nobody_waiting(
    replicas, clock, transactions
):
    one, two = replicas
    cart = await issue(one)
    del transactions.state._crls[two.authorities.active().signer.id]
    await one.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, one)
    assert sent(one) == {name_of(one): {cart}}
    assert one.status().problems == ()


async def test_lists_that_are_too_long_together_are_not_sent_and_that_is_reported(ca, clock, monkeypatch):
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    monkeypatch.setattr(crl_module, "MAX_CRLS_BYTES", 100)
    await passes(clock, ca)
    assert sent(ca) is None
    (problem,) = ca.status().problems
    assert "too many certificates" in problem


async def test_banned_certificates_that_nobody_can_list_are_reported_until_the_replica_is_back(
    replica, replicas, clock
):
    keys = MemoryKeyStore()
    lost = replica(keys)
    one, two = replicas
    await lost.start()
    await passes(clock, one, two, lost)
    await issue(lost)
    signer = lost.authorities.active().signer.id
    await passes(clock, one, two, count=40)
    await one.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, one, two, count=7)
    (problem,) = one.status().problems
    assert problem.startswith("1 banned certificates are on no revocation list")
    assert signer in problem
    again = replica(keys)
    await again.start()
    await passes(clock, again, one, two, count=8)
    assert one.status().problems == ()
    assert sent(one) is not None


@pytest.mark.parametrize("mode", [CrlOverSds.AUTO, CrlOverSds.ON])
async def test_beside_a_root_from_outside_lists_are_sent_only_where_nobody_else_issues_under_it(
    replica, transactions, clock, mode
):
    ca = replica(crl_over_sds=mode)
    await ca.start()
    cart = await issue(ca)
    (root,) = transactions.state._roots.values()
    transactions.state._roots[root.id] = replace(root, origin=Origin.PLUG_IN)
    await passes(clock, ca)
    assert ca.status().problems == ()
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    if mode is CrlOverSds.ON:
        assert sent(ca) == {name_of(ca): {cart}}
        assert ca.status().problems == ()
    else:
        assert sent(ca) is None
        (problem,) = ca.status().problems
        assert f"others may have issued certificates under the roots {root.id}" in problem


class Streams:
    """A stream at a replica that has accepted its bundle, or not."""

    def __init__(self, ca, stack):
        self._ca = ca
        self._stream = stack.enter_context(ca.subscribers.opened(SpiffeId.parse(NEWS), "10.0.0.7:4711"))
        self.accept()

    def accept(self):
        version = self._ca.authorities.bundle().version
        self._ca.subscribers.answered(self._stream, subscribed=True, bundle=version, problem="")


async def test_a_new_authority_signs_at_once_while_nothing_is_banned(ca):
    before = ca.authorities.active().signer
    await ca.authorities.roots.taint(OPERATOR, before.id)
    after = ca.authorities.active().signer
    assert after.id != before.id
    assert ca.crls.get(after.id).number == 1
    assert await issue(ca)


async def test_while_something_is_revoked_a_new_authority_waits_until_every_sidecar_has_its_list(replicas, clock):
    one, two = replicas
    await issue(one)
    await one.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, one, two)
    with ExitStack() as stack:
        stream = Streams(two, stack)
        await one.authorities.roots.taint(OPERATOR, one.authorities.active().signer.id)
        assert "waits until sidecars have its revocation list" in one.authorities.waiting_for
        with pytest.raises(UnavailableError):
            await issue(one, NEWS)
        await passes(clock, one, two, count=10)
        assert len(sent(two)) == 3
        assert one.authorities.waiting_for is not None
        stream.accept()
        await passes(clock, two, one, count=2)
        assert one.authorities.waiting_for is None
        assert await issue(one, NEWS)


async def test_a_replica_goes_on_with_the_authority_of_before_while_the_next_one_waits(ca, clock):
    first = ca.authorities.active().signer
    third = (first.not_after - first.not_before) / 3
    clock.advance((first.not_after - third - clock.now()).total_seconds() + 1)
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await ca.maintain_crls()
    with ExitStack() as stack:
        stream = Streams(ca, stack)
        await passes(clock, ca, count=5)
        assert len(ca.authorities.held()) == 2
        assert ca.authorities.active().signer == first
        stream.accept()
        await passes(clock, ca)
        assert ca.authorities.active().signer != first


async def test_a_sidecar_that_does_not_answer_keeps_no_authority_waiting_for_longer_than_a_minute(ca, clock):
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", None)
    await passes(clock, ca)
    with ExitStack() as stack:
        Streams(ca, stack)
        await ca.authorities.roots.taint(OPERATOR, ca.authorities.active().signer.id)
        await passes(clock, ca, count=57)
        assert ca.authorities.waiting_for is not None
        with capture_logs() as lines:
            await passes(clock, ca, count=5)
        assert ca.authorities.waiting_for is None
        assert "ca_signer_not_acknowledged" in [line["event"] for line in lines]


async def test_a_ban_that_ends_takes_its_certificates_off_the_lists(ca, clock):
    await issue(ca)
    await ca.bans.ban(OPERATOR, CART, "stolen", timedelta(hours=1))
    await passes(clock, ca)
    assert sent(ca) is not None
    await passes(clock, ca, seconds=3600)
    assert sent(ca) is None


async def test_the_list_of_an_authority_that_was_made_since_the_last_pass_is_sent_too(replica, replicas, clock):
    one, _ = replicas
    await issue(one)
    late = replica()
    await late.start()
    await one.authorities.maintain()
    await late.authorities.maintain()
    cart = await issue(late)
    await one.bans.ban(OPERATOR, CART, "stolen", None)
    await late.bans.refresh()
    await late.maintain_crls()
    await one.maintain_crls()
    assert sent(one)[name_of(late)] == {cart}
