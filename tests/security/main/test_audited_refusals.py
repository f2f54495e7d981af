"""Each refusal of a certificate is a line of the log, with the id that the caller gets and no more."""

import asyncio
import json
import re
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.main.rpcs import ISTIO_CA
from app.proto.istio.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.assets.csrs import csr, csr_for, tampered, with_extension_twice
from tests.assets.jwts import ISSUER, hostile, jwks, token
from tests.support.callers import CALL_SECONDS, CART, certify, join, tls_channel, unary
from tests.support.serving import Serving, eventually_async

UNAUTHENTICATED, INVALID = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
ERROR_ID = re.compile(r" \(error id ([0-9a-f]{12})\)$")
GOOD = csr()
DAYS_91 = 91 * 24 * 3600
BAD_REQUESTS = {
    "no CSR": {"csr": ""},
    "not PEM": {"csr": "nonsense"},
    "another block": {"csr": GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE")},
    "two blocks": {"csr": GOOD + csr()},
    "trailing data": {"csr": GOOD + "-----BEGIN X-----"},
    "an extension twice": {"csr": with_extension_twice()},
    "cut short": {"csr": GOOD[: len(GOOD) // 2]},
    "bad signature": {"csr": tampered(GOOD)},
    "weak key": {"csr": csr_for(rsa.generate_private_key(65537, 1024))},
    "another curve": {"csr": csr_for(ec.generate_private_key(ec.SECP256K1()))},
    "huge": {"csr": GOOD + "#" * 100_000},
    "too long a life": {"csr": GOOD, "validity_duration": DAYS_91},
    "the longest life": {"csr": GOOD, "validity_duration": 2**63 - 1},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serve")
    (directory / "jwks.json").write_bytes(jwks())
    serving = Serving(directory)
    issuers = [{"issuer": ISSUER, "jwks": str(directory / "jwks.json")}]
    yield serving.start(ca_jwt_issuers=json.dumps(issuers))
    serving.end()


async def refusal_of(call):
    """The code and the message of a refused call, and the line of the log that has its id."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call
    return refusal.value.code(), refusal.value.details() or ""


async def line_of(server, message):
    """The one line of the log about a message's id, which is written beside the answer."""
    (error_id,) = ERROR_ID.findall(message)

    async def lines():
        return [event for event in server.events("request_refused") if event.get("error_id") == error_id]

    (line,) = await eventually_async(lines, f"the line of {error_id}")
    return line


def raw(channel, metadata=(), **fields):
    call = unary(channel, ISTIO_CA, "CreateCertificate", IstioCertificateRequest, IstioCertificateResponse)
    return call(IstioCertificateRequest(**fields), timeout=CALL_SECONDS, metadata=metadata)


async def test_each_bad_request_has_its_code_and_its_line(server):
    identity = await join(server)
    async with tls_channel(server, identity) as channel:
        for name, fields in BAD_REQUESTS.items():
            code, message = await refusal_of(raw(channel, **fields))
            assert code is INVALID, name
            line = await line_of(server, message)
            assert (line["code"], line["caller"]) == ("INVALID_ARGUMENT", CART), name
            assert line["reason"] in message


async def test_each_bad_token_has_its_code_and_its_line(server):
    now = datetime.now(UTC)
    used = server.join_token(CART)
    async with tls_channel(server) as channel:
        await certify(channel, token=used)
    tokens = {name: text for name, (text, _) in hostile(now).items()}
    tokens |= {"used": used, "unknown": "nonsense", "another issuer's": token(now, iss="https://other")}
    for name, text in tokens.items():
        async with tls_channel(server) as channel:
            code, message = await refusal_of(raw(channel, [("authorization", f"Bearer {text}")], csr=GOOD))
        assert code is UNAUTHENTICATED, name
        line = await line_of(server, message)
        assert (line["code"], line["caller"]) == ("UNAUTHENTICATED", "none"), name
        assert text not in json.dumps(line)


async def test_what_the_caller_is_not_told_is_in_the_line(server):
    async with tls_channel(server, await join(server)) as channel:
        code, message = await refusal_of(certify(channel, impersonate="spiffe://cluster.local/ns/shop/sa/pay"))
    assert code is UNAUTHENTICATED
    assert ERROR_ID.sub("", message) == "authentication failed"
    line = await line_of(server, message)
    assert (line["refusal"], line["reason"]) == ("impersonation", "requested for another workload")


async def test_one_token_raced_by_fifty_is_good_for_one_and_the_others_have_their_lines(server):
    secret = server.join_token("spiffe://cluster.local/ns/shop/sa/raced")
    channels = [tls_channel(server) for _ in range(50)]
    try:
        calls = [raw(each, [("authorization", f"Bearer {secret}")], csr=GOOD) for each in channels]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await asyncio.gather(*(each.close() for each in channels))
    refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(refusals) == 49
    codes = {refusal.code() for refusal in refusals}
    assert codes <= {UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    for refusal in refusals:
        assert (await line_of(server, refusal.details()))["code"] == refusal.code().name
    records = await asyncio.to_thread(server.items, "/v1/svids?spiffe_id=spiffe://cluster.local/ns/shop/sa/raced")
    assert len(records) == 1


async def test_a_banned_caller_has_its_line(server):
    banned = "spiffe://cluster.local/ns/shop/sa/banned"
    identity = await join(server, banned)
    await asyncio.to_thread(server.ask, "PUT", f"/v1/identities/{banned}/ban", json={"reason": "stolen"})
    async with tls_channel(server, identity) as channel:
        code, message = await refusal_of(raw(channel, csr=GOOD))
    assert code is DENIED
    assert (await line_of(server, message))["refusal"] == "banned"


def test_nothing_of_this_was_a_fault_of_ours(server):
    assert "Traceback" not in server.log_text
    assert not [event for event in server.events() if event["event"] in {"rpc_failed", "task_ended"}]
    assert not [event for event in server.events("request_refused") if event["code"] == "INTERNAL"]


async def test_the_oldest_certificate_is_known(server):
    await join(server)

    async def is_known():
        return server.metrics().get("meshward_ca_oldest_svid_timestamp_seconds", 0) > 0

    await eventually_async(is_known, "the oldest certificate")
