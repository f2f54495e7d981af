"""The order in which proofs of an identity are asked for: istiod's."""

from app.ca.service.forwarded_certificates import ForwardedCertificates
from app.ca.service.join_tokens import JoinTokens
from app.ca.service.jwt_bearer import JwtBearer
from app.ca.service.service_accounts import ServiceAccountTokens
from app.core.clock import SystemClock
from app.main.parts import make_parts
from app.settings import load


def attestors(**settings):
    variables = {f"MESHWARD_{name.upper()}": value for name, value in settings.items()}
    return [type(each) for each in make_parts(load(variables).settings, SystemClock()).authenticator._attestors]


def test_after_the_certificate_come_jwts_then_reviewed_tokens_then_join_tokens_then_what_gateways_pass_on():
    """The certificate comes before all of them: see tests/unit/grpc/test_admission.py."""
    everything = {
        "ca_jwt_issuers": '[{"issuer": "https://a.example", "jwks": "/jwks.json"}]',
        "kubernetes_api": "in-cluster",
        "ca_xfcc_networks": "10.1.0.0/16",
    }
    assert attestors(**everything) == [JwtBearer, ServiceAccountTokens, JoinTokens, ForwardedCertificates]


def test_without_settings_a_join_token_is_all():
    assert attestors() == [JoinTokens]
