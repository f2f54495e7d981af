"""The agent's certificate requests, and which answers it accepts."""

import ssl
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from app.agent.identity import accept_answer, make_request
from app.core.errors import PreconditionError
from app.spiffe.id import SpiffeId
from tests.assets.certificates import CART, MeshCa, pem
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()


@pytest.fixture(scope="module")
def ca():
    return MeshCa(NOW)


@pytest.fixture
def request_made():
    return make_request()


def test_a_request_has_a_new_p256_key_each_time_and_no_names():
    first, second = make_request(), make_request()
    assert first.private_key != second.private_key
    assert load_pem_private_key(first.private_key, password=None).curve.name == "secp256r1"
    csr = x509.load_pem_x509_csr(first.csr.encode())
    assert csr.is_signature_valid
    assert list(csr.subject) == []
    assert list(csr.extensions) == []


def test_a_valid_answer_is_an_identity(ca, request_made):
    identity = accept_answer(request_made.private_key, ca.answer(request_made.csr, NOW), NOW, SpiffeId.parse(CART))
    assert str(identity.svid.spiffe_id) == CART
    assert identity.svid.chain[1] == ca.signer.pem
    assert identity.svid.private_key == request_made.private_key
    assert identity.svid.not_after == NOW + timedelta(hours=1)
    assert identity.bundle.roots == (ca.roots,)
    assert identity.bundle.trust_domain.name == "example.org"


def test_a_bundle_of_several_roots_is_accepted(ca, request_made):
    other = MeshCa(NOW)
    leaf, signer, roots = ca.answer(request_made.csr, NOW)
    identity = accept_answer(request_made.private_key, (leaf, signer, other.roots + roots), NOW)
    assert identity.bundle.roots == (other.roots, roots)


def test_the_end_is_the_earliest_of_the_path(request_made):
    ca = MeshCa(NOW)
    identity = accept_answer(request_made.private_key, ca.answer(request_made.csr, NOW, timedelta(days=36500)), NOW)
    assert identity.svid.not_after == ca.signer.certificate.not_valid_after_utc


def bad_answers():
    ca, other = MeshCa(NOW), MeshCa(NOW)
    made = make_request()
    leaf, signer, roots = ca.answer(made.csr, NOW)
    stranger = ca.answer(make_request().csr, NOW)[0]
    rsa_free = pem(ca.leaf(ec.generate_private_key(ec.SECP384R1()).public_key(), NOW, timedelta(hours=1)))
    two_names = ca.answer(made.csr, NOW, uris=(CART, CART + "2"))[0]
    nameless = ca.answer(made.csr, NOW, uris=(), dns=("localhost",))[0]
    foreign = ca.answer(made.csr, NOW, uris=("spiffe://other.org/x",))[0]
    pathless = ca.answer(made.csr, NOW, uris=("spiffe://example.org",))[0]
    odd = ca.answer(made.csr, NOW, uris=("https://example.org/x",))[0]
    past = ca.answer(made.csr, NOW - timedelta(hours=2), timedelta(hours=1))[0]
    future = ca.answer(made.csr, NOW + timedelta(hours=2), timedelta(hours=1))[0]
    return made, {
        "empty": (),
        "leaf alone": (leaf,),
        "too many parts": (leaf, *[signer] * 8, roots),
        "no signer": (leaf, roots),
        "another root": (leaf, signer, other.roots),
        "another signer": (leaf, other.signer.pem, roots),
        "another key": (stranger, signer, roots),
        "another kind of key": (rsa_free, signer, roots),
        "two ids": (two_names, signer, roots),
        "no id": (nameless, signer, roots),
        "an id of another domain": (foreign, signer, roots),
        "an id without a path": (pathless, signer, roots),
        "an id of another scheme": (odd, signer, roots),
        "expired": (past, signer, roots),
        "not yet valid": (future, signer, roots),
        "a signer as leaf": (signer, signer, roots),
        "no roots": (leaf, signer, ""),
        "nonsense roots": (leaf, signer, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "nonsense leaf": ("leaf", signer, roots),
        "nul bytes": (leaf, signer, "\x00" * 10),
        "unicode": (leaf, signer, "ä" * 10),
        "a huge bundle": (leaf, signer, roots * 1000),
        "a huge leaf": (leaf + "\n" * 100_000, signer, roots),
    }


MADE, BAD = bad_answers()


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_an_invalid_answer_is_refused(answer):
    with pytest.raises(PreconditionError, match="the control plane's answer is refused: "):
        accept_answer(MADE.private_key, answer, NOW)


def test_an_answer_for_another_spiffe_id_is_refused(ca, request_made):
    with pytest.raises(PreconditionError, match=r"is for .*/cart, not for .*/till"):
        accept_answer(
            request_made.private_key,
            ca.answer(request_made.csr, NOW),
            NOW,
            SpiffeId.parse("spiffe://example.org/ns/shop/sa/till"),
        )


def test_a_certificate_with_an_unreadable_key_is_refused(ca, request_made):
    leaf, *rest = ca.answer(request_made.csr, NOW)
    der = x509.load_pem_x509_certificate(leaf.encode()).public_bytes(Encoding.DER)
    unknown = der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f"))
    garbled = ssl.DER_cert_to_PEM_cert(unknown)
    with pytest.raises(PreconditionError, match="answer is refused"):
        accept_answer(request_made.private_key, [garbled, *rest], NOW)
