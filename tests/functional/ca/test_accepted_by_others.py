"""What we issue, in the hands of implementations that are not ours."""

import asyncio
import shutil
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_pem_x509_certificate
from spiffe import TrustDomain, X509Bundle, X509Svid

from app.ca.model import EntrySpec, Surface
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from tests.assets.csrs import csr_for
from tests.fakes.principals import OPERATOR

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOLDER = Principal(Credential.SVID, CART)
KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.fixture
def database_url(tmp_path):
    """One database will do: certificates do not depend on it."""
    return f"sqlite+aiosqlite:///{tmp_path / 'meshward.db'}"


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
async def test_the_spiffe_package_parses_svid_and_bundle(ca, key):
    issued = await ca.issuance.issue(HOLDER, csr_for(key), 0, Surface.ISTIO_CA)
    private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    svid = X509Svid.parse("".join(issued.chain).encode(), private_key)
    assert str(svid.spiffe_id) == str(CART)
    assert len(svid.cert_chain) == 2
    bundle = X509Bundle.parse(TrustDomain("example.org"), "".join(issued.bundle.roots).encode())
    (root,) = bundle.x509_authorities
    assert root == load_pem_x509_certificate(issued.bundle.roots[0].encode())


async def test_the_spiffe_package_parses_an_svid_with_a_key_made_here(ca):
    made = await ca.issuance.issue_with_new_key(HOLDER, Surface.SDS)
    svid = X509Svid.parse("".join(made.chain).encode(), made.private_key)
    assert str(svid.spiffe_id) == str(CART)


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
async def test_openssl_verifies_the_chain_for_both_sides_of_tls(ca, tmp_path, key, purpose):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    await ca.entries.create(OPERATOR, EntrySpec(CART, timedelta(hours=1), ("cart.shop",)))
    issued = await ca.issuance.issue(HOLDER, csr_for(key), 0, Surface.ISTIO_CA)
    (tmp_path / "leaf.pem").write_text(issued.chain[0])
    (tmp_path / "signer.pem").write_text("".join(issued.chain[1:]))
    command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", "cart.shop"]
    command += ["-CAfile", "bundle.pem", "-untrusted", "signer.pem", "leaf.pem"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert output.decode() == "leaf.pem: OK\n"
