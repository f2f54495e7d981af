"""Bans: who is issued nothing, when a ban counts, what is stored of it and what its reason is."""

import asyncio
import json
from datetime import timedelta

import pytest

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import Surface
from app.ca.service import CaService
from app.ca.service import bans as bans_module
from app.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    UnavailableError,
)
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
OTHER = SpiffeId.parse("spiffe://example.org/ns/shop-test/sa/cart")
SHOP = "spiffe://example.org/ns/shop/*"
CSR = csr()


async def issue(ca, spiffe_id=CART):
    return await ca.issuance.issue(Principal(Credential.SVID, spiffe_id), CSR, 0, Surface.ISTIO_CA)


async def issued(ca, spiffe_id=CART):
    """Whether the identity is issued a certificate."""
    try:
        await issue(ca, spiffe_id)
    except PermissionDeniedError:
        return False
    return True


@pytest.fixture
async def other(config, transactions, clock):
    """Another replica on the same database."""
    service = CaService(config, transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())
    await service.start()
    return service


@pytest.mark.parametrize("subject", [str(CART), SHOP, "spiffe://example.org/*", "spiffe://example.org/ns/shop/sa/*"])
async def test_a_banned_identity_is_issued_nothing_until_it_is_unbanned(ca, subject):
    await ca.bans.ban(OPERATOR, subject, "stolen key", None)
    with pytest.raises(PermissionDeniedError, match="is banned: stolen key"):
        await issue(ca)
    with pytest.raises(PermissionDeniedError):
        await ca.issuance.issue_with_new_key(Principal(Credential.SVID, CART), Surface.SDS)
    await ca.bans.unban(OPERATOR, subject)
    assert await issued(ca)


async def test_a_prefix_bans_no_part_of_a_segment_and_not_the_path_itself(ca):
    await ca.bans.ban(OPERATOR, SHOP, "why", None)
    assert await issued(ca, OTHER)
    assert await issued(ca, SpiffeId.parse("spiffe://example.org/ns/shop"))
    assert not await issued(ca, SpiffeId.parse("spiffe://example.org/ns/shop/sa/any"))


async def test_a_ban_with_an_end_ends(ca, clock):
    await ca.bans.ban(OPERATOR, str(CART), "why", timedelta(hours=1))
    clock.advance(3599)
    assert not await issued(ca)
    clock.advance(1)
    assert await issued(ca)


async def test_the_join_token_of_a_banned_identity_is_not_used_up(ca):
    secret = (await ca.join_tokens.create(OPERATOR, CART)).secret
    caller = await ca.join_tokens.attest(Evidence(secret))
    await ca.bans.ban(OPERATOR, str(CART), "why", None)
    with pytest.raises(PermissionDeniedError):
        await ca.issuance.issue(caller, CSR, 0, Surface.ISTIO_CA)
    await ca.bans.unban(OPERATOR, str(CART))
    assert await ca.issuance.issue(await ca.join_tokens.attest(Evidence(secret)), CSR, 0, Surface.ISTIO_CA)


async def test_a_ban_of_another_replica_counts_when_an_svid_is_recorded_and_fails_no_other(ca, other):
    await other.bans.ban(OPERATOR, str(CART), "why", None)
    assert ca.bans.refusal(CART.principal, "") is None  # it has not read the ban yet
    results = await asyncio.gather(issue(ca), issue(ca, OTHER), return_exceptions=True)
    assert isinstance(results[0], PermissionDeniedError)
    assert [svid.spiffe_id for svid in await ca.records.page(None, 10)] == [OTHER]
    assert results[1].spiffe_id == OTHER
    await other.bans.unban(OPERATOR, str(CART))
    assert await issued(ca)


async def test_a_ban_between_the_check_and_the_recording_counts(ca, keys):
    signer = ca.authorities.active().key
    sign = signer.sign

    async def ban_then_sign(document):
        await ca.bans.ban(OPERATOR, str(CART), "meanwhile", None)
        return await sign(document)

    object.__setattr__(signer, "sign", ban_then_sign)
    with pytest.raises(PermissionDeniedError, match="meanwhile"):
        await issue(ca)
    assert await ca.records.page(None, 10) == []


async def test_a_refresh_reads_the_bans_of_another_replica_and_only_when_they_changed(
    ca, other, transactions, monkeypatch
):
    await ca.bans.refresh()
    seen = ca.bans.changed.count
    await other.bans.ban(OPERATOR, SHOP, "why", None)
    await ca.bans.refresh()
    assert ca.bans.refusal(CART.principal, "").message == f"{SHOP} is banned: why"
    assert ca.bans.changed.count == seen + 1
    reads = []
    monkeypatch.setattr(transactions.state, "bans", lambda: reads.append(1))
    await ca.bans.refresh()
    assert (reads, ca.bans.changed.count) == ([], seen + 1)


async def test_bans_are_read_again_after_a_minute_whatever_the_revision(ca, other, transactions, clock):
    await other.bans.ban(OPERATOR, SHOP, "why", None)
    transactions.state._ban_revision -= 1  # as in a backup that was restored
    await ca.bans.refresh()
    assert ca.bans.refusal(CART.principal, "") is None
    clock.advance(60)
    await ca.bans.refresh()
    assert ca.bans.refusal(CART.principal, "")


async def test_bans_stay_active_while_the_database_is_away(ca, transactions):
    await ca.bans.ban(OPERATOR, SHOP, "why", None)
    transactions.away = True
    with pytest.raises(UnavailableError):
        await ca.bans.refresh()
    with pytest.raises(UnavailableError):
        await ca.bans.unban(OPERATOR, SHOP)
    assert ca.bans.refusal(CART.principal, "")


async def test_everybody_is_refused_before_the_bans_were_read(config, transactions, clock):
    service = CaService(config, transactions, MemoryKeyStore(), MemoryPublisher(), clock, Metrics())
    assert isinstance(service.bans.refusal(CART.principal, ""), UnavailableError)
    with pytest.raises(UnavailableError):
        await issue(service)


async def test_a_revoked_certificate_is_refused_until_it_ends_and_its_identity_is_not(ca, clock):
    await issue(ca)
    (svid,) = await ca.records.page(None, 1)
    ban = await ca.bans.revoke(OPERATOR, svid.serial.upper().lstrip("0"), "laptop lost")
    assert (ban.subject, ban.expires_at) == (svid.serial, svid.not_after)
    reason = f"{svid.serial} is the serial number of a revoked certificate: laptop lost"
    assert ca.bans.refusal(CART.principal, svid.serial).message == reason
    with pytest.raises(PermissionDeniedError, match="laptop lost"):
        await ca.issuance.issue(Principal(Credential.SVID, CART, serial=svid.serial), CSR, 0, Surface.ISTIO_CA)
    assert ca.bans.refusal(CART.principal, "") is None
    assert await issued(ca)
    await ca.bans.unrevoke(OPERATOR, svid.serial)
    assert ca.bans.refusal(CART.principal, svid.serial) is None


async def test_only_certificates_of_workloads_that_are_recorded_and_valid_can_be_revoked(ca, clock):
    with pytest.raises(NotFoundError, match="ban its identity"):
        await ca.bans.revoke(OPERATOR, "ab", "why")
    await ca.issuance.issue_serving()
    (serving,) = await ca.records.page(None, 1)
    with pytest.raises(PreconditionError, match="control plane"):
        await ca.bans.revoke(OPERATOR, serving.serial, "why")
    await issue(ca)
    (svid, _) = await ca.records.page(None, 2)
    clock.advance(86400)
    with pytest.raises(PreconditionError, match="ended"):
        await ca.bans.revoke(OPERATOR, svid.serial, "why")
    for serial in ("", "0x1", "g" * 32, "1" * 33, "٣"):
        with pytest.raises(InvalidInputError):
            await ca.bans.revoke(OPERATOR, serial, "why")


async def test_the_control_plane_goes_on_issuing_to_itself_whatever_is_banned(ca):
    await ca.bans.ban(OPERATOR, "spiffe://example.org/*", "all of them", None)
    assert await ca.issuance.issue_serving()
    assert not await issued(ca)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "*",
        "/*",
        "spiffe://*",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org//*",
        "spiffe://example.org/ns/shop*",
        "spiffe://example.org/ns/*/sa/cart",
        "spiffe://example.org/ns/shop/**",
        "spiffe://example.org/ns/shop/*/*",
        "spiffe://example.org/ns/shop/",
        "spiffe://example.org/ns/./shop",
        "spiffe://example.org/ns%2Fshop",
        "spiffe://EXAMPLE.org/ns/shop",
        "SPIFFE://example.org/ns/shop",
        "spiffe://example.org/ns/shop\n",
        "spiffe://other.org/ns/shop",
        "spiffe://other.org/*",
        "spiffe://example.org/meshward/server",
        "spiffe://example.org/meshward/*",
        "spiffe://example.org/" + "a" * 2048,
        "spiffe://example.org/" + "a" * 2026 + "/*",
    ],
)
async def test_what_no_workload_can_be_is_not_banned(ca, subject):
    with pytest.raises(InvalidInputError) as caught:
        await ca.bans.ban(OPERATOR, subject, "why", None)
    assert [violation.path for violation in caught.value.violations] == ["spiffe_id"]
    assert await ca.bans.page(None, 10) == []


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 257])
async def test_a_ban_needs_a_short_printable_reason(ca, reason):
    with pytest.raises(InvalidInputError, match="reason"):
        await ca.bans.ban(OPERATOR, SHOP, reason, None)


@pytest.mark.parametrize("lasts", [timedelta(0), timedelta(days=3651)])
async def test_the_duration_of_a_ban_is_bounded(ca, lasts):
    with pytest.raises(InvalidInputError, match="duration"):
        await ca.bans.ban(OPERATOR, SHOP, "why", lasts)


async def test_bans_are_bounded_in_number_and_one_can_still_be_replaced(ca, monkeypatch):
    monkeypatch.setattr(bans_module, "MAX_BANS", 2)
    await ca.bans.ban(OPERATOR, str(CART), "why", None)
    await ca.bans.ban(OPERATOR, str(OTHER), "why", None)
    with pytest.raises(ResourceExhaustedError):
        await ca.bans.ban(OPERATOR, SHOP, "why", None)
    await ca.bans.ban(OPERATOR, str(CART), "again", None)
    assert [(ban.subject, ban.reason) for ban in await ca.bans.page(None, 9)] == [
        (str(OTHER), "why"),
        (str(CART), "again"),
    ]


async def test_each_change_is_audited_with_the_state_before_and_after(ca, transactions):
    await issue(ca)
    (svid,) = await ca.records.page(None, 1)
    await ca.bans.ban(OPERATOR, SHOP, "one", None)
    await ca.bans.ban(OPERATOR, SHOP, "two", timedelta(hours=1))
    await ca.bans.unban(OPERATOR, SHOP)
    await ca.bans.revoke(OPERATOR, svid.serial, "three")
    await ca.bans.unrevoke(OPERATOR, svid.serial)
    audited = [
        (record.action, record.target, (record.before or {}).get("reason"), (record.after or {}).get("reason"))
        for record in transactions.state.audited
    ]
    assert audited == [
        ("identity.ban", SHOP, None, "one"),
        ("identity.ban", SHOP, "one", "two"),
        ("identity.unban", SHOP, "two", None),
        ("svid.revoke", svid.serial, None, "three"),
        ("svid.unrevoke", svid.serial, "three", None),
    ]
    assert {record.principal for record in transactions.state.audited} == {OPERATOR.name}


async def test_what_is_not_banned_cannot_be_unbanned(ca):
    await ca.bans.ban(OPERATOR, SHOP, "why", None)
    with pytest.raises(NotFoundError):
        await ca.bans.unban(OPERATOR, str(CART))
    with pytest.raises(NotFoundError):
        await ca.bans.unrevoke(OPERATOR, "ab")


async def test_bans_that_ended_are_removed(ca, clock):
    await ca.bans.ban(OPERATOR, SHOP, "short", timedelta(minutes=1))
    await ca.bans.ban(OPERATOR, str(CART), "long", None)
    await ca.maintain()
    assert len(await ca.bans.page(None, 9)) == 2
    clock.advance(3700)
    await ca.maintain()
    assert [ban.reason for ban in await ca.bans.page(None, 9)] == ["long"]


async def test_bans_and_refused_issuances_are_counted(ca, metrics):
    await ca.bans.ban(OPERATOR, SHOP, "why", None)
    assert not await issued(ca)
    assert metrics.issuances.value("istio_ca", "banned") == 1
    assert "meshward_ca_bans 1.0" in metrics.render().decode()


async def test_each_change_is_in_the_transparency_log_and_hides_no_issuance(ca, transactions):
    await issue(ca)
    (svid,) = await ca.records.page(None, 1)
    await ca.bans.ban(OPERATOR, SHOP, "one", timedelta(hours=1))
    await ca.bans.unban(OPERATOR, SHOP)
    await ca.bans.revoke(OPERATOR, svid.serial, "two")
    await ca.bans.unrevoke(OPERATOR, svid.serial)
    leaves = [json.loads(leaf.text) for leaf in await transactions.state.log_leaves(0, 100)]
    found = [leaf for leaf in leaves if leaf["kind"] in {"ban", "unban"}]
    assert [(leaf["kind"], leaf["subject"], leaf.get("reason")) for leaf in found] == [
        ("ban", SHOP, "one"),
        ("unban", SHOP, None),
        ("ban", svid.serial, "two"),
        ("unban", svid.serial, None),
    ]
    assert found[0]["expires_at"] == "2026-01-01T13:00:00+00:00"
    last = await transactions.state.log_leaf_of(svid.serial)
    assert json.loads(last.text)["kind"] == "svid"


async def test_a_ban_that_is_not_in_the_log_is_not_made(ca, transactions, monkeypatch):
    async def broken(*_arguments):
        raise ConflictError("a place is taken")

    monkeypatch.setattr(transactions.state, "extend_log", broken)
    with pytest.raises(ConflictError):
        await ca.bans.ban(OPERATOR, SHOP, "why", None)
    assert ca.bans.refusal(CART.principal, "") is None
    assert await ca.bans.page(None, 9) == []
