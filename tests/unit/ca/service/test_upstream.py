"""A control plane beneath another: what it is certified for, and how it follows."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import DownstreamPolicy, RotationConfig, Stage, Surface
from app.ca.rules.log import fields_of
from app.ca.rules.profile import authority_id
from app.ca.service import CaService
from app.core.errors import (
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnavailableError,
)
from app.spiffe.id import SpiffeId
from app.spiffe.keys import accepted_key
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate
from app.telemetry.metrics import Metrics
from tests.assets.certificates import BACKDATE, MeshCa, key_pem, proven_id, root_authority
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher, MemoryTransactions
from tests.fakes.plug_in import MemoryPlugIn
from tests.fakes.principals import OPERATOR
from tests.fakes.upstream import MemoryUpstream

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
REGION = SpiffeId.parse("spiffe://example.org/ns/mesh/sa/region-a")
CALLER = Principal(Credential.SVID, REGION)
DAY = 24 * 3600
MONTH = timedelta(days=30)


def made(config, clock, transactions=None, keys=None, source=None, **changed):
    """A control plane, and what stores its state."""
    stored = transactions or MemoryTransactions()
    keys = keys or MemoryKeyStore()
    ca = CaService(replace(config, **changed), stored, keys, MemoryPublisher(), clock, Metrics())
    if source is not None:
        ca.authorities.use_upstream(source)
    return ca


@pytest.fixture
async def above(config, clock, transactions, keys):
    policy = DownstreamPolicy(REGION, MONTH, 1)
    ca = made(config, clock, transactions, keys, downstreams=(policy,), rotation=RotationConfig(prepare_at=None))
    await ca.start()
    return ca


@pytest.fixture
def source(above, clock):
    return MemoryUpstream(above, REGION, clock)


@pytest.fixture
def stored():
    return MemoryTransactions()


@pytest.fixture
def own_keys():
    return MemoryKeyStore()


@pytest.fixture
async def beneath(config, clock, source, stored, own_keys):
    ca = made(config, clock, stored, own_keys, source, signer_ttl=MONTH)
    await ca.start()
    return ca


@pytest.fixture
async def middle(config, clock, source):
    """A control plane beneath `above`, and above `third`."""
    ca = made(config, clock, source=source, signer_ttl=MONTH, downstreams=(DownstreamPolicy(REGION, MONTH, 0),))
    await ca.start()
    return ca


@pytest.fixture
async def third(config, clock, middle):
    downstreams = (DownstreamPolicy(REGION, MONTH, 5),)
    ca = made(config, clock, source=MemoryUpstream(middle, REGION, clock), signer_ttl=MONTH, downstreams=downstreams)
    await ca.start()
    return ca


async def passes(clock, *services, count=3):
    for _ in range(count):
        clock.advance(1)
        for service in services:
            await service.maintain()


async def issued(ca):
    return await ca.issuance.issue(Principal(Credential.SVID, CART), csr(), 0, Surface.SDS)


def limit(text):
    certificate = parse_certificate(text)
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


def upstream_status(ca):
    return ca.authorities.status().upstream


async def test_svids_beneath_prove_their_holder_under_the_bundle_above(above, beneath, clock, own_keys):
    found = await issued(beneath)
    assert proven_id(found.chain, above.authorities.bundle(), clock.now()) == CART
    assert found.bundle.roots == above.authorities.bundle().roots
    signer = beneath.authorities.active().signer
    assert signer.not_after == clock.now() + MONTH
    assert limit(signer.certificate) == 1
    assert set(own_keys.keys) == {signer.id}  # no root is made beneath


async def test_what_is_signed_is_audited_and_in_the_log(above, beneath, transactions):
    signer = beneath.authorities.active().signer
    entry = next(
        fields for leaf in transactions.state.leaves.values() if (fields := fields_of(leaf))["kind"] == "downstream"
    )
    assert (entry["id"], entry["holder"], entry["certificate"]) == (signer.id, str(REGION), signer.certificate)
    record = transactions.state.audited[-1]
    assert (record.action, record.target) == ("downstream.sign", str(REGION))
    await above.maintain()
    assert signer.id in {each.id for each in above.authorities.status().signers}


@pytest.mark.parametrize(
    ("caller", "kind"),
    [
        (Principal(Credential.SVID, CART), PermissionDeniedError),
        (Principal(Credential.SVID, SpiffeId.parse(f"{REGION}/x")), PermissionDeniedError),
        (Principal(Credential.JOIN_TOKEN, REGION, token_id="1"), UnauthenticatedError),
        (Principal(Credential.JWT, REGION), UnauthenticatedError),
        (Principal(Credential.FORWARDED, REGION), UnauthenticatedError),
        (Principal(Credential.LOOPBACK, None), UnauthenticatedError),
    ],
)
async def test_nobody_else_gets_a_signing_certificate(above, caller, kind):
    with pytest.raises(kind):
        await above.downstreams.sign(caller, csr(), 0)


async def test_by_default_nobody_does(ca):
    with pytest.raises(PermissionDeniedError, match=r"not in ca\.downstreams"):
        await ca.downstreams.sign(CALLER, csr(), 0)


async def test_nor_does_a_banned_one(above):
    await above.bans.ban(OPERATOR, str(REGION), "stolen", None)
    with pytest.raises(PermissionDeniedError, match="is banned: stolen"):
        await above.downstreams.sign(CALLER, csr(), 0)


async def test_nor_does_one_that_another_replica_has_just_banned(above, config, transactions, clock):
    other = made(config, clock, transactions)
    await other.start()
    await other.bans.ban(OPERATOR, str(REGION), "stolen", None)
    with pytest.raises(PermissionDeniedError, match="is banned: stolen"):
        await above.downstreams.sign(CALLER, csr(), 0)


async def test_a_key_that_was_tainted_gets_no_other_certificate(above):
    request = csr()
    answer = await above.downstreams.sign(CALLER, request, 0)
    signer_id = authority_id(accepted_key(parse_certificate(answer.chain[0])))
    await above.maintain()
    await above.authorities.roots.taint(OPERATOR, signer_id)
    with pytest.raises(PermissionDeniedError, match="is tainted: make a new key"):
        await above.downstreams.sign(CALLER, request, 0)


async def test_a_shorter_certificate_does_not_hide_a_longer_one_of_the_same_key(above, clock):
    request = csr()
    answer = await above.downstreams.sign(CALLER, request, 10 * DAY)
    await above.downstreams.sign(CALLER, request, 60)
    clock.advance(DAY)
    await above.maintain()
    signer_id = authority_id(accepted_key(parse_certificate(answer.chain[0])))
    assert signer_id in {each.id for each in above.authorities.status().signers}


@pytest.mark.parametrize(("seconds", "days"), [(0, 30), (-5, 30), (10 * DAY, 10), (90 * DAY, 30), (2**62, 30)])
async def test_the_life_is_what_is_asked_for_up_to_what_is_allowed(above, clock, seconds, days):
    answer = await above.downstreams.sign(CALLER, csr(), seconds)
    assert parse_certificate(answer.chain[0]).not_valid_after_utc == clock.now() + timedelta(days=days)


async def test_it_ends_with_its_root(above, clock):
    root = above.authorities.status().roots[0]
    clock.advance((root.not_after - clock.now()).total_seconds() - 10 * DAY)
    answer = await above.downstreams.sign(CALLER, csr(), 0)
    assert parse_certificate(answer.chain[0]).not_valid_after_utc == root.not_after


@pytest.mark.parametrize("bad", ["", "x", MeshCa().roots])
async def test_a_bad_request_is_refused(above, bad):
    with pytest.raises(InvalidInputError):
        await above.downstreams.sign(CALLER, bad, 0)


async def test_a_replica_without_the_roots_key_says_whom_to_ask(above, config, transactions, clock):
    policy = DownstreamPolicy(REGION, MONTH, 0)
    other = made(config, clock, transactions, downstreams=(policy,))
    await other.start()
    await above.maintain()
    await other.maintain()
    with pytest.raises(UnavailableError, match="ask the replica that holds the root's key"):
        await other.downstreams.sign(CALLER, csr(), 0)


async def test_a_third_level_has_one_authority_less_beneath_it(beneath, config, clock, stored, own_keys):
    middle = made(config, clock, stored, own_keys, downstreams=(DownstreamPolicy(REGION, MONTH, 3),))
    await middle.start()
    answer = await middle.downstreams.sign(CALLER, csr(), 0)
    assert [limit(each) for each in answer.chain] == [0, 1]


async def test_a_fourth_level_is_refused_where_the_first_allows_three(third, config, clock):
    fourth = made(config, clock, source=MemoryUpstream(third, REGION, clock))
    with pytest.raises(PreconditionError, match="allows no authority beneath it"):
        await fourth.start()
    assert limit(third.authorities.active().signer.certificate) == 0


@pytest.mark.parametrize("signs_itself", [False, True])
async def test_a_plugged_in_authority_that_allows_none_beneath_signs_none(signs_itself, config, clock):
    now = clock.now()
    ca = MeshCa(now)
    itself = root_authority("root", now - BACKDATE, now + MONTH, path_length=0, uris=("spiffe://example.org",))
    signer, roots = (itself, itself.pem) if signs_itself else (ca.signer, ca.roots)
    files = {"tls.crt": signer.pem.encode(), "tls.key": key_pem(signer.key), "ca.crt": roots.encode()}
    plugged = made(config, clock, downstreams=(DownstreamPolicy(REGION, MONTH, 1),))
    plugged.authorities.use_plug_in(MemoryPlugIn(files))
    await plugged.start()
    with pytest.raises(UnavailableError, match="allows no authority beneath it"):
        await plugged.downstreams.sign(CALLER, csr(), 0)


async def test_it_is_renewed_with_a_new_key_when_a_third_is_left(beneath, source, clock):
    first = beneath.authorities.active().signer
    clock.advance(19 * DAY)
    await beneath.maintain()
    assert source.asked == 1
    clock.advance(2 * DAY)
    await beneath.maintain()
    assert beneath.authorities.active().signer.id != first.id
    assert source.asked == 2


async def test_while_the_upstream_is_away_it_goes_on_and_asks_now_and_then(beneath, source, clock):
    first = beneath.authorities.active().signer
    source.away = UnavailableError("it is away")
    clock.advance(21 * DAY)
    await passes(clock, beneath, count=30)
    assert upstream_status(beneath).problem == "it is away"
    assert beneath.status().problems == ("the upstream above:15012 is not followed: it is away",)
    assert beneath.authorities.active().signer == first
    assert 3 <= source.asked - 1 <= 4
    source.away = None
    await passes(clock, beneath, count=12)
    assert upstream_status(beneath).problem is None
    assert beneath.authorities.active().signer != first


async def test_a_failed_request_leaves_no_key_behind(beneath, source, clock, own_keys):
    source.away = PermissionDeniedError("not allowed")
    clock.advance(21 * DAY)
    await passes(clock, beneath, count=30)
    assert len(own_keys.keys) == 1


async def test_without_an_answer_there_is_no_first_start(config, clock, source, stored):
    source.away = PermissionDeniedError("you may not")
    ca = made(config, clock, stored, source=source)
    with pytest.raises(PreconditionError, match="the upstream above:15012 has not signed: you may not"):
        await ca.start()
    assert not await stored.state.roots()


async def test_before_it_has_enrolled_nothing_is_asked(config, clock, source, stored):
    source.enrolled = False
    ca = made(config, clock, stored, source=source)
    with pytest.raises(PreconditionError, match="has not enrolled there yet"):
        await ca.start()
    assert source.asked == 0


@pytest.mark.parametrize("answer", ["another key", "another root", "nothing", "no authority"])
async def test_an_answer_that_is_not_good_is_refused(beneath, source, clock, answer):
    first, strange = beneath.authorities.active().signer, MeshCa(clock.now())
    genuine = source.sign

    async def sign(request, ttl):
        chain, roots = await genuine(request, ttl)
        match answer:
            case "another key":
                return (await genuine(csr(), ttl))[0], roots
            case "another root":
                return chain, (strange.roots,)
            case "nothing":
                return (), ()
            case _:
                return (await issued(source.above)).chain, roots

    source.sign = sign
    clock.advance(21 * DAY)
    await passes(clock, beneath)
    assert upstream_status(beneath).problem
    assert beneath.authorities.active().signer == first


async def test_a_new_root_above_is_trusted_at_once_and_signs_when_everybody_has_it(above, beneath, clock):
    second = await above.authorities.roots.prepare(OPERATOR)
    await passes(clock, above, beneath)
    assert beneath.authorities.trust().stage(second.id) is Stage.VERIFY_ONLY
    await above.authorities.roots.activate(OPERATOR, second.id, force=True)
    await passes(clock, above, beneath)
    assert proven_id((await issued(beneath)).chain, above.authorities.bundle(), clock.now()) == CART
    clock.advance(21 * DAY)  # at the latest then it has an authority under the new root
    await passes(clock, above, beneath, count=5)
    assert beneath.authorities.trust().stage(second.id) is Stage.ACTIVE


async def test_what_is_tainted_and_revoked_above_is_so_beneath(above, beneath, clock):
    first = above.authorities.status().root_id
    own = beneath.authorities.active().signer
    second = await above.authorities.roots.prepare(OPERATOR)
    await passes(clock, above, beneath)
    await above.authorities.roots.activate(OPERATOR, second.id, force=True)
    await above.authorities.roots.taint(OPERATOR, first)
    await passes(clock, above, beneath, count=5)
    assert beneath.authorities.active().signer.root_id == second.id
    assert beneath.authorities.is_withdrawn([own.certificate])
    await above.authorities.roots.revoke(OPERATOR, first, force=True)
    await passes(clock, above, beneath, count=5)
    assert beneath.authorities.trust().stage(first) is Stage.REVOKED
    assert beneath.authorities.bundle().roots == above.authorities.bundle().roots


async def test_trust_above_is_followed_while_a_renewal_fails(above, beneath, source, clock):
    own = beneath.authorities.active().signer
    clock.advance(21 * DAY)
    source.away = UnavailableError("it is away")
    second = await above.authorities.roots.prepare(OPERATOR)
    await above.authorities.roots.taint(OPERATOR, own.id)
    await passes(clock, above, beneath)
    assert upstream_status(beneath).problem == "it is away"
    assert beneath.authorities.trust().stage(second.id) is Stage.VERIFY_ONLY
    assert beneath.authorities.trust().stage(own.id) is Stage.TAINTED
    assert beneath.authorities.is_withdrawn([own.certificate])
    assert beneath.authorities.waiting_for == "the upstream above:15012 has not signed: it is away"


async def test_a_bundle_that_cannot_be_followed_stops_no_renewal(above, beneath, source, clock):
    first = beneath.authorities.active().signer
    source.bundle = lambda: replace(above.authorities.bundle(), roots=("no certificate",))
    clock.advance(21 * DAY)
    await passes(clock, beneath)
    assert upstream_status(beneath).problem == "the certificate is not one PEM block of the type CERTIFICATE"
    assert beneath.authorities.active().signer.id != first.id


async def test_a_new_root_that_is_waited_for_can_be_activated_by_force(above, beneath, clock):
    """A client without a stream cannot accept the new root while nothing is issued."""
    first = above.authorities.status().root_id
    await beneath.issuance.issue(Principal(Credential.SVID, CART), csr(), 0, Surface.ISTIO_CA)
    clock.advance(60)
    second = await above.authorities.roots.prepare(OPERATOR)
    await above.authorities.roots.activate(OPERATOR, second.id, force=True)
    await above.authorities.roots.taint(OPERATOR, first)
    await passes(clock, above, beneath, count=5)
    assert beneath.authorities.trust().stage(second.id) is Stage.ACTIVATING
    problem = beneath.authorities.waiting_for
    assert problem is not None
    assert f"meshward ca activate {second.id} --force" in problem
    await beneath.authorities.roots.activate(OPERATOR, second.id, force=True)
    assert proven_id((await issued(beneath)).chain, above.authorities.bundle(), clock.now()) == CART


async def test_a_tainted_authority_is_replaced(above, beneath, clock):
    own = beneath.authorities.active().signer
    await above.maintain()
    await above.authorities.roots.taint(OPERATOR, own.id)
    await passes(clock, above, beneath)
    assert beneath.authorities.active().signer.id != own.id
    assert beneath.authorities.is_withdrawn([own.certificate])


async def test_an_authority_beneath_one_that_is_tainted_above_is_replaced(above, middle, third, clock):
    upper, own = middle.authorities.active().signer, third.authorities.active().signer
    assert own.intermediates == (upper.certificate,)
    await above.maintain()
    await above.authorities.roots.taint(OPERATOR, upper.id)
    await passes(clock, above, middle, third)
    replaced = third.authorities.active().signer
    assert replaced.intermediates == (middle.authorities.active().signer.certificate,)
    assert middle.authorities.active().signer.id != upper.id
    assert third.authorities.is_withdrawn([own.certificate])
    assert own.id in third.authorities.bundle().withdrawn
    assert proven_id((await issued(third)).chain, above.authorities.bundle(), clock.now()) == CART


async def test_an_answer_of_a_tainted_authority_is_refused(middle, third, clock):
    """A replica above may sign before it has read that its authority is tainted."""
    upper, own = middle.authorities.active().signer, third.authorities.active().signer
    bundle = middle.authorities.bundle
    middle.authorities.bundle = lambda: replace(bundle(), withdrawn=(upper.id,))
    await passes(clock, third)
    assert "signed by an authority that is tainted there" in upstream_status(third).problem
    assert third.authorities.trust().stage(own.id) is Stage.TAINTED
    assert not third.authorities.held()[1:]


async def test_without_the_setting_it_says_what_is_missing(beneath, config, clock, stored):
    ca = made(config, clock, stored)
    await ca.start()
    assert "set ca.plugin_dir or upstream.server again" in ca.authorities.waiting_for


async def test_a_restart_goes_on_with_what_was_signed(beneath, config, clock, stored, own_keys, source):
    again = made(config, clock, stored, own_keys, source, signer_ttl=MONTH)
    source.away = UnavailableError("it is away")
    await again.start()
    assert again.authorities.active().signer == beneath.authorities.active().signer
    assert source.asked == 1


async def test_where_others_sign_beneath_sidecars_get_no_revocation_lists(above, beneath, clock):
    """A verifier that has the list of one authority refuses what others signed."""
    await above.bans.ban(OPERATOR, str(CART), "stolen", None)
    await passes(clock, above)
    await above.maintain_crls()
    assert not above.authorities.bundle().crls
    assert any("control planes beneath this one" in each for each in above.status().problems)
