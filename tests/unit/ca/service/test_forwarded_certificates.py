"""`x-forwarded-client-cert` as proof of an identity: from whom, and in which form."""

from ipaddress import ip_network

import pytest

from app.ca.service.forwarded_certificates import ForwardedCertificates
from app.core.errors import UnauthenticatedError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal

CART = "spiffe://example.org/ns/shop/sa/cart"
GOOD = f'By=spiffe://example.org/gateway;Hash=abc;Subject="CN=x,O=y;URI=spiffe://example.org/admin";URI={CART}'
GATEWAY = "10.1.2.3"


@pytest.fixture
def attestor():
    networks = [ip_network("10.1.0.0/16"), ip_network("2001:db8::/32")]
    return ForwardedCertificates(TrustDomain("example.org"), networks)


def evidence(*forwarded, host=GATEWAY):
    return Evidence(None, forwarded=forwarded, host=host)


async def reason_of(call):
    with pytest.raises(UnauthenticatedError) as refusal:
        await call
    return refusal.value.reason


@pytest.mark.parametrize("header", [GOOD, f"URI={CART}", f'uri="{CART}"', f"Cert=a;URI={CART};DNS=admin"])
async def test_a_gateway_passes_on_whom_it_verified(attestor, header):
    assert await attestor.attest(evidence(header)) == Principal(Credential.FORWARDED, SpiffeId.parse(CART))


@pytest.mark.parametrize("host", ["2001:db8::7", "10.1.255.255"])
async def test_from_each_network_that_is_set(attestor, host):
    assert await attestor.attest(evidence(GOOD, host=host))


@pytest.mark.parametrize(
    "host", ["10.2.0.1", "2001:db9::1", "127.0.0.1", "::1", "unix", "", "10.1.2.3.evil", "::ffff:10.1.2.3"]
)
async def test_nobody_else_is_believed(attestor, host):
    assert await reason_of(attestor.attest(evidence(GOOD, host=host))) == "xfcc_untrusted"


async def test_without_the_header_it_is_left_to_others(attestor):
    assert await attestor.attest(evidence()) is None
    assert await attestor.attest(Evidence("token", host=GATEWAY)) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "URI=",
        "Hash=abc",
        "DNS=cart.shop",
        'Subject="CN=spiffe://example.org/ns/shop/sa/cart"',
        f"{GOOD},{GOOD}",
        f"URI={CART},By=x",
        f"URI={CART};URI=spiffe://example.org/ns/shop/sa/admin",
        f"URI={CART};URI={CART}",
        f'URI="{CART}',
        f"URI={CART}%00",
        f"URI={CART}/",
        "URI=https://example.org/ns/shop/sa/cart",
        "URI=" + "x" * 20_000,
    ],
)
async def test_what_names_no_single_peer_is_refused(attestor, header):
    assert await reason_of(attestor.attest(evidence(header))) == "xfcc_malformed"


async def test_two_headers_are_refused(attestor):
    assert await reason_of(attestor.attest(evidence(GOOD, GOOD))) == "xfcc_malformed"


async def test_a_peer_of_another_trust_domain_is_refused(attestor):
    assert await reason_of(attestor.attest(evidence("URI=spiffe://other/ns/shop/sa/cart"))) == "xfcc_foreign"
