"""Bans in the admin API: how ids are spelled in paths, what is answered, what is refused."""

from urllib.parse import quote

import pytest
from cryptography import x509

from app.ca.model import Surface
from app.ca.rest.bans import BanRest
from app.main.routes import ban_rows
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr
from tests.fakes.admin_api import admin_client

CART = "spiffe://example.org/ns/shop/sa/cart"
SHOP = "spiffe://example.org/ns/shop/*"
WHY = {"reason": "stolen key"}


@pytest.fixture
async def client(ca, tmp_path):
    async with admin_client(ban_rows(BanRest(ca.bans, ca.crls)), tmp_path / "admin.token") as client:
        yield client


def path(subject):
    return f"/v1/identities/{quote(subject, safe='')}/ban"


async def banned(client):
    return [item["subject"] for item in (await client.get("/v1/bans")).json()["items"]]


async def test_every_endpoint_asks_for_the_token(ca, tmp_path):
    async with admin_client(ban_rows(BanRest(ca.bans, ca.crls)), tmp_path / "admin.token", token=None) as stranger:
        for method, target in [
            ("GET", "/v1/bans"),
            ("PUT", path(CART)),
            ("DELETE", path(CART)),
            ("PUT", "/v1/svids/ab/revocation"),
            ("DELETE", "/v1/svids/ab/revocation"),
        ]:
            assert (await stranger.request(method, target, json=WHY)).status_code == 401


@pytest.mark.parametrize("subject", [CART, SHOP, "spiffe://example.org/ban", "spiffe://example.org/ns/ban/*"])
@pytest.mark.parametrize("spell", [path, lambda subject: f"/v1/identities/{subject}/ban"])
async def test_an_identity_is_banned_and_unbanned_under_its_id_encoded_or_not(client, subject, spell):
    answer = await client.put(spell(subject), json=WHY)
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("subject", "reason", "expires_at")} == {
        "subject": subject,
        "reason": "stolen key",
        "expires_at": None,
    }
    assert await banned(client) == [subject]
    assert (await client.delete(spell(subject))).status_code == 204
    assert await banned(client) == []
    assert (await client.delete(spell(subject))).status_code == 404


async def test_a_second_ban_replaces_the_first_and_can_have_an_end(client, clock):
    await client.put(path(CART), json=WHY)
    answer = (await client.put(path(CART), json={"reason": "again", "ttl_seconds": 60})).json()
    assert (answer["created_at"], answer["expires_at"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z")
    assert await banned(client) == [CART]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/identities/spiffe%253A%252F%252Fexample.org%252Fns%252Fshop%252Fsa%252Fcart/ban",  # encoded twice
        "/v1/identities/spiffe://example.org/ns/shop/sa/cart%00/ban",
        "/v1/identities/spiffe://example.org/ns/shop/sa/cart/%2E%2E/cart/ban",
        "/v1/identities/spiffe://example.org/ns/shop/sa/%2A/x/ban",
        "/v1/identities/spiffe://example.org/ns/shop/%2A%2A/ban",
        "/v1/identities/spiffe://example.org/ns/sh%C3%B6p/ban",
        "/v1/identities/spiffe:%2Fexample.org/ns/shop/ban",
        "/v1/identities/SPIFFE://example.org/ns/shop/sa/cart/ban",
        "/v1/identities/spiffe://example.org:443/ns/shop/sa/cart/ban",
        "/v1/identities/spiffe://example.org/meshward/%2A/ban",
        "/v1/identities/%2A/ban",
        "/v1/identities/" + quote("spiffe://example.org/" + "a" * 2049, safe="") + "/ban",
    ],
)
async def test_another_spelling_is_refused_and_bans_nothing(client, target):
    for method in ("PUT", "DELETE"):
        answer = await client.request(method, target, json=WHY)
        assert answer.status_code in {400, 404}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert await banned(client) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": "x" * 257},
        {"reason": 7},
        {"reason": "why", "ttl_seconds": 0},
        {"reason": "why", "ttl_seconds": 2**31},
        {"reason": "why", "ttl_seconds": 400_000_000},
        {"reason": "why", "until": "tomorrow"},
    ],
)
async def test_a_body_that_is_not_one_is_refused(client, body):
    assert (await client.put(path(CART), json=body)).status_code == 400
    assert await banned(client) == []


async def test_a_certificate_is_revoked_and_accepted_again(client, ca):
    holder = Principal(Credential.SVID, SpiffeId.parse(CART))
    await ca.issuance.issue(holder, csr(), 0, Surface.ISTIO_CA)
    (svid,) = await ca.records.page(None, 1)
    answer = await client.put(f"/v1/svids/{svid.serial.upper()}/revocation", json=WHY)
    assert answer.status_code == 200
    assert answer.json()["subject"] == svid.serial
    assert answer.json()["expires_at"] == "2026-01-02T12:00:00Z"
    assert ca.bans.refusal(holder.spiffe_id.principal, svid.serial)
    assert (await client.delete(f"/v1/svids/{svid.serial}/revocation")).status_code == 204
    assert await banned(client) == []
    assert (await client.put("/v1/svids/ab/revocation", json=WHY)).status_code == 404
    assert (await client.put("/v1/svids/xyz/revocation", json=WHY)).status_code == 400
    assert (
        await client.put(f"/v1/svids/{svid.serial}/revocation", json={"reason": "x", "ttl_seconds": 1})
    ).status_code == 400


async def test_the_list_comes_in_pages(client):
    subjects = [f"spiffe://example.org/ns/shop/sa/w{number}" for number in range(5)]
    for subject in reversed(subjects):
        await client.put(path(subject), json=WHY)
    seen, cursor = [], None
    while True:
        page = (await client.get("/v1/bans", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        seen += [item["subject"] for item in page["items"]]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert seen == subjects


async def test_revocation_lists_are_served_without_the_token(ca, tmp_path):
    await ca.crls.maintain()
    signer = ca.authorities.active().signer.id
    async with admin_client(ban_rows(BanRest(ca.bans, ca.crls)), tmp_path / "admin.token", token=None) as stranger:
        answer = await stranger.get(f"/crl/{signer}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pkix-crl")
        assert answer.headers["etag"] == '"1"'
        assert x509.load_der_x509_crl(answer.content).is_signature_valid(ca.authorities.active().key.public_key)
        for unknown in (ca.authorities.status().root_id, "x" * 64, "%2E%2E", f"{signer}%00"):
            assert (await stranger.get(f"/crl/{unknown}")).status_code == 404
        assert (await stranger.get(f"/crl/{'x' * 65}")).status_code == 400
        assert (await stranger.put(f"/crl/{signer}")).status_code == 405
