"""The CA's part of the admin API, as its clients see it."""

import base64
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import KeyAlgorithm, SigningRequest, Surface
from app.ca.rules.authority import authority_request
from app.ca.rules.profile import authority_id
from app.main.routes import ca_rows
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from app.transport.rest.pages import encode_cursor
from app.transport.rest.routes import Access
from tests.assets.certificates import pem
from tests.assets.csrs import csr
from tests.fakes.admin_api import admin_client

CART = "spiffe://example.org/ns/shop/sa/cart"
MISSING = "0" * 32


@pytest.fixture
async def client(ca, tmp_path):
    async with admin_client(ca_rows(ca), tmp_path / "admin.token") as client:
        yield client


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def faults(answer):
    return [violation["path"] for violation in problem(answer, 400)["violations"]]


async def test_every_endpoint_asks_for_the_token(ca, tmp_path):
    async with admin_client(ca_rows(ca), tmp_path / "admin.token", token=None) as stranger:
        for route in [route for route in ca_rows(ca) if route.access is not Access.PUBLIC]:
            path = re.sub("{[^}]*}", MISSING, route.path)
            problem(await stranger.request(route.method, path), 401)


async def test_the_state_of_the_ca(client, ca):
    answer = (await client.get("/v1/ca")).json()
    assert answer["trust_domain"] == "example.org"
    assert answer["ready"]
    assert answer["waiting_for"] is None
    assert answer["problems"] == []
    assert answer["signer_id"] == ca.authorities.active().signer.id
    assert answer["root_key_held"]
    assert (answer["default_svid_ttl_seconds"], answer["max_svid_ttl_seconds"]) == (86400, 86400)


async def test_the_authorities_are_shown_without_their_keys(client, ca):
    answer = await client.get("/v1/ca/authorities")
    (root,), (signer,) = answer.json()["roots"], answer.json()["signers"]
    x509.load_pem_x509_certificate(signer["certificate"].encode()).verify_directly_issued_by(
        x509.load_pem_x509_certificate(root["certificate"].encode())
    )
    assert "PRIVATE" not in answer.text


async def test_a_root_is_prepared_activated_tainted_and_revoked(client, ca):
    first = ca.authorities.status().root_id
    prepared = (await client.post("/v1/ca/authorities")).json()
    assert prepared["stage"] == "prepared"
    path = f"/v1/ca/authorities/{prepared['id']}"
    assert (await client.post(f"{path}/activate", json={"force": True})).json()["stage"] == "active"
    assert (await client.post(f"/v1/ca/authorities/{first}/taint")).json()["stage"] == "tainted"
    await ca.maintain()
    assert (await client.post(f"/v1/ca/authorities/{first}/revoke")).json()["stage"] == "revoked"
    roots = (await client.get("/v1/ca/authorities")).json()["roots"]
    assert [(root["id"], root["stage"]) for root in roots] == [(first, "revoked"), (prepared["id"], "active")]
    assert (await client.get("/v1/bundle")).text == prepared["certificate"]


async def test_changes_in_the_wrong_order_are_refused_with_the_reason(client, ca):
    path = f"/v1/ca/authorities/{ca.authorities.status().root_id}"
    for change, reason in (("activate", "active already"), ("taint", "activate that first"), ("revoke", "is active")):
        assert reason in problem(await client.post(f"{path}/{change}"), 409)["detail"]
        problem(await client.post(f"/v1/ca/authorities/{'0' * 40}/{change}"), 404)


async def test_a_tainted_signing_authority_is_shown_beside_its_successor(client, ca):
    signer = ca.authorities.active().signer.id
    assert (await client.post(f"/v1/ca/authorities/{signer}/taint")).json()["stage"] == "tainted"
    signers = (await client.get("/v1/ca/authorities")).json()["signers"]
    assert {each["stage"] for each in signers} == {"tainted", "active"}
    problem(await client.post(f"/v1/ca/authorities/{signer}/revoke"), 404)


@pytest.mark.parametrize(
    "accept",
    ["*/*", "text/html", "application/pem-certificate-chain", "application/json;q=0", "application/json;q=x", ""],
)
async def test_the_bundle_is_pem_unless_json_is_preferred(client, ca, accept):
    answer = await client.get("/v1/bundle", headers={"accept": accept})
    assert answer.headers["content-type"] == "application/pem-certificate-chain"
    assert answer.text == "".join(ca.authorities.bundle().roots)
    assert answer.headers["etag"] == '"1"'


@pytest.mark.parametrize(
    "accept",
    ["application/json", "application/pem-certificate-chain;q=0.5, application/json;q=0.9", "APPLICATION/JSON"],
)
async def test_the_bundle_as_a_spiffe_document(client, ca, accept):
    answer = (await client.get("/v1/bundle", headers={"accept": accept})).json()
    assert answer["spiffe_sequence"] == 1
    assert answer["spiffe_refresh_hint"] == 300
    (key,) = answer["keys"]
    root = x509.load_pem_x509_certificate(ca.authorities.bundle().roots[0].encode())
    assert key["use"] == "x509-svid"
    assert "kid" not in key
    assert [base64.b64decode(der) for der in key["x5c"]] == [root.public_bytes(Encoding.DER)]
    numbers = root.public_key().public_numbers()
    assert (key["kty"], key["crv"]) == ("EC", "P-256")
    assert int.from_bytes(base64.urlsafe_b64decode(key["x"] + "=")) == numbers.x
    assert int.from_bytes(base64.urlsafe_b64decode(key["y"] + "=")) == numbers.y


async def test_an_entry_is_made_read_changed_and_removed(client):
    said = {"spiffe_id": CART, "x509_svid_ttl_seconds": 60, "dns_names": ["cart.shop"], "hint": "main"}
    made = await client.post("/v1/entries", json=said)
    assert made.status_code == 201
    assert {**made.json(), **said} == made.json()
    location, tag = made.headers["location"], made.headers["etag"]
    read = await client.get(location)
    assert read.json() == made.json()
    assert read.headers["etag"] == tag == '"1"'
    changed = await client.put(location, json={"spiffe_id": CART}, headers={"if-match": tag})
    assert changed.status_code == 200
    assert changed.json()["x509_svid_ttl_seconds"] is None
    assert changed.headers["etag"] == '"2"'
    problem(await client.put(location, json={"spiffe_id": CART}, headers={"if-match": tag}), 412)
    problem(await client.delete(location, headers={"if-match": tag}), 412)
    assert (await client.delete(location, headers={"if-match": '"2"'})).status_code == 204
    problem(await client.get(location), 404)


async def test_a_second_entry_for_an_identity_is_a_conflict(client):
    await client.post("/v1/entries", json={"spiffe_id": CART})
    assert CART in problem(await client.post("/v1/entries", json={"spiffe_id": CART}), 409)["detail"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "spiffe_id"),
        ({"spiffe_id": "nonsense"}, "spiffe_id"),
        ({"spiffe_id": "spiffe://other.org/a"}, "spiffe_id"),
        ({"spiffe_id": 7}, "spiffe_id"),
        ({"spiffe_id": CART, "selectors": []}, "selectors"),
        ({"spiffe_id": CART, "x509_svid_ttl_seconds": "60"}, "x509_svid_ttl_seconds"),
        ({"spiffe_id": CART, "x509_svid_ttl_seconds": 0}, "x509_svid_ttl_seconds"),
        ({"spiffe_id": CART, "x509_svid_ttl_seconds": 10**30}, "x509_svid_ttl_seconds"),
        ({"spiffe_id": CART, "x509_svid_ttl_seconds": True}, "x509_svid_ttl_seconds"),
        ({"spiffe_id": CART, "dns_names": ["a", "-"]}, "dns_names[1]"),
        ({"spiffe_id": CART, "dns_names": "a"}, "dns_names"),
        ({"spiffe_id": CART, "hint": "\u0000"}, "hint"),
    ],
)
async def test_an_entry_that_is_wrong_is_refused_with_the_field(client, body, path):
    assert faults(await client.post("/v1/entries", json=body)) == [path]
    assert (await client.get("/v1/entries")).json()["items"] == []


async def test_entries_are_listed_in_pages_and_found_by_identity(client):
    names = [f"spiffe://example.org/{letter}" for letter in "abcde"]
    for name in reversed(names):
        await client.post("/v1/entries", json={"spiffe_id": name})
    seen, cursor = [], {"limit": 2}
    while cursor:
        page = (await client.get("/v1/entries", params=cursor)).json()
        seen += [item["spiffe_id"] for item in page["items"]]
        cursor = {"limit": 2, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
    assert seen == names
    (found,) = (await client.get("/v1/entries", params={"spiffe_id": names[3]})).json()["items"]
    assert found["spiffe_id"] == names[3]
    assert (await client.get("/v1/entries", params={"spiffe_id": CART})).json()["items"] == []


async def test_a_join_token_is_shown_once_and_then_without_its_secret(client, ca):
    made = await client.post("/v1/join-tokens", json={"spiffe_id": CART, "ttl_seconds": 60})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.json()["token"]
    assert str((await ca.join_tokens.attest(Evidence(secret))).spiffe_id) == CART
    listed = await client.get("/v1/join-tokens")
    (item,) = listed.json()["items"]
    assert item == {key: value for key, value in made.json().items() if key != "token"}
    assert secret not in listed.text
    assert (await client.delete(f"/v1/join-tokens/{item['id']}")).status_code == 204
    problem(await client.delete(f"/v1/join-tokens/{item['id']}"), 404)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"spiffe_id": "spiffe://example.org"}, "spiffe_id"),
        ({"spiffe_id": CART, "ttl_seconds": 86401}, "ttl_seconds"),
        ({"spiffe_id": CART, "ttl_seconds": 10**30}, "ttl_seconds"),
        ({"spiffe_id": CART, "token": "mine"}, "token"),
    ],
)
async def test_a_join_token_that_is_wrong_is_refused_with_the_field(client, body, path):
    assert faults(await client.post("/v1/join-tokens", json=body)) == [path]


async def test_issued_svids_are_listed_newest_first_in_pages_and_by_identity(client, ca):
    for name in ("a", "b", "a", "b", "a"):
        caller = Principal(Credential.SVID, SpiffeId.parse(f"spiffe://example.org/{name}"))
        await ca.issuance.issue(caller, csr(), 0, Surface.ISTIO_CA)
    first = (await client.get("/v1/svids", params={"limit": 3})).json()
    rest = (await client.get("/v1/svids", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [item["spiffe_id"][-1] for item in first["items"] + rest["items"]] == ["a", "b", "a", "b", "a"]
    assert rest["next_cursor"] is None
    only = (await client.get("/v1/svids", params={"spiffe_id": "spiffe://example.org/b"})).json()["items"]
    assert [item["surface"] for item in only] == ["istio_ca", "istio_ca"]


@pytest.mark.parametrize("entry_id", ["x", "%00", "0" * 31 + "G", "0" * 33])
async def test_an_id_that_is_none_of_ours_is_not_found(client, entry_id):
    for method in ("GET", "DELETE"):
        problem(await client.request(method, f"/v1/entries/{entry_id}"), 404)
    problem(await client.delete(f"/v1/join-tokens/{entry_id}"), 404)


@pytest.mark.parametrize("path", ["/v1/entries", "/v1/join-tokens", "/v1/svids"])
@pytest.mark.parametrize("key", ["\x00", "x'; --", "-1", "٣", "9" * 30, ""])
async def test_a_cursor_that_is_none_of_ours_is_refused(client, path, key):
    assert faults(await client.get(path, params={"cursor": encode_cursor(key)})) == ["cursor"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1e9"])
async def test_a_page_size_out_of_bounds_is_refused(client, limit):
    problem(await client.get("/v1/svids", params={"limit": limit}), 400)


async def test_every_change_is_recorded_with_the_caller_of_its_request(client, transactions):
    headers = {"X-Request-Id": "request-7"}
    entry = (await client.post("/v1/entries", json={"spiffe_id": CART}, headers=headers)).json()
    path = f"/v1/entries/{entry['id']}"
    await client.put(path, json={"spiffe_id": CART, "x509_svid_ttl_seconds": 60}, headers=headers)
    await client.delete(path, headers=headers)
    token = (await client.post("/v1/join-tokens", json={"spiffe_id": CART}, headers=headers)).json()
    await client.delete(f"/v1/join-tokens/{token['id']}", headers=headers)
    audited = transactions.state.audited
    assert [record.action for record in audited] == [
        "entry.create",
        "entry.replace",
        "entry.delete",
        "join_token.create",
        "join_token.delete",
    ]
    assert {(record.principal, record.request_id) for record in audited} == {("admin_token", "request-7")}
    assert audited[0].after == entry
    assert token["token"] not in repr(audited)


async def test_a_signing_request_that_waits_is_listed_approved_and_signed(client, ca, transactions, clock):
    key = await MemoryKeyStore().create(KeyAlgorithm.P256)
    csr_ = pem(await key.sign(authority_request()))
    request = SigningRequest(authority_id(key.public_key), ca.authorities.status().root_id, csr_, clock.now())
    transactions.state.unapproved[request.id] = request
    await ca.maintain()
    (listed,) = (await client.get("/v1/ca/signing-requests")).json()
    assert listed == {"id": request.id, "root_id": request.root_id, "created_at": "2026-01-01T12:00:00Z"}
    approved = await client.post(f"/v1/ca/signing-requests/{request.id}/approve")
    assert (approved.status_code, approved.json()) == (200, listed)
    problem(await client.post(f"/v1/ca/signing-requests/{request.id}/approve"), 404)
    await ca.maintain()
    assert (await client.get("/v1/ca/signing-requests")).json() == []
    assert request.id in {signer.id for signer in ca.authorities.status().signers}
    assert [record.action for record in transactions.state.audited] == ["signing_request.approve"]
