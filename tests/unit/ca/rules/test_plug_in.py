"""What a set of files must be to become the authority, and what is said of one that is not."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.ca.model import Origin
from app.ca.rules.plug_in import CACERTS, TLS, PlugInFiles, layout_of, read_plug_in
from app.ca.rules.profile import authority_id
from app.core.errors import InvalidInputError
from app.spiffe.bundle import MAX_ROOTS
from app.spiffe.id import TrustDomain
from tests.assets.certificates import CA_FALSE, new_key, pem, purposes, usage
from tests.assets.plug_in import NOW, YEAR, cacerts, enterprise_root, mesh_ca, tls_secret

DOMAIN = TrustDomain("example.org")
ROOT = enterprise_root()
POLICY = ROOT.authority("Policy CA", NOW - YEAR, NOW + 5 * YEAR, path_length=1)
SIGNER = mesh_ca(POLICY)


def read(contents, key=None, now=NOW):
    """The authority of the files; `key` is the public one of another private key than the signing one's."""
    layout = layout_of(contents)
    certificate = x509.load_pem_x509_certificates(contents[layout.certificate])[0]
    chain = contents[layout.chain] if layout.chain else b""
    public_key: Any = key or certificate.public_key()
    certificates, roots, crls = contents[layout.certificate], contents[layout.roots], contents.get(layout.crls)
    return read_plug_in(PlugInFiles(layout, certificates, chain, roots, crls, public_key), DOMAIN, now)


def refusal(contents, **options):
    with pytest.raises(InvalidInputError) as caught:
        read(contents, **options)
    return caught.value.message


@pytest.mark.parametrize("layout", [cacerts, tls_secret])
def test_the_signing_authority_and_all_up_to_its_root_are_read_from_both_layouts(layout):
    found = read(layout(SIGNER, POLICY, roots=[ROOT]))
    assert found.signer.id == authority_id(SIGNER.key.public_key())
    assert found.signer.chain == (SIGNER.pem, POLICY.pem)
    assert found.anchor.certificate == ROOT.pem
    assert found.anchor.origin is Origin.PLUG_IN
    assert (found.signer.root_id, found.others) == (found.anchor.id, ())


def test_the_files_of_a_tls_secret_go_first_as_in_istiod():
    both = cacerts(SIGNER, POLICY, roots=[ROOT]) | tls_secret(SIGNER, POLICY, roots=[ROOT])
    assert layout_of(both) is TLS
    assert layout_of(cacerts(SIGNER, POLICY, roots=[ROOT])) is CACERTS


@pytest.mark.parametrize("name", [*CACERTS.files[1:], *TLS.files[1:]])
def test_a_file_that_is_missing_is_named(name):
    contents = (tls_secret if name in TLS.files else cacerts)(SIGNER, POLICY, roots=[ROOT])
    del contents[name]
    with pytest.raises(InvalidInputError, match=f"^{name} is missing, one of "):
        layout_of(contents)


def test_an_empty_directory_says_which_files_belong_there():
    with pytest.raises(InvalidInputError, match=r"neither tls\.crt nor ca-cert\.pem"):
        layout_of({"root-cert.pem.bak", "..data"})


def test_the_authority_is_valid_no_longer_than_what_is_above_it():
    brief = ROOT.authority("Brief CA", NOW - timedelta(hours=1), NOW + timedelta(hours=1), path_length=1)
    signer = read(cacerts(mesh_ca(brief), brief, roots=[ROOT])).signer
    assert (signer.not_before, signer.not_after) == (NOW - timedelta(hours=1), NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP521R1()), ed25519.Ed25519PrivateKey.generate()], ids=["P-521", "Ed25519"]
)
def test_every_kind_of_key_that_certificates_have_may_sign(key):
    root = enterprise_root(key=key)
    assert read(cacerts(mesh_ca(root, key=key), roots=[root])).signer.id == authority_id(key.public_key())


def test_a_root_that_signs_itself_is_plugged_in_as_both():
    found = read(cacerts(ROOT, roots=[ROOT]))
    assert found.signer.id == found.anchor.id == found.signer.root_id
    assert found.signer.chain == (ROOT.pem,)


def test_other_roots_of_the_file_are_trusted_and_those_that_are_over_left_out():
    other, over = enterprise_root("Other Root"), enterprise_root("Old Root", NOW - 11 * YEAR)
    found = read(cacerts(SIGNER, POLICY, roots=[other, over, ROOT, other]))
    assert found.anchor.certificate == ROOT.pem
    assert [each.certificate for each in found.others] == [other.pem]


def test_of_two_ways_to_a_root_one_that_is_valid_is_found():
    """The policy CA is signed by two roots, of which one is trusted."""
    elsewhere = enterprise_root("Elsewhere")
    crossed = elsewhere.authority("Policy CA", NOW - YEAR, NOW + YEAR, path_length=1, key=POLICY.key)
    found = read(cacerts(SIGNER, crossed, POLICY, roots=[ROOT]))
    assert found.signer.intermediates == (POLICY.pem,)


def test_the_key_must_be_the_certificates():
    assert refusal(cacerts(SIGNER, POLICY, roots=[ROOT]), key=new_key().public_key()) == (
        "ca-key.pem: it is not the key of 'CN=Mesh CA' in ca-cert.pem: take both from one issuance"
    )


def test_a_chain_with_a_gap_names_the_issuer_that_is_missing():
    message = refusal(cacerts(SIGNER, roots=[ROOT]))
    assert message.startswith("ca-cert.pem: no root vouches for 'CN=Mesh CA', whose issuer is 'CN=Policy CA': put ")


def test_the_signature_counts_and_not_the_name():
    impostor = enterprise_root("Enterprise Root")
    assert "no root vouches" in refusal(cacerts(SIGNER, POLICY, roots=[impostor]))


def test_a_chain_that_is_too_long_is_refused():
    chain = [ROOT]
    for depth in range(5, -1, -1):
        chain.append(chain[-1].authority(f"CA {depth}", NOW - YEAR, NOW + YEAR, path_length=depth))
    *between, signer = chain[1:]
    assert "no root vouches" in refusal(cacerts(signer, *reversed(between), roots=[ROOT]))
    assert read(cacerts(between[-1], *reversed(between[:-1]), roots=[ROOT])).signer.not_after == NOW + YEAR


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no authority": ({"constraints": CA_FALSE}, "cA is not true"),
    "constraints not critical": ({"constraints": (x509.BasicConstraints(ca=True, path_length=0), False)}, "cA is not"),
    "no key usage": ({"usage": None}, "no critical key usage"),
    "no keyCertSign": ({"usage": (usage("digital_signature"), True)}, "no keyCertSign"),
    "one side of TLS": ({"purposes": (purposes(ExtendedKeyUsageOID.SERVER_AUTH), False)}, "lacks serverAuth or client"),
    "another trust domain": ({"uris": ("spiffe://other.org",)}, "SPIFFE ID is not spiffe://example.org"),
    "name constraints": (
        {"names": (x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None), False)},
        "name constraints, under which TLS refuses",
    ),
    "critical name constraints": (
        {"names": (x509.NameConstraints([x509.DNSName("example.org")], None), True)},
        "2.5.29.30 is not understood",
    ),
    "an unknown critical extension": (
        {"other": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)},
        "1.2.3.4 is not understood",
    ),
    "a small RSA key": ({"key": rsa.generate_private_key(65537, 1024)}, "RSA key of 1024 bits"),
    "another curve": ({"key": ec.generate_private_key(ec.SECP256K1())}, "secp256k1 is not accepted"),
    "DSA": ({"key": dsa.generate_private_key(2048)}, "type of its key is not accepted"),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_signing_certificate_that_verifiers_would_refuse_is_refused_first(changed, reason):
    message = refusal(cacerts(mesh_ca(ROOT, **changed), roots=[ROOT]))
    assert message.startswith("ca-cert.pem: 'CN=Mesh CA': ")
    assert reason in message
    assert message.count(": ") >= 3  # file, subject, reason, what to do


@pytest.mark.parametrize("wrong", [each for each, (changed, _) in WRONG.items() if "key" not in changed])
def test_so_is_one_between_it_and_its_root(wrong):
    changed, reason = WRONG[wrong]
    policy = mesh_ca(ROOT, "Policy CA", **({"path_length": 1} | changed))
    message = refusal(cacerts(mesh_ca(policy), policy, roots=[ROOT]))
    assert message.startswith("cert-chain.pem: 'CN=Policy CA': ")
    assert reason in message


def test_the_path_length_counts_what_is_beneath():
    policy = ROOT.authority("Policy CA", NOW - YEAR, NOW + YEAR, path_length=0)
    assert "1 authorities stand under one that allows 0" in refusal(cacerts(mesh_ca(policy), policy, roots=[ROOT]))


@pytest.mark.parametrize(
    ("now", "reason"),
    [(NOW - timedelta(days=2), "'CN=Mesh CA': it is not valid before"), (NOW + 2 * YEAR, "'CN=Mesh CA': it expired")],
)
def test_it_must_be_valid_now(now, reason):
    assert reason in refusal(cacerts(SIGNER, POLICY, roots=[ROOT]), now=now)


def test_so_must_what_is_above_it():
    over = ROOT.authority("Over", NOW - YEAR, NOW - timedelta(days=1), path_length=1)
    assert "cert-chain.pem: 'CN=Over': it expired" in refusal(cacerts(mesh_ca(over), over, roots=[ROOT]))


def test_a_root_must_have_signed_itself():
    message = refusal(cacerts(SIGNER, roots=[POLICY]))
    assert message.startswith("root-cert.pem: 'CN=Policy CA': it is not self-signed")


def test_there_may_be_as_many_roots_as_a_bundle_has():
    spare = enterprise_root("Spare")
    assert read(cacerts(SIGNER, POLICY, roots=[ROOT, *[spare] * (MAX_ROOTS - 1)]))
    assert "more than 64" in refusal(cacerts(SIGNER, POLICY, roots=[ROOT, *[spare] * MAX_ROOTS]))


@pytest.mark.parametrize("name", ["ca-cert.pem", "cert-chain.pem", "root-cert.pem"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----",
    ],
)
def test_a_file_that_is_not_certificates_is_named(name, content):
    contents = cacerts(SIGNER, POLICY, roots=[ROOT]) | {name: content}
    chain, roots = contents["cert-chain.pem"], contents["root-cert.pem"]
    files = PlugInFiles(CACERTS, contents["ca-cert.pem"], chain, roots, None, SIGNER.key.public_key())
    with pytest.raises(InvalidInputError, match=f"^{name}: it has no certificate in PEM"):
        read_plug_in(files, DOMAIN, NOW)


def test_a_name_cannot_write_into_a_log_or_a_terminal():
    evil = enterprise_root("Root\x1b[2J\nnext line" + "x" * 40)
    assert refusal(cacerts(SIGNER, POLICY, roots=[evil])).isprintable()
    assert pem(evil.certificate) == evil.pem


def crl(authority, *revoked, key=None):
    builder = x509.CertificateRevocationListBuilder(authority.certificate.subject, NOW, NOW + timedelta(days=1))
    for each in revoked:
        entry = x509.RevokedCertificateBuilder(each.certificate.serial_number, NOW).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key or authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_lists_that_revoke_others_may_be_there():
    lists = crl(ROOT, enterprise_root("Other")) + b"# of the policy CA\n" + crl(POLICY)
    assert read(cacerts(SIGNER, POLICY, roots=[ROOT]) | {"ca-crl.pem": lists}).signer.chain


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (crl(POLICY, SIGNER), "'CN=Mesh CA' is revoked: issue another"),
        (crl(POLICY) + crl(ROOT, POLICY), "'CN=Policy CA' is revoked"),
        (crl(enterprise_root("Elsewhere")), "a list that no authority above has signed"),
        (crl(ROOT, key=new_key()), "a list that no authority above has signed"),
        (b"", "no revocation list in PEM"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "no revocation list in PEM"),
        (crl(ROOT) + crl(POLICY, SIGNER)[:-30], "no revocation list in PEM"),
        (crl(ROOT) * (MAX_ROOTS + 1), "no revocation list in PEM"),
    ],
)
def test_lists_that_revoke_it_or_are_not_good_are_refused(content, reason):
    message = refusal(cacerts(SIGNER, POLICY, roots=[ROOT]) | {"ca-crl.pem": content})
    assert message.startswith("ca-crl.pem: ")
    assert reason in message
