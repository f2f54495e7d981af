"""The secrets that a caller may subscribe to, and their messages."""

from dataclasses import replace

import pytest

from app.core.errors import InternalError, InvalidInputError
from app.envoy.sds import MAX_NAMES, SECRET_TYPE, SecretKind, bundle_resource, svid_resource
from app.spiffe.bundle import TrustBundle
from app.transport.xds.exchange import check_names, check_request
from app.transport.xds.resources import version_of
from tests.assets.discovery import CATALOG, DOMAIN, OWN, delta, request, secret_of
from tests.fakes import secrets


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("default", SecretKind.SVID),
        (OWN, SecretKind.SVID),
        ("ROOTCA", SecretKind.BUNDLE),
        (DOMAIN, SecretKind.BUNDLE),
    ],
)
def test_a_caller_has_two_names_for_each_of_its_secrets(name, kind):
    assert CATALOG.kind(name) is kind


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Default",
        "default\n",
        "rootca",
        "*",
        "ALL",
        "spiffe://example.org/ns/shop/sa/other",
        "spiffe://other.org",
        OWN + "/",
        "file-cert:a~b",
    ],
)
def test_any_other_name_is_refused_with_the_list_of_valid_names(name):
    with pytest.raises(InvalidInputError) as caught:
        CATALOG.kind(name)
    assert repr(name) in caught.value.message
    assert "default" in caught.value.message
    assert "ROOTCA" in caught.value.message


def test_a_long_name_is_not_repeated_whole():
    with pytest.raises(InvalidInputError) as caught:
        CATALOG.kind("x" * 100_000)
    assert len(caught.value.message) < 600


def test_too_many_names_are_refused():
    check_names(["default"] * MAX_NAMES, CATALOG)
    with pytest.raises(InvalidInputError, match="at most 16"):
        check_names(["default"] * (MAX_NAMES + 1), CATALOG)


def test_an_svid_is_a_tls_certificate_with_its_chain_and_key():
    secret = secret_of(svid_resource("default", secrets.svid(7)).body)
    assert secret.name == "default"
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"leaf 7\nsigner\n"
    assert secret.tls_certificate.private_key.inline_bytes == b"key 7\n"


def test_a_bundle_is_a_validation_context_with_every_root():
    secret = secret_of(bundle_resource("ROOTCA", secrets.bundle("root 1\n", "root 2\n")).body)
    assert secret.name == "ROOTCA"
    assert secret.validation_context.trusted_ca.inline_bytes == b"root 1\nroot 2\n"


def test_revocation_lists_are_in_the_validation_context_for_leaves_alone():
    plain, listed = secrets.bundle("root 1\n"), replace(secrets.bundle("root 1\n"), crls=("list 1\n", "list 2\n"))
    context = secret_of(bundle_resource("ROOTCA", listed).body).validation_context
    assert context.crl.inline_bytes == b"list 1\nlist 2\n"
    assert context.only_verify_leaf_cert_crl
    assert bundle_resource("ROOTCA", listed).version != bundle_resource("ROOTCA", plain).version
    context = secret_of(bundle_resource("ROOTCA", plain).body).validation_context
    assert not context.HasField("crl")
    assert not context.only_verify_leaf_cert_crl


def test_a_version_depends_on_the_content_alone():
    first, again, other = (svid_resource("default", secrets.svid(n)) for n in (1, 1, 2))
    assert first.version == again.version != other.version
    one = {"default": first, "ROOTCA": bundle_resource("ROOTCA", secrets.bundle())}
    assert version_of(one) == version_of(dict(reversed(one.items())))
    assert version_of(one) != version_of(one | {"default": other})


@pytest.mark.parametrize("make", [request, delta])
def test_the_type_may_be_left_out_and_no_other_is_served(make):
    check_request(make(type_url=""), CATALOG)
    check_request(make(type_url=SECRET_TYPE), CATALOG)
    with pytest.raises(InvalidInputError, match=r"Cluster.*serves.*Secret"):
        check_request(make(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"), CATALOG)


def test_xdstp_locators_are_refused_rather_than_ignored():
    with pytest.raises(InvalidInputError, match="locators"):
        check_request(request(resource_locators=[{"name": "default"}]), CATALOG)
    with pytest.raises(InvalidInputError, match="locators"):
        check_request(delta(resource_locators_subscribe=[{"name": "default"}]), CATALOG)


def test_a_bundle_without_roots_is_never_sent_as_envoy_would_verify_nobody():
    with pytest.raises(InternalError, match="without roots"):
        bundle_resource("ROOTCA", TrustBundle(secrets.OWNER.trust_domain, ()))
