"""Laws: what is accepted yields a valid SVID of the caller's own; all else is refused as input at fault."""

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ca.backends.memory import MemoryKeyStore
from app.ca.model import CaConfig, Surface
from app.ca.rules.csr import parse_csr
from app.ca.rules.rotation import BACKDATE, granted_ttl, signer_is_due, validity
from app.ca.service import CaService
from app.core.errors import InvalidInputError
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential, Principal
from app.spiffe.renewal import renewal_time
from app.spiffe.x509_svid import parse_certificate
from app.telemetry.metrics import Metrics
from tests.assets.certificates import proven_id
from tests.assets.csrs import as_pem, csr, csr_for
from tests.fakes.ca_store import MemoryPublisher, MemoryTransactions
from tests.fakes.clock import ManualClock

DOMAIN = TrustDomain("example.org")
NOW = ManualClock().now()
KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
]
GOOD = x509.load_pem_x509_csr(csr().encode()).public_bytes(Encoding.DER)
DAY = 24 * 3600

segments = st.text("abcXYZ019._-", min_size=1, max_size=40).filter(lambda text: text not in {".", ".."})
ids = st.lists(segments, min_size=1, max_size=6).map(lambda parts: SpiffeId(DOMAIN, "/" + "/".join(parts)))
workloads = ids.filter(lambda one: not one.path.startswith("/meshward"))
foreign_names = st.lists(
    st.one_of(
        st.sampled_from(["admin.shop", "*.example.org", "localhost"]).map(x509.DNSName),
        ids.map(lambda one: x509.UniformResourceIdentifier(str(one))),
        st.just(x509.RFC822Name("root@example.org")),
    ),
    max_size=4,
)
durations = st.timedeltas(timedelta(seconds=1), timedelta(days=4000))


async def started():
    config = CaConfig(DOMAIN)
    ca = CaService(config, MemoryTransactions(), MemoryKeyStore(), MemoryPublisher(), ManualClock(), Metrics())
    await ca.start()
    return ca


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KEYS),
    workloads,
    foreign_names,
    st.none() | st.text("abc é", min_size=1, max_size=64),
    st.integers(-(2**63), DAY),
)
async def test_an_accepted_csr_yields_a_valid_svid_of_the_caller_and_nothing_that_it_asked_for_besides(
    key, spiffe_id, names, common_name, ttl
):
    ca = await started()
    request = csr_for(key, common_name=common_name, sans=names)
    issued = await ca.issuance.issue(Principal(Credential.SVID, spiffe_id), request, ttl, Surface.ISTIO_CA)
    assert proven_id(issued.chain, issued.bundle, NOW) == spiffe_id
    leaf = parse_certificate(issued.chain[0])
    assert leaf.public_key() == key.public_key()
    subject_names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(subject_names) == [x509.UniformResourceIdentifier(str(spiffe_id))]
    assert [attribute.value for attribute in leaf.subject] in ([], [str(spiffe_id)])
    assert len(await ca.records.page(None, 10)) == 1


def refused_or_read(text):
    try:
        parse_csr(text)
    except InvalidInputError:
        return "refused"
    return "read"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400) | st.binary(max_size=400).map(as_pem))
def test_what_is_no_request_is_refused(text):
    assert refused_or_read(text) == "refused"


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_request_can_be_changed_unnoticed(position, difference):
    """A change is noticed by the parser or by the signature; one in the encoding of the signature itself may pass."""
    der = bytearray(GOOD)
    der[position] ^= difference
    if refused_or_read(as_pem(bytes(der))) == "read":
        changed = x509.load_der_x509_csr(bytes(der))
        assert changed.is_signature_valid
        assert changed.tbs_certrequest_bytes == x509.load_der_x509_csr(GOOD).tbs_certrequest_bytes


@given(st.integers(-(2**63), 2**63 - 1), st.none() | durations, durations, durations)
def test_no_lifetime_is_granted_above_the_entry_or_without_one_the_maximum(asked, entry, default, maximum):
    try:
        granted = granted_ttl(asked, entry, default, maximum)
    except InvalidInputError:
        assert entry is None
        assert asked > maximum.total_seconds()
        return
    assert timedelta(0) < granted <= (entry or maximum)
    assert asked <= 0 or granted.total_seconds() <= asked


@given(durations, st.timedeltas(timedelta(0), timedelta(days=4000)), durations)
def test_a_certificate_lives_inside_its_issuers_life(ttl, age, rest):
    issuer_start, issuer_end = (NOW - age).replace(microsecond=0), (NOW + rest).replace(microsecond=0)
    start, end = validity(NOW, ttl, issuer_start, issuer_end)
    assert issuer_start <= start <= NOW
    assert start >= NOW - BACKDATE
    assert end <= issuer_end
    assert end <= NOW + ttl


@given(durations, st.floats(-1, 1))
def test_renewal_comes_between_45_and_55_percent_of_the_life(life, jitter):
    share = (renewal_time(NOW, NOW + life, jitter) - NOW) / life
    assert 0.449 <= share <= 0.551


@given(durations, durations, durations)
def test_a_signer_that_is_replaced_is_followed_by_one_that_is_not_due(life, ttl, root_rest):
    root_end = NOW + root_rest
    end = min(NOW + life, root_end)
    if signer_is_due(NOW, NOW - life, end, root_end):
        start, new_end = validity(NOW, ttl, NOW - timedelta(days=1), root_end)
        if ttl > 10 * BACKDATE and root_rest > 10 * BACKDATE:
            assert not signer_is_due(NOW, start, new_end, root_end)
