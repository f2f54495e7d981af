"""Requests made to harm: refused as input at fault, with nothing recorded and no token burned."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.ca.model import Surface
from app.ca.rules.csr import MAX_CSR_BYTES
from app.core.errors import InvalidInputError
from app.spiffe.attestation import Evidence
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import as_pem, csr, csr_for, tampered, with_extension_twice
from tests.assets.openssl_csrs import COMPRESSED_POINT, EXPLICIT_CURVE, RSA_8200, RSA_PSS
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
GOOD = csr()


def spliced():
    """The subject key of one request under the signature of another's."""
    one, two = (x509.load_pem_x509_csr(csr().encode()) for _ in range(2))
    return as_pem(one.public_bytes(Encoding.DER).replace(one.tbs_certrequest_bytes, two.tbs_certrequest_bytes))


def der_of(pem):
    return x509.load_pem_x509_csr(pem.encode()).public_bytes(Encoding.DER)


HOSTILE = {
    "empty": "",
    "spaces": " \n\t ",
    "not PEM": "nonsense",
    "not ASCII": GOOD.replace("CERTIFICATE", "CÉRTIFICATE"),
    "NUL": GOOD[:60] + "\x00" + GOOD[60:],
    "surrogate": "\ud800" + GOOD,
    "another label": GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
    "a private key": GOOD.replace("CERTIFICATE REQUEST", "PRIVATE KEY"),
    "two requests": GOOD + csr(),
    "text before": f"Certificate Request:\n{GOOD}",
    "text after": f"{GOOD}and more",
    "bytes after": as_pem(der_of(GOOD) + b"\0"),
    "an extension twice": with_extension_twice(),
    "cut short": GOOD[: len(GOOD) // 2],
    "no end": GOOD.replace("-----END CERTIFICATE REQUEST-----", ""),
    "too long": GOOD + "#" * MAX_CSR_BYTES,
    "huge": "-----BEGIN CERTIFICATE REQUEST-----\n" + "A" * 10_000_000,
    "empty body": as_pem(b""),
    "no sequence": as_pem(b"\x05\x00"),
    "lying length": as_pem(b"\x30\x84\xff\xff\xff\xff"),
    "deep nesting": as_pem(b"\x30\x80" * 4000),
    "bit turned over": tampered(GOOD),
    "another's signature": spliced(),
    "P-192": csr_for(ec.generate_private_key(ec.SECP192R1())),
    "secp256k1": csr_for(ec.generate_private_key(ec.SECP256K1())),
    "RSA 1024": csr_for(rsa.generate_private_key(65537, 1024)),
    "RSA 2047": csr_for(rsa.generate_private_key(65537, 2047)),
    "RSA 8200": RSA_8200,
    "RSA-PSS": RSA_PSS,
    "explicit curve": EXPLICIT_CURVE,
    "compressed point": COMPRESSED_POINT,
    "RSA exponent 3": csr_for(rsa.generate_private_key(3, 2048)),
    "DSA": csr_for(dsa.generate_private_key(2048)),
    "Ed448": csr_for(ed448.Ed448PrivateKey.generate()),
    "version 2": as_pem(der_of(GOOD).replace(b"\x02\x01\x00", b"\x02\x01\x01", 1)),
    "SHA-224": csr(algorithm=hashes.SHA224()),
}


def test_the_request_with_an_extension_twice_has_nothing_else_wrong():
    request = x509.load_pem_x509_csr(with_extension_twice().encode())
    assert request.is_signature_valid
    with pytest.raises(x509.DuplicateExtension):
        _ = request.extensions


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_csr_is_refused_and_nothing_is_recorded(ca, request_):
    created = await ca.join_tokens.create(OPERATOR, CART)
    caller = await ca.join_tokens.attest(Evidence(created.secret))
    for holder in (Principal(Credential.SVID, CART), caller):
        with pytest.raises(InvalidInputError):
            await ca.issuance.issue(holder, request_, 0, Surface.ISTIO_CA)
    assert await ca.records.page(None, 10) == []
    assert (await ca.issuance.issue(caller, GOOD, 0, Surface.ISTIO_CA)).spiffe_id == CART
