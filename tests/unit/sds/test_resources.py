"""Secrets as Envoy's messages."""

import pytest

from app.ca.rpc.sds_resources import SECRET_TYPE, bundle_resource, check_request, svid_resource, version_of
from app.core.errors import InvalidInputError
from tests.fakes import secrets
from tests.unit.sds.requests import delta, request, secret_of


def test_an_svid_is_a_tls_certificate_with_its_chain_and_key():
    secret = secret_of(svid_resource("default", secrets.svid(7)).body)
    assert secret.name == "default"
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"leaf 7\nsigner\n"
    assert secret.tls_certificate.private_key.inline_bytes == b"key 7\n"


def test_a_bundle_is_a_validation_context_with_every_root():
    secret = secret_of(bundle_resource("ROOTCA", secrets.bundle("root 1\n", "root 2\n")).body)
    assert secret.name == "ROOTCA"
    assert secret.validation_context.trusted_ca.inline_bytes == b"root 1\nroot 2\n"


def test_versions_follow_content_and_nothing_else():
    first, again, other = (svid_resource("default", secrets.svid(n)) for n in (1, 1, 2))
    assert first.version == again.version != other.version
    one = {"default": first, "ROOTCA": bundle_resource("ROOTCA", secrets.bundle())}
    assert version_of(one) == version_of(dict(reversed(one.items())))
    assert version_of(one) != version_of(one | {"default": other})


@pytest.mark.parametrize("make", [request, delta])
def test_the_type_may_be_left_out_and_no_other_is_served(make):
    check_request(make(type_url=""))
    check_request(make(type_url=SECRET_TYPE))
    with pytest.raises(InvalidInputError, match=r"Cluster.*serves.*Secret"):
        check_request(make(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"))


def test_xdstp_locators_are_refused_rather_than_overlooked():
    with pytest.raises(InvalidInputError, match="locators"):
        check_request(request(resource_locators=[{"name": "default"}]))
    with pytest.raises(InvalidInputError, match="locators"):
        check_request(delta(resource_locators_subscribe=[{"name": "default"}]))
