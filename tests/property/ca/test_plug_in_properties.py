"""Whatever the files of a plug-in CA have: what is accepted signs SVIDs that verify, or a file is blamed."""

from datetime import timedelta

from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from app.ca.rules.plug_in import CACERTS, PlugInFiles, read_plug_in
from app.core.errors import InvalidInputError
from app.spiffe.id import TrustDomain
from app.spiffe.x509_svid import parse_certificate, verify_svid
from tests.assets.certificates import CART, HOUR, Authority, new_key
from tests.assets.plug_in import NOW, YEAR, cacerts, enterprise_root

NAMES = ("ca-cert.pem", "cert-chain.pem", "root-cert.pem")
DOMAIN = TrustDomain("example.org")
# Authorities over four levels, some of which have what verifiers refuse: each issues what the draw says.
KEYS = [new_key() for _ in range(5)]
LIVES = st.tuples(st.integers(-400, 10), st.integers(-10, 400))
LEVEL = st.fixed_dictionaries({"path_length": st.sampled_from([None, 0, 1, 2]), "days": LIVES})


@st.composite
def hierarchies(draw):
    """A root and what is beneath it, lowest last; how long each is valid and how deep it may sign are drawn."""
    chain = [enterprise_root(key=KEYS[0])]
    for place, level in enumerate(draw(st.lists(LEVEL, min_size=1, max_size=4)), 1):
        start, end = (NOW + timedelta(days=days) for days in sorted(level["days"]))
        made = chain[-1].authority(f"CA {place}", start, end + HOUR, path_length=level["path_length"], key=KEYS[place])
        chain.append(made)
    return chain


def files_of(contents, key):
    certificate, chain, roots = (contents[name] for name in NAMES)
    return PlugInFiles(CACERTS, certificate, chain, roots, None, key.public_key())


def read_or_blame(files):
    """The authority of the files, or the file that is named in the refusal."""
    try:
        return read_plug_in(files, DOMAIN, NOW)
    except InvalidInputError as error:
        return error.message.split(":")[0]


@given(hierarchies(), st.permutations(range(6)), st.sets(st.integers(1, 5)), st.booleans())
def test_what_is_accepted_signs_svids_that_verify_until_it_ends(chain, order, left_out, strange):
    root, *below = chain
    signer = below[-1]
    given_chain = [chain[place] for place in order if place < len(chain) and place not in left_out]
    trusted = enterprise_root("Strange") if strange else root
    contents = cacerts(signer, *given_chain, roots=[trusted])
    files = files_of(contents, signer.key)
    valid = all(each.certificate.not_valid_before_utc <= NOW <= each.certificate.not_valid_after_utc for each in below)
    deep = all(_allows(each, len(below) - 1 - place) for place, each in enumerate(below))
    whole = not strange and not left_out & set(range(1, len(chain) - 1))
    found = read_or_blame(files)
    if isinstance(found, str):
        assert not (valid and deep and whole)
        assert found in CACERTS.files
        return
    assert valid
    assert deep
    assert whole
    leaf = Authority(signer.certificate, signer.key).leaf(KEYS[0].public_key(), NOW, NOW + 20 * YEAR)
    presented = [leaf, *(parse_certificate(each) for each in found.signer.chain)]
    roots = [parse_certificate(found.anchor.certificate)]
    for now in (found.signer.not_before, NOW, found.signer.not_after):
        if now >= leaf.not_valid_before_utc:
            assert str(verify_svid(presented, roots, DOMAIN, now).spiffe_id) == CART


def _allows(authority, beneath):
    limit = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return limit is None or beneath <= limit


@example(b"I", "ca-cert.pem", 122)  # in the issuer's name
@given(
    st.binary(max_size=200), st.sampled_from(["ca-cert.pem", "cert-chain.pem", "root-cert.pem"]), st.integers(0, 900)
)
def test_bytes_that_were_changed_are_refused_with_the_name_of_a_file(noise, name, at):
    root = enterprise_root(key=KEYS[0])
    signer = root.authority("CA", NOW - YEAR, NOW + YEAR, key=KEYS[1])
    contents = cacerts(signer, roots=[root])
    content = contents[name]
    contents[name] = content[:at] + noise + content[at + len(noise) :]
    found = read_or_blame(files_of(contents, KEYS[1]))
    if isinstance(found, str):
        assert found in CACERTS.files
    else:
        assert found.anchor.certificate == root.pem
        assert found.signer.certificate == signer.pem
