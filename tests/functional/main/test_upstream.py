"""A control plane beneath another: its authority is certified there, and trust is handed on."""

import asyncio
import json
import shutil
import subprocess
from urllib.parse import quote

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from app.main.rpcs import DOWNSTREAMS
from app.proto.meshward.downstream_pb2 import SignAuthorityRequest, SignAuthorityResponse
from tests.assets.certificates import new_key
from tests.assets.csrs import csr_for, tampered
from tests.support.callers import CALL_SECONDS, CART, code_of, join, tls_channel, unary
from tests.support.serving import eventually, eventually_async

BENEATH = "spiffe://cluster.local/ns/mesh/sa/region-a"
DOWNSTREAM = json.dumps([{"spiffe_id": BENEATH, "max_ttl": "30d", "max_path_length": 1}])
# How SVIDs of a day fit into signing certificates of thirty.
LIFE = {"ca_signer_ttl": "30d"}


@pytest.fixture
def above(serving):
    return serving.start("above", ca_downstreams=DOWNSTREAM)


@pytest.fixture
def beneath(serving, tmp_path, above):
    """Starts a control plane beneath another one."""

    def start(name="beneath", upstream=above, spiffe_id=BENEATH, launch=serving.start, **settings):
        bundle, token = tmp_path / f"{name}.bundle.pem", tmp_path / f"{name}.token"
        bundle.write_bytes(upstream.roots)
        token.write_text(upstream.join_token(spiffe_id))
        return launch(
            name,
            upstream_server=f"localhost:{upstream.tls_port}",
            upstream_trust_bundle=bundle,
            upstream_join_token_file=token,
            **LIFE | settings,
        )

    return start


def roots_of(server):
    return {each["id"]: each["stage"] for each in server.get("/v1/ca/authorities")["roots"]}


def kept(text):
    return {f"-----BEGIN{part}".strip() for part in text.decode().split("-----BEGIN")[1:]}


def key_id_of(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def limit(certificate):
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


async def sign(server, identity=None, key=None, csr=None, seconds=0):
    call_request = SignAuthorityRequest(csr=csr or csr_for(key or new_key()), validity_seconds=seconds)
    async with tls_channel(server, identity) as channel:
        call = unary(channel, DOWNSTREAMS, "SignAuthority", SignAuthorityRequest, SignAuthorityResponse)
        return await call(call_request, timeout=CALL_SECONDS)


async def test_its_svids_are_good_under_the_root_above(above, beneath, tmp_path):
    server = beneath()
    assert server.roots == above.roots
    identity = await join(server)
    leaf, signer = x509.load_pem_x509_certificates(identity.chain)
    assert limit(signer) == 1
    assert (signer.not_valid_after_utc - signer.not_valid_before_utc).days == 30
    async with tls_channel(above, identity) as channel:  # whoever trusts the root accepts it
        await channel.channel_ready()
    if openssl := shutil.which("openssl"):
        (tmp_path / "svid.pem").write_bytes(identity.chain)
        (tmp_path / "roots.pem").write_bytes(above.roots)
        command = [openssl, "verify", "-x509_strict", "-CAfile", "roots.pem", "-untrusted", "svid.pem", "svid.pem"]
        verified = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, check=True, capture_output=True)
        assert verified.stdout == b"svid.pem: OK\n"
    found = server.get("/v1/ca")["upstream"]
    assert (found["spiffe_id"], found["problem"]) == (BENEATH, None)
    assert server.metrics()['meshward_ca_authority_expiry_timestamp_seconds{authority="upstream"}'] > 1e9
    assert leaf.issuer == signer.subject


async def test_what_was_signed_is_audited_and_in_the_log_above(above, beneath):
    server = beneath()
    signer_id = server.get("/v1/ca")["signer_id"]
    (record,) = [each for each in above.items("/v1/audit") if each["action"] == "downstream.sign"]
    assert (record["target"], record["principal"]) == (BENEATH, BENEATH)
    assert (record["after"]["id"], record["after"]["path_length"]) == (signer_id, 1)
    entry = eventually(lambda: proof(above, signer_id), "the log to be signed")
    fields = json.loads(entry["leaf"]["text"])
    assert (fields["kind"], fields["holder"]) == ("downstream", BENEATH)


def proof(server, subject):
    answer = server.ask("GET", f"/v1/log/inclusion?subject={subject}")
    return answer.json() if answer.is_success else None


async def test_a_third_level_is_as_deep_as_the_first_allows(above, beneath):
    second = beneath("second", ca_downstreams=DOWNSTREAM)
    third = beneath("third", upstream=second, ca_downstreams=DOWNSTREAM)
    identity = await join(third)
    _, lowest, middle = x509.load_pem_x509_certificates(identity.chain)
    assert (limit(lowest), limit(middle)) == (0, 1)
    async with tls_channel(above, identity) as channel:
        await channel.channel_ready()
    named = await join(third, BENEATH)
    assert await code_of(sign(third, named)) is grpc.StatusCode.UNAVAILABLE  # there is no room for a fourth


async def test_an_authority_under_one_that_is_tainted_at_the_top_is_replaced(above, beneath):
    second = beneath("second", ca_downstreams=DOWNSTREAM)
    third = beneath("third", upstream=second)
    upper, lower = (each.get("/v1/ca")["signer_id"] for each in (second, third))
    assert above.ask("POST", f"/v1/ca/authorities/{upper}/taint", json={}).is_success
    eventually(lambda: third.get("/v1/ca")["signer_id"] not in {lower, None}, "another authority at the third level")
    _, lowest, middle = x509.load_pem_x509_certificates((await join(third)).chain)
    assert upper not in {key_id_of(lowest), key_id_of(middle)}
    stages = {each["id"]: each["stage"] for each in third.get("/v1/ca/authorities")["signers"]}
    assert stages[lower] == "tainted"


async def test_it_goes_on_after_a_restart_without_the_upstream(above, beneath, serving, tmp_path):
    server = beneath()
    signer = server.get("/v1/ca")["signer_id"]
    assert server.stop() == 0
    above.stop()
    again = serving.start(
        "beneath",
        upstream_server=f"localhost:{above.tls_port}",
        upstream_trust_bundle=tmp_path / "beneath.bundle.pem",
        **LIFE,
    )
    assert again.get("/v1/ca")["signer_id"] == signer
    await join(again)


async def test_a_rotation_above_is_followed_to_its_end(above, beneath):
    server = beneath()
    (first,) = roots_of(above)
    second = above.ask("POST", "/v1/ca/authorities", json={}).json()["id"]
    eventually(lambda: roots_of(server).get(second) == "verify-only", "the new root to be trusted beneath")
    eventually(lambda: kept(server.roots) == kept(above.roots), "the same bundle beneath")
    above.ask("POST", f"/v1/ca/authorities/{second}/activate", json={})
    eventually(lambda: roots_of(above)[second] == "active", "the root to be active above")
    above.ask("POST", f"/v1/ca/authorities/{first}/taint", json={})
    eventually(lambda: roots_of(server)[second] == "active", "the new root to be active beneath")
    # Refused until the one beneath has renewed the SVID that it is known by.
    revoke = f"/v1/ca/authorities/{first}/revoke"
    eventually(lambda: above.ask("POST", revoke, json={}).is_success, "the old root to be revoked above")
    eventually(lambda: roots_of(server)[first] == "revoked", "the old root to be gone beneath")
    eventually(lambda: kept(server.roots) == kept(above.roots), "the same bundle beneath")
    identity = await join(server)
    async with tls_channel(above, identity) as channel:
        await channel.channel_ready()


async def test_a_tainted_authority_is_replaced_beneath(above, beneath):
    server = beneath()
    first = server.get("/v1/ca")["signer_id"]
    assert above.ask("POST", f"/v1/ca/authorities/{first}/taint", json={}).is_success
    eventually(lambda: server.get("/v1/ca")["signer_id"] != first, "another authority")

    async def is_issued():
        return await join(server)

    assert await eventually_async(is_issued, "an SVID")

    def stage():
        return next(each["stage"] for each in server.get("/v1/ca/authorities")["signers"] if each["id"] == first)

    eventually(lambda: stage() == "tainted", "what it signed to be replaced")


async def test_who_is_not_named_gets_none(above, beneath, serving):
    stranger = "spiffe://cluster.local/ns/mesh/sa/region-b"
    server = beneath("stranger", spiffe_id=stranger, launch=serving.launch)
    assert server.wait() != 0
    assert f"{stranger} may not have a signing certificate: it is not in ca.downstreams" in server.log_text
    refusal = next(each for each in above.events("request_refused") if "SignAuthority" in each.get("method", ""))
    assert (refusal["caller"], bool(refusal["error_id"])) == (stranger, True)


async def test_requests_that_are_not_good_are_refused(above):
    named, other = await join(above, BENEATH), await join(above, CART)
    assert await code_of(sign(above, other)) is grpc.StatusCode.PERMISSION_DENIED
    assert await code_of(sign(above)) is grpc.StatusCode.UNAUTHENTICATED
    for csr in ("", "x", tampered(csr_for(new_key())), csr_for(ec.generate_private_key(ec.SECP256K1()))):
        assert await code_of(sign(above, named, csr=csr or " ")) is grpc.StatusCode.INVALID_ARGUMENT
    answer = await sign(above, named, ec.generate_private_key(ec.SECP384R1()), seconds=3600)
    certificate = x509.load_pem_x509_certificate(answer.cert_chain[0].encode())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() <= 3600 + 600
    longest = await sign(above, named, seconds=2**40)
    certificate = x509.load_pem_x509_certificate(longest.cert_chain[0].encode())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30


async def test_a_ban_above_stops_the_next_certificate(above):
    named = await join(above, BENEATH)
    path = f"/v1/identities/{quote(BENEATH, safe='')}/ban"
    assert above.ask("PUT", path, json={"reason": "stolen"}).is_success

    async def is_refused():
        return await code_of(sign(above, named)) in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}

    await eventually_async(is_refused, "the ban")
