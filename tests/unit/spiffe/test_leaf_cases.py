"""One leaf, one judgement: the table of leaves before the verifier and before every caller of it."""

from urllib.parse import quote

import pytest

from app.agent.identity import accept_answer
from app.authz.rpc.check import AuthorizationRpc
from app.ca.rules.leaf import LeafProfile, check_leaf
from app.core.errors import InternalError, InvalidInputError, PreconditionError
from app.spiffe.id import SpiffeId
from app.spiffe.x509_svid import parse_certificate, read_leaf
from app.transport.grpc.peer import read_peer
from tests.assets.certificates import CART, HOUR, key_pem
from tests.assets.leaf_cases import CA, LEAF_KEY, NOT_CERTIFICATES, NOW, REFUSED, VALID, LeafCase
from tests.fakes.authz import policy
from tests.fakes.checks import check_answer, check_request, policy_service

FROM_CART = policy("{rules: [{from: [{source: {principals: [example.org/ns/shop/sa/cart]}}]}]}", "cart")


def by_verifier(pem):
    try:
        return None, str(read_leaf(parse_certificate(pem)).spiffe_id)
    except InvalidInputError as error:
        return error.message, None


def by_tls_peer(pem):
    svid = read_peer({"extensions": {"tls": {"client_cert_chain": (pem, CA.signer.pem)}}}).svid
    return svid.problem or None, svid.spiffe_id and str(svid.spiffe_id)


def by_agent(pem):
    try:
        identity = accept_answer(key_pem(LEAF_KEY), (pem, CA.signer.pem, CA.roots), NOW)
    except PreconditionError as error:
        return error.message, None
    return None, str(identity.svid.spiffe_id)


async def by_check(pem):
    """A check whose source is the certificate, under a policy that allows CART alone."""
    request = check_request(principal="")
    request.attributes.source.certificate = quote(pem, errors="surrogatepass")
    response = check_answer(AuthorizationRpc(await policy_service(FROM_CART)), request)
    if response.status.code == 0:
        return None, CART
    return dict(response.dynamic_metadata.items())["meshward.reason"], None


def by_ca(pem):
    profile = LeafProfile(SpiffeId.parse(CART), LEAF_KEY.public_key(), 1, NOW, NOW + HOUR)
    try:
        check_leaf(pem, profile, (CA.signer.certificate,), CA.root.certificate, NOW)
    except InternalError as error:
        return error.message, None
    return None, CART


def each(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def judge(case: LeafCase, judgement):
    problem, spiffe_id = judgement
    if case.problem is None:
        assert (problem, spiffe_id) == (None, CART)
    else:
        assert spiffe_id is None
        assert case.problem in problem
        assert not any(name in problem for name in ("Error", "Exception", "ASN.1", "parsing", "cryptography"))


@each(VALID + REFUSED + NOT_CERTIFICATES)
def test_the_verifier_judges_as_the_table(case):
    judge(case, by_verifier(case.pem))


@each(VALID + REFUSED + NOT_CERTIFICATES)
def test_the_tls_peer_is_judged_as_the_table(case):
    judge(case, by_tls_peer(case.pem))


@each(VALID + REFUSED + NOT_CERTIFICATES)
def test_the_agent_judges_what_it_receives_as_the_table(case):
    judge(case, by_agent(case.pem))


# A check without a certificate has an anonymous source.
@each([case for case in VALID + REFUSED + NOT_CERTIFICATES if case.pem])
async def test_a_source_certificate_of_a_check_is_judged_as_the_table(case):
    judge(case, await by_check(case.pem))


@each(VALID + REFUSED)
def test_the_ca_judges_what_it_signed_as_the_table(case):
    judge(case, by_ca(case.pem))


def test_names_of_cases_are_unique():
    names = [case.name for case in VALID + REFUSED + NOT_CERTIFICATES]
    assert len(names) == len(set(names))
