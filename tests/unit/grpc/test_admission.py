"""Admission: peers, certificates, attestors, rate limits, the table."""

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.core.errors import PermissionDeniedError, ResourceExhaustedError, UnauthenticatedError, UnavailableError
from app.core.rates import RateLimit
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.x509_svid import parse_certificate
from app.transport.grpc.admission import (
    FAILURES_OF_ADDRESS,
    FAILURES_OF_CONNECTION,
    Authenticator,
    OpenStreams,
    RateLimiter,
)
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import read_peer
from app.transport.grpc.routes import Authentication, route_table
from tests.assets.certificates import CA_TRUE, SERVER_AUTH, MeshCa, new_key, pem, purposes, usage
from tests.fakes.attestor import SecretAttestor
from tests.fakes.bans import ListedBans
from tests.fakes.clock import ManualClock
from tests.fakes.context import call_context
from tests.fakes.echo import EchoService, echo_rpcs

KEY = new_key()
CLOCK = ManualClock()
SIGNER = MeshCa(CLOCK.now(), "cluster.local").signer
CART = "spiffe://cluster.local/ns/shop/sa/cart"


def certificate(*uris, days=1, **changed):
    """A leaf of the mesh's CA, PEM."""
    start, end = CLOCK.now() - timedelta(days=2), CLOCK.now() + timedelta(days=days)
    return pem(SIGNER.leaf(KEY.public_key(), start, end, uris, **changed))


def serial_of(shown):
    return f"{parse_certificate(shown).serial_number:032x}"


def scope_of(port, host="203.0.113.7"):
    return {"client": (host, port), "extensions": {"tls": {"client_cert_chain": ()}}}


def peer(*, host="203.0.113.7", presented=None, tls=True, error=None):
    shown = {"client_cert_chain": (presented,) if presented else (), "client_cert_error": error}
    return read_peer({"client": (host, 4711), "extensions": {"tls": shown} if tls else {}})


BY_TOKEN = Principal(Credential.JOIN_TOKEN, SpiffeId.parse(CART), "1")


BY_SECRET = (SecretAttestor("good", BY_TOKEN),)


def authenticator(attestors=BY_SECRET, **options):
    return Authenticator(trust_domain=TrustDomain("cluster.local"), clock=CLOCK, attestors=attestors, **options)


def call_with(authorization):
    return call_context(peer="unix", headers=[(b"authorization", authorization.encode())])


def test_an_svid_authenticates_its_spiffe_id_for_every_row():
    for demand in (Authentication.MESH, Authentication.IDENTITY):
        shown = certificate(CART)
        caller = authenticator().by_connection(demand, peer(presented=shown))
        cart = SpiffeId.parse(CART)
        assert caller == Principal(Credential.SVID, cart, address="203.0.113.7:4711", serial=serial_of(shown))


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        (certificate(), "0 URI names"),
        (certificate(CART, "spiffe://cluster.local/ns/other/sa/x"), "2 URI names"),
        (certificate("spiffe://cluster.local"), "no path"),
        (certificate("https://cluster.local/ns/shop/sa/cart"), "must start with spiffe://"),
        (certificate("spiffe://cluster.local/ns/shop/sa/cart/"), "segment"),
        (certificate("spiffe://other.org/ns/shop/sa/cart"), "trust domain"),
        (certificate(CART, constraints=CA_TRUE), "cA is true"),
        (certificate(CART, usage=(usage("digital_signature", "key_cert_sign"), True)), "key usage"),
        (certificate(CART, purposes=(purposes(SERVER_AUTH), False)), "clientAuth"),
        (certificate(CART, usage=None), "key usage"),
        (certificate(CART, days=-1), "expired"),
        ("not a certificate", "not one PEM block"),
        ("x" * 40_000, "longer than"),
    ],
)
def test_a_certificate_that_is_not_a_leaf_svid_of_the_trust_domain_is_refused_even_from_loopback(presented, reason):
    for demand in (Authentication.MESH, Authentication.IDENTITY):
        with pytest.raises(UnauthenticatedError, match=reason):
            authenticator().by_connection(demand, peer(host="127.0.0.1", presented=presented))


def test_a_certificate_that_the_server_did_not_verify_is_ignored():
    with pytest.raises(UnauthenticatedError):
        authenticator().by_connection(Authentication.MESH, peer(presented=certificate(CART), error="unknown ca"))


def test_an_svid_that_expires_on_an_open_connection_is_refused():
    clock = ManualClock()
    gate = Authenticator(trust_domain=TrustDomain("cluster.local"), clock=clock, attestors=())
    connected = peer(presented=certificate(CART))
    assert gate.by_connection(Authentication.MESH, connected)
    clock.advance(timedelta(days=1).total_seconds())
    with pytest.raises(UnauthenticatedError, match="expired"):
        gate.by_connection(Authentication.MESH, connected)


def test_plaintext_is_admitted_to_mesh_rows_only_from_loopback():
    gate = authenticator()
    assert gate.by_connection(Authentication.MESH, peer(host="127.0.0.9", tls=False))
    assert gate.by_connection(Authentication.MESH, peer(host="::1", tls=False))
    assert gate.by_connection(Authentication.MESH, read_peer({"client": None, "extensions": {}}))
    for host in ("203.0.113.7", "10.0.0.1", "127.0.0.1.evil.example", ""):
        with pytest.raises(UnauthenticatedError):
            gate.by_connection(Authentication.MESH, peer(host=host, tls=False))
    assert authenticator(trust_plaintext=True).by_connection(Authentication.MESH, peer(tls=False))


def test_tls_without_a_certificate_is_not_admitted_to_mesh_rows_even_from_loopback():
    with pytest.raises(UnauthenticatedError):
        authenticator().by_connection(Authentication.MESH, peer(host="127.0.0.1"))


def test_a_loopback_peer_has_no_identity():
    assert (
        authenticator(trust_plaintext=True).by_connection(Authentication.IDENTITY, peer(host="127.0.0.1", tls=False))
        is None
    )


@pytest.mark.parametrize(
    "value", [None, "", "good", "Basic good", "Bearer", "Bearer bad", "Bearer " + "x" * 1000, "Bearer \xff"]
)
async def test_metadata_that_is_not_a_join_token_is_refused(value):
    context = call_context() if value is None else call_with(value)
    with pytest.raises(UnauthenticatedError):
        await authenticator().attest(context)


async def test_a_join_token_authenticates_its_id_and_has_its_number():
    caller = await authenticator().attest(call_with("bearer good"))
    assert (caller.credential, caller.token_id, caller.address) == (Credential.JOIN_TOKEN, "1", "unix")


async def test_the_first_attestor_that_accepts_the_evidence_decides():
    other = Principal(Credential.JOIN_TOKEN, SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/other"), "2")
    attestors = SecretAttestor("first", other), SecretAttestor("good", BY_TOKEN), SecretAttestor("good", other)
    assert await authenticator(attestors).attest(call_with("Bearer good")) == replace(BY_TOKEN, address="unix")


async def test_a_refusal_has_the_reason_of_every_attestor():
    other = Principal(Credential.JOIN_TOKEN, SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/other"), "2")
    attestors = SecretAttestor("one", other), SecretAttestor("two", BY_TOKEN)
    with pytest.raises(UnauthenticatedError, match=r"ns/shop/sa/other; .*ns/shop/sa/cart"):
        await authenticator(attestors).attest(call_with("Bearer three"))


async def test_a_refusal_is_of_those_who_know_this_kind_of_evidence():
    jwt = SecretAttestor("jwt", BY_TOKEN, reason="jwt_expired")
    attestors = SecretAttestor("one", BY_TOKEN), jwt, SecretAttestor("two", BY_TOKEN)
    with pytest.raises(UnauthenticatedError) as refusal:
        await authenticator(attestors).attest(call_with("Bearer three"))
    assert (refusal.value.message, refusal.value.reason) == (f"not {CART}", "jwt_expired")


async def test_evidence_of_another_kind_is_left_to_the_next_attestor():
    attestors = SecretAttestor("", None), SecretAttestor("good", BY_TOKEN)
    assert await authenticator(attestors).attest(call_with("Bearer good")) == replace(BY_TOKEN, address="unix")


async def test_an_attestor_that_cannot_tell_leaves_the_evidence_to_the_next():
    away = SecretAttestor("good", BY_TOKEN, error=UnavailableError("away"))
    attestors = away, SecretAttestor("good", BY_TOKEN)
    assert await authenticator(attestors).attest(call_with("Bearer good")) == replace(BY_TOKEN, address="unix")
    with pytest.raises(UnavailableError, match="away"):
        await authenticator(attestors).attest(call_with("Bearer bad"))


async def test_the_cluster_of_a_token_is_part_of_the_evidence():
    clusters = []

    class Recorder:
        async def attest(self, evidence):
            clusters.append(evidence.cluster)

    for headers in ([(b"clusterid", b"far")], [(b"clusterid", b"far"), (b"clusterid", b"near")], []):
        with pytest.raises(UnauthenticatedError):
            await authenticator((Recorder(),)).attest(call_context(headers=headers))
    assert clusters == ["far", "far", ""]


async def test_a_certificate_that_proves_nothing_leaves_a_call_with_a_token_to_the_attestors():
    gate = authenticator()
    foreign = peer(presented=certificate("spiffe://other/ns/a/sa/b"))
    with_token = CallContext("/m", foreign, [(b"authorization", b"Bearer good")])
    assert gate.by_call(Authentication.IDENTITY, with_token) is None
    assert (await gate.attest(with_token)).spiffe_id == BY_TOKEN.spiffe_id
    without = CallContext("/m", foreign)
    for demand, call in ((Authentication.IDENTITY, without), (Authentication.MESH, with_token)):
        with pytest.raises(UnauthenticatedError) as refusal:
            gate.by_call(demand, call)
        assert refusal.value.reason == "foreign_svid"


async def test_what_a_gateway_passes_on_is_part_of_the_evidence():
    found = []

    class Recorder:
        async def attest(self, evidence):
            found.append((evidence.forwarded, evidence.host))

    headers = [(b"x-forwarded-client-cert", b"URI=a"), (b"x-forwarded-client-cert", b"URI=b")]
    with pytest.raises(UnauthenticatedError):
        await authenticator((Recorder(),)).attest(call_context(peer="10.0.0.7:40000", headers=headers))
    assert found == [(("URI=a", "URI=b"), "10.0.0.7")]


async def test_without_an_attestor_no_token_is_accepted():
    with pytest.raises(UnauthenticatedError):
        await authenticator(()).attest(call_with("Bearer good"))


def test_a_rate_limit_admits_a_burst_and_refills_with_time():
    clock = ManualClock()
    limiter, limit = RateLimiter(clock.monotonic), RateLimit(per_second=2, burst=3)
    for _ in range(3):
        limiter.admit("/m", "a", limit)
    with pytest.raises(ResourceExhaustedError, match=r"retry in 0\.500 s"):
        limiter.admit("/m", "a", limit)
    limiter.admit("/m", "b", limit)
    limiter.admit("/other", "a", limit)
    clock.advance(0.5)
    limiter.admit("/m", "a", limit)
    with pytest.raises(ResourceExhaustedError):
        limiter.admit("/m", "a", limit)
    clock.advance(3600)
    for _ in range(3):
        limiter.admit("/m", "a", limit)
    with pytest.raises(ResourceExhaustedError):
        limiter.admit("/m", "a", limit)


FAILURES = (UnauthenticatedError, ResourceExhaustedError, UnavailableError, asyncio.CancelledError)


def attempts(limiter, caller, number, error=UnauthenticatedError):
    """Let attempts fail, and count those that were made."""
    made = 0
    for _ in range(number):
        with suppress(*FAILURES), limiter.attempt(caller):
            made += 1
            if error is not None:
                raise error("no")
    return made


def test_failed_attempts_of_an_address_are_limited_together_and_each_connection_has_a_few_of_its_own():
    clock = ManualClock()
    limiter, one, other = RateLimiter(clock.monotonic), read_peer(scope_of(1)), read_peer(scope_of(2))
    of_address, of_connection = FAILURES_OF_ADDRESS.burst, FAILURES_OF_CONNECTION.burst
    assert attempts(limiter, one, 2 * of_address) == of_address + of_connection
    assert attempts(limiter, other, 2 * of_address) == of_connection
    with pytest.raises(ResourceExhaustedError, match="have failed") as refusal, limiter.attempt(other):
        pass
    assert refusal.value.retry_seconds == 1 / FAILURES_OF_CONNECTION.per_second
    assert attempts(limiter, read_peer(scope_of(1, "203.0.113.8")), 1) == 1
    clock.advance(1)
    assert attempts(limiter, one, of_address) == FAILURES_OF_ADDRESS.per_second


@pytest.mark.parametrize("outcome", [None, UnavailableError])
def test_attempts_that_succeed_or_that_we_fail_are_not_counted(outcome):
    limiter, caller = RateLimiter(ManualClock().monotonic), peer()
    number = 2 * (FAILURES_OF_ADDRESS.burst + FAILURES_OF_CONNECTION.burst)
    assert attempts(limiter, caller, number, outcome) == number


@pytest.mark.parametrize("outcome", [UnauthenticatedError, ResourceExhaustedError, asyncio.CancelledError])
def test_attempts_that_the_caller_fails_or_ends_are_counted(outcome):
    limiter, caller = RateLimiter(ManualClock().monotonic), peer()
    burst = FAILURES_OF_ADDRESS.burst + FAILURES_OF_CONNECTION.burst
    assert attempts(limiter, caller, 2 * burst, outcome) == burst


OTHER = Principal(Credential.SVID, SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/other"))
BY_SVID = Principal(Credential.SVID, SpiffeId.parse(CART))


@pytest.mark.parametrize(("caller", "other"), [(BY_SVID, OTHER), (BY_TOKEN, replace(BY_TOKEN, token_id="2"))])
async def test_open_streams_are_limited_for_each_identity_and_each_token(caller, other):
    streams = OpenStreams(per_identity=2, per_token=2)
    with streams.slot(caller), ExitStack() as second:
        second.enter_context(streams.slot(caller))
        with pytest.raises(ResourceExhaustedError, match="2 streams of"), streams.slot(caller):
            pass
        with streams.slot(other):
            pass
        second.close()
        with streams.slot(caller):
            pass


async def test_streams_of_a_token_end_when_it_was_not_used():
    streams = OpenStreams()
    with streams.slot(BY_TOKEN) as one, streams.slot(BY_TOKEN) as two, streams.slot(OTHER) as endless:
        assert streams.unsettled == {"1"}
        streams.settle("1", used=False)
        assert (one.done(), two.done(), endless.done()) == (True, True, False)
        assert streams.unsettled == frozenset()
        streams.settle("1", used=False)
    assert streams.unsettled == frozenset()


def banning(*banned):
    """The bans of these identities and serial numbers."""
    bans = ListedBans()
    bans.ban(*banned)
    return bans


def test_a_banned_caller_is_refused_for_every_row_by_its_identity_or_its_certificate():
    shown = certificate(CART)
    for banned in (SpiffeId.parse(CART).principal, serial_of(shown)):
        gate = authenticator(bans=banning(banned))
        for demand in (Authentication.MESH, Authentication.IDENTITY):
            with pytest.raises(PermissionDeniedError, match="banned"):
                gate.by_connection(demand, peer(presented=shown))
        assert gate.by_connection(Authentication.PUBLIC, peer(presented=shown))


async def test_a_banned_identity_is_refused_with_a_join_token():
    gate = authenticator(bans=banning(SpiffeId.parse(CART).principal))
    with pytest.raises(PermissionDeniedError):
        await gate.attest(call_with("Bearer good"))


async def test_open_streams_of_callers_that_are_banned_end_and_others_go_on():
    gate, streams = authenticator(bans=banning(SpiffeId.parse(CART).principal)), OpenStreams()
    anonymous = Principal(Credential.NONE, address="203.0.113.7:1")
    with (
        streams.slot(BY_TOKEN) as by_token,
        streams.slot(BY_SVID) as by_svid,
        streams.slot(OTHER) as other,
        streams.slot(anonymous),
    ):
        streams.refuse(gate.refusal)
        streams.refuse(gate.refusal)
        streams.settle("1", used=False)
        assert isinstance(by_token.result(), PermissionDeniedError)
        assert isinstance(by_svid.result(), PermissionDeniedError)
        assert not other.done()
    streams.refuse(gate.refusal)
    assert streams.unsettled == frozenset()


async def test_streams_of_a_token_that_was_used_go_on_and_are_not_asked_about_again():
    streams = OpenStreams(per_token=1)
    with streams.slot(BY_TOKEN) as ended:
        streams.settle("1", used=True)
        assert streams.unsettled == frozenset()
        assert not ended.done()
        with pytest.raises(ResourceExhaustedError), streams.slot(BY_TOKEN):
            pass


async def test_a_path_is_in_the_table_once():
    rows = echo_rpcs(EchoService())
    with pytest.raises(ValueError, match="twice"):
        route_table([*rows, rows[0]])


def test_a_peer_has_the_expiry_of_its_certificate():
    assert peer(presented=certificate(CART)).svid.not_after == datetime(2026, 1, 2, 12, tzinfo=UTC)
