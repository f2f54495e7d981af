"""THE TABLE OF LEAVES: certificates of one CA, good and hostile, and what every verifier must say of each.

All are for `LEAF_KEY`, but those whose key is what is wrong with them, and are signed by the CA's signer, but those
whose encoding is changed afterwards: a verifier reads a leaf before it checks the signature.
"""

import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier

from app.ca.rules.names import MAX_DNS_NAMES
from app.core.net import MAX_DNS_NAME_LENGTH
from tests.assets.certificates import (
    CA_TRUE,
    CART,
    CLIENT_AUTH,
    SERVER_AUTH,
    MeshCa,
    named,
    new_key,
    pem,
    purposes,
    subject_names,
    usage,
)
from tests.assets.csrs import csr_for
from tests.fakes.clock import ManualClock

NOW = ManualClock().now()
CA = MeshCa(NOW)
LEAF_KEY = new_key()
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("2.5.29.99"), b"\x05\x00")
MALFORMED = "not well-formed"
NOT_ONE = "not one PEM block"
TOO_LONG = "longer than 32768 bytes"


@dataclass(frozen=True)
class LeafCase:
    """`problem` is part of the reason with which the leaf is refused, None if it is an X509-SVID of CART."""

    name: str
    pem: str
    problem: str | None = None


def leaf(key=LEAF_KEY, **changed) -> str:
    return pem(CA.leaf(key.public_key(), NOW, **changed))


def raw_names(content: bytes):
    """A subjectAltName extension whose value is `content`, well-formed or not."""
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, content)


def uri_names(uri: bytes) -> bytes:
    """DER of GeneralNames with one URI (RFC 5280, section 4.2.1.6), for URIs that the library refuses to make."""
    return bytes([0x30, len(uri) + 2, 0x86, len(uri)]) + uri


def patched(text: str, old: bytes, new: bytes) -> str:
    """The certificate with bytes of its encoding exchanged, which its signature does not cover."""
    der = ssl.PEM_cert_to_DER_cert(text)
    assert old in der
    return ssl.DER_cert_to_PEM_cert(der.replace(old, new, 1))


GOOD = leaf()
GOOD_DER = ssl.PEM_cert_to_DER_cert(GOOD)

VALID = [
    LeafCase("as our CA makes it", GOOD),
    LeafCase("without extended key usage", leaf(purposes=None)),
    LeafCase("a critical extended key usage", leaf(purposes=(purposes(SERVER_AUTH, CLIENT_AUTH), True))),
    LeafCase(
        "a further extended key usage",
        leaf(purposes=(purposes(SERVER_AUTH, CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION), False)),
    ),
    LeafCase("without basic constraints", leaf(constraints=None)),
    LeafCase("names not critical, with a subject", leaf(subject=named("cart"), names=(subject_names(CART), False))),
    LeafCase("DNS names and addresses besides", leaf(dns=("cart.shop", "*.cart.shop"), ips=("10.0.0.1", "::1"))),
    LeafCase(
        "key usage for RSA and key agreement",
        leaf(usage=(usage("digital_signature", "key_encipherment", "key_agreement"), True)),
    ),
    LeafCase(
        "as many DNS names as an entry may have",
        leaf(dns=tuple(f"{index:03}{'.a' * 125}"[:MAX_DNS_NAME_LENGTH] for index in range(MAX_DNS_NAMES))),
    ),
    LeafCase("an unknown extension that is not critical", leaf(extra=(UNKNOWN, False))),
]

REFUSED = [
    LeafCase("a CA", leaf(constraints=CA_TRUE), "cA is true"),
    LeafCase("the signing certificate itself", CA.signer.pem, "cA is true"),
    LeafCase("without key usage", leaf(usage=None), "no critical key usage"),
    LeafCase("key usage not critical", leaf(usage=(usage("digital_signature"), False)), "no critical key usage"),
    LeafCase("without digitalSignature", leaf(usage=(usage("key_encipherment"), True)), "digitalSignature"),
    LeafCase("with keyCertSign", leaf(usage=(usage("digital_signature", "key_cert_sign"), True)), "digitalSignature"),
    LeafCase("with cRLSign", leaf(usage=(usage("digital_signature", "crl_sign"), True)), "digitalSignature"),
    LeafCase("for clients only", leaf(purposes=(purposes(CLIENT_AUTH), False)), "serverAuth"),
    LeafCase("for servers only", leaf(purposes=(purposes(SERVER_AUTH), False)), "clientAuth"),
    LeafCase(
        "for any purpose",
        leaf(purposes=(purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), False)),
        "lacks serverAuth or clientAuth",
    ),
    LeafCase("without names", leaf(names=None), "0 URI names"),
    LeafCase("an empty list of names", leaf(names=(raw_names(b"\x30\x00"), True)), "0 URI names"),
    LeafCase("DNS names only", leaf(uris=(), dns=("cart.shop",)), "0 URI names"),
    LeafCase("its id as a DNS name", leaf(uris=(), dns=(CART,)), "0 URI names"),
    LeafCase("its id as common name only", leaf(names=None, subject=named(CART)), "0 URI names"),
    LeafCase("two ids", leaf(uris=(CART, CART + "2")), "2 URI names"),
    LeafCase("one id twice", leaf(uris=(CART, CART)), "2 URI names"),
    LeafCase("an id and another URI", leaf(uris=(CART, "https://example.org")), "2 URI names"),
    LeafCase("fifty ids", leaf(uris=(CART,) * 50), "50 URI names"),
    LeafCase("a URI of another scheme", leaf(uris=("https://example.org/a",)), "must start with spiffe://"),
    LeafCase("an upper-case scheme", leaf(uris=("SPIFFE://example.org/a",)), "must start with spiffe://"),
    LeafCase("an empty URI", leaf(names=(raw_names(uri_names(b"")), True)), "must start with spiffe://"),
    LeafCase("the trust domain's id", leaf(uris=("spiffe://example.org",)), "has no path"),
    LeafCase("the trust domain's id with a slash", leaf(uris=("spiffe://example.org/",)), "segment"),
    LeafCase("a trailing slash", leaf(uris=(CART + "/",)), "segment"),
    LeafCase("a path that climbs", leaf(uris=("spiffe://example.org/a/../b",)), "segment"),
    LeafCase("a percent-encoded path", leaf(uris=(CART + "%2f",)), "segment"),
    LeafCase("a query", leaf(uris=(CART + "?a",)), "segment"),
    LeafCase("a port", leaf(uris=("spiffe://example.org:80/a",)), "trust domain"),
    LeafCase("a user", leaf(uris=("spiffe://cart@example.org/a",)), "trust domain"),
    LeafCase("an upper-case trust domain", leaf(uris=("spiffe://Example.org/a",)), "trust domain"),
    LeafCase("a long id", leaf(uris=(CART + "a" * 2048,)), "longer than 2048 bytes"),
    LeafCase("a NUL in the id", leaf(uris=(CART + "\x00.example.com",)), "segment"),
    LeafCase("a NUL in the trust domain", leaf(uris=("spiffe://example.org\x00.com/a",)), "trust domain"),
    LeafCase("a newline after the id", leaf(uris=(CART + "\n",)), "segment"),
    LeafCase("an id in Latin-1", leaf(names=(raw_names(uri_names(CART.encode() + b"\xe9")), True)), MALFORMED),
    LeafCase("an id in UTF-8", leaf(names=(raw_names(uri_names(f"{CART}é".encode())), True)), "segment"),
    LeafCase("names not critical, no subject", leaf(names=(subject_names(CART), False)), "names are not critical"),
    LeafCase("names that end too early", leaf(names=(raw_names(b"\x30\x40\x86\x02ab"), True)), MALFORMED),
    LeafCase("names that go on after their end", leaf(names=(raw_names(uri_names(b"a") + b"\x00"), True)), MALFORMED),
    LeafCase("a name of a length beyond the list", leaf(names=(raw_names(b"\x30\x04\x86\x7fab"), True)), MALFORMED),
    LeafCase("names of indefinite length", leaf(names=(raw_names(b"\x30\x80\x86\x01a\x00\x00"), True)), MALFORMED),
    LeafCase("names of another type", leaf(names=(raw_names(b"\x04\x02ab"), True)), MALFORMED),
    LeafCase("a name of an unknown type", leaf(names=(raw_names(b"\x30\x03\x8f\x01a"), True)), MALFORMED),
    LeafCase("an unknown critical extension", leaf(extra=(UNKNOWN, True)), "critical extension 2.5.29.99"),
    LeafCase(
        "critical name constraints",
        leaf(extra=(x509.NameConstraints([x509.DNSName("shop")], None), True)),
        "critical extension 2.5.29.30",
    ),
    LeafCase("a key on secp256k1", leaf(ec.generate_private_key(ec.SECP256K1())), "curve"),
    LeafCase("an RSA key of 1024 bits", leaf(rsa.generate_private_key(65537, 1024)), "1024 bits"),
    LeafCase(
        "a key of an unknown kind",
        patched(GOOD, bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")),
        "type of its key",
    ),
    LeafCase(
        "names twice",
        patched(leaf(extra=(UNKNOWN, True)), b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x11"),
        MALFORMED,
    ),
    LeafCase("an unknown version", patched(GOOD, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"), MALFORMED),
    LeafCase("the first version", patched(GOOD, b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x00"), MALFORMED),
    LeafCase("DER that is cut off", ssl.DER_cert_to_PEM_cert(GOOD_DER[:-20]), MALFORMED),
    LeafCase("DER of a wrong length", ssl.DER_cert_to_PEM_cert(GOOD_DER[:3] + b"\xff" + GOOD_DER[4:]), MALFORMED),
    LeafCase("DER that goes on after its end", ssl.DER_cert_to_PEM_cert(GOOD_DER + b"\x00"), MALFORMED),
    LeafCase("DER of another structure", ssl.DER_cert_to_PEM_cert(b"\x30\x03\x02\x01\x01"), MALFORMED),
    LeafCase("no DER", ssl.DER_cert_to_PEM_cert(b"\xff" * 300), MALFORMED),
    LeafCase("too many names", leaf(dns=tuple(f"{index}{'.a' * 120}" for index in range(110))), TOO_LONG),
]

# What no signer puts out, but anybody can send.
NOT_CERTIFICATES = [
    LeafCase("nothing", "", NOT_ONE),
    LeafCase("words", "nonsense", NOT_ONE),
    LeafCase("NUL bytes", "\x00" * 10, NOT_ONE),
    LeafCase("not ASCII", GOOD + "é", NOT_ONE),
    LeafCase("lone surrogates", GOOD + "\udcff", NOT_ONE),
    LeafCase("two certificates", GOOD + GOOD, NOT_ONE),
    LeafCase("a good one behind another", CA.signer.pem + GOOD, NOT_ONE),
    LeafCase("a frame without an end", "-----BEGIN CERTIFICATE-----\n", MALFORMED),
    LeafCase("a frame around nothing", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", MALFORMED),
    LeafCase("no base64", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", MALFORMED),
    LeafCase("a request", csr_for(LEAF_KEY), MALFORMED),
    LeafCase(
        "a public key",
        LEAF_KEY.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        MALFORMED,
    ),
    LeafCase("a good one and much space", GOOD + "\n" * 40_000, TOO_LONG),
]
