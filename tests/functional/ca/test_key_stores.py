"""One contract for every KeyStore and the SigningKeys that it hands out."""

import asyncio
import pickle

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.ca.backends.disk import DiskKeyStore
from app.ca.backends.memory import MemoryKeyStore
from app.ca.backends.pkcs11_keys import TokenKeyStore, TokenPlace
from app.ca.model import CaConfig, KeyAlgorithm, Surface
from app.ca.rules.authority import authority_request, root_builder
from app.ca.rules.crl import check_crl
from app.ca.rules.log import check_head
from app.ca.rules.profile import authority_id
from app.ca.service import CaService
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.telemetry.metrics import Metrics
from tests.assets.csrs import csr
from tests.fakes.ca_store import MemoryPublisher, MemoryTransactions
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR
from tests.support.softhsm import MODULE, softhsm

__all__ = ["softhsm"]

DOMAIN = TrustDomain("example.org")
NOW = ManualClock().now()
ALGORITHMS = [
    (KeyAlgorithm.P256, 256, "sha256"),
    (KeyAlgorithm.P384, 384, "sha384"),
    (KeyAlgorithm.P521, 521, "sha512"),
    (KeyAlgorithm.RSA_2048, 2048, "sha256"),
    (KeyAlgorithm.RSA_3072, 3072, "sha256"),
]


@pytest.fixture(params=["disk", "encrypted", "memory", "softhsm"])
def store(request, tmp_path):
    match request.param:
        case "disk":
            return DiskKeyStore(tmp_path / "keys")
        case "encrypted":
            passphrase = tmp_path / "passphrase"
            passphrase.touch(0o600)
            passphrase.write_text("correct horse battery staple\n")
            return DiskKeyStore(tmp_path / "keys", passphrase)
        case "memory":
            return MemoryKeyStore()
        case _:
            hsm = request.getfixturevalue("softhsm")
            return TokenKeyStore(TokenPlace(MODULE, "meshward", hsm.pin_file))


def certificate_for(key):
    return root_builder(CaConfig(DOMAIN), key.public_key, 1, NOW)


@pytest.mark.parametrize(("algorithm", "bits", "digest"), ALGORITHMS)
async def test_certificates_and_requests_are_signed_with_the_key_and_its_hash(store, algorithm, bits, digest):
    key = await store.create(algorithm)
    assert key.public_key.key_size == bits
    certificate = await key.sign(certificate_for(key))
    assert certificate.public_key() == key.public_key
    assert certificate.signature_hash_algorithm.name == digest
    certificate.verify_directly_issued_by(certificate)
    request = await key.sign(authority_request())
    assert request.is_signature_valid
    assert request.signature_hash_algorithm.name == digest


async def test_a_key_is_found_again_by_the_id_of_its_authority(store):
    keys = [await store.create(KeyAlgorithm.P256) for _ in range(3)]
    for key in keys:
        loaded = await store.load(authority_id(key.public_key))
        assert loaded.public_key == key.public_key
        certificate = await loaded.sign(certificate_for(key))
        certificate.verify_directly_issued_by(certificate)


async def test_an_unknown_key_is_none_and_so_is_a_removed_one(store):
    key, other = await store.create(KeyAlgorithm.P256), await store.create(KeyAlgorithm.P256)
    assert await store.load("0" * 40) is None
    await store.remove("0" * 40)
    await store.remove(authority_id(key.public_key))
    assert await store.load(authority_id(key.public_key)) is None
    assert await store.load(authority_id(other.public_key)) is not None


async def test_the_private_key_cannot_be_taken_out_of_a_signing_key(store):
    key = await store.create(KeyAlgorithm.P256)
    public = {name for name in dir(key) if not name.startswith("_")}
    assert public == {"public_key", "sign"}
    assert not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(key)


async def test_a_signing_key_is_not_shown_where_it_is_printed_or_logged(store):
    key = await store.create(KeyAlgorithm.P256)
    line = structlog.processors.JSONRenderer()(None, "info", {"event": "x", "key": key})
    for text in (repr(key), str(key), f"{key}", line):
        assert "PRIVATE" not in text
        assert len(text) < 200


async def test_ed25519_keys_sign_over_no_hash_of_their_own_choice(store):
    if isinstance(store, TokenKeyStore):
        pytest.skip("the settings refuse Ed25519 for tokens")
    key = await store.create(KeyAlgorithm.ED25519)
    loaded = await store.load(authority_id(key.public_key))
    certificate = await loaded.sign(certificate_for(key))
    assert certificate.signature_hash_algorithm is None
    certificate.verify_directly_issued_by(certificate)
    assert (await loaded.sign(authority_request())).is_signature_valid


@pytest.mark.parametrize(
    "algorithm", [KeyAlgorithm.P384, KeyAlgorithm.P521, KeyAlgorithm.RSA_2048, KeyAlgorithm.ED25519]
)
async def test_a_ca_runs_on_the_store(store, algorithm):
    if algorithm is KeyAlgorithm.ED25519 and isinstance(store, TokenKeyStore):
        pytest.skip("the settings refuse Ed25519 for tokens")
    ca = CaService(
        CaConfig(DOMAIN, key_algorithm=algorithm),
        MemoryTransactions(),
        store,
        MemoryPublisher(),
        ManualClock(),
        Metrics(),
    )
    await ca.start()
    cart = Principal(Credential.SVID, SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart"))
    issued = await ca.issuance.issue(cart, csr(), 0, Surface.ISTIO_CA)
    leaf, signer = (x509.load_pem_x509_certificate(text.encode()) for text in issued.chain)
    leaf.verify_directly_issued_by(signer)
    await ca.maintain()
    head = await ca.log.head()
    check_head(head, [x509.load_pem_x509_certificate(root.encode()) for root in ca.authorities.bundle().roots])
    await ca.bans.ban(OPERATOR, str(cart.spiffe_id), "stolen", None)
    await ca.crls.maintain()
    crl = ca.crls.get(ca.authorities.active().signer.id)
    check_crl(x509.load_der_x509_crl(crl.der), signer)
    await ca.check_ready()


async def test_many_signatures_at_once(store):
    key = await store.create(KeyAlgorithm.P256)
    signed = await asyncio.gather(*(key.sign(certificate_for(key)) for _ in range(32)))
    for certificate in signed:
        certificate.verify_directly_issued_by(certificate)


@pytest.mark.parametrize("name", ["../admin", "", "a" * 39, "A" * 40, "a" * 40 + "/../b"])
async def test_a_name_that_is_no_authoritys_is_not_looked_for(tmp_path, name):
    (tmp_path / "admin.pem").symlink_to("/nowhere")
    assert await DiskKeyStore(tmp_path / "keys").load(name) is None
    assert not (tmp_path / "keys").exists()
