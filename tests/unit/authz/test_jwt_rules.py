"""RequestAuthentication documents: what is read, what is refused, and what is warned of."""

import json

import jwt
import pytest

from app.authz.model import Scope
from app.authz.rules.jwt_rules import REQUEST_AUTHENTICATION_KIND, SPACE_DELIMITED, JwtRule, KeysFrom
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.assets.jwts import ISSUER, RSA_KEY
from tests.assets.request_authentications import KEYS, URL, jwt_rule, request_authentication


def read(text):
    (found,) = REQUEST_AUTHENTICATION_KIND.parse(parse_documents(text.encode()))
    return found


def rule_of(**fields):
    (rule,) = read(request_authentication(jwt_rule(**fields))).rules
    return rule


def test_keys_at_a_url_and_keys_of_an_issuer_with_that_name_are_kept_apart():
    assert KeysFrom(url=URL).name != KeysFrom(issuer=URL).name
    assert KeysFrom(url=URL).name == KeysFrom(url=URL, timeout=1.0).name


def test_every_field_of_a_rule_is_read():
    rule = rule_of(
        audiences=["a", "b", "a"],
        jwksUri=URL,
        fromHeaders=[{"name": "X-Token", "prefix": "Token "}, {"name": "x-raw"}],
        fromParams=["token"],
        fromCookies=["jwt"],
        forwardOriginalToken=True,
        outputPayloadToHeader="X-Payload",
        outputClaimToHeaders=[{"header": "X-Sub", "claim": "sub"}],
        spaceDelimitedClaims=["roles"],
        timeout="2.5s",
    )
    assert rule == JwtRule(
        ISSUER,
        KeysFrom(url=URL, timeout=2.5),
        ("a", "b"),
        (("x-token", "Token "), ("x-raw", "")),
        ("token",),
        ("jwt",),
        True,
        "x-payload",
        (("x-sub", "sub"),),
        SPACE_DELIMITED | {"roles"},
    )
    assert rule.output_headers == {"x-payload", "x-sub"}


def test_a_rule_without_places_looks_into_the_usual_ones_and_keys_are_described_by_the_issuer():
    (rule,) = read(request_authentication({"issuer": ISSUER})).rules
    assert (rule.headers, rule.params, rule.cookies) == ((("authorization", "Bearer "),), ("access_token",), ())
    assert rule.keys == KeysFrom(issuer=ISSUER)
    assert rule_of(fromCookies=["jwt"]).headers == ()
    assert rule_of(jwks_uri=URL, jwks="").keys.url == URL
    assert rule_of(issuer="", jwksUri=URL).issuer == ""


def test_an_empty_list_is_read_as_if_it_were_left_out_and_warned_of():
    found = read(request_authentication({"issuer": ISSUER, "audiences": [], "fromParams": []}, targetRefs=[]))
    assert found.rules == read(request_authentication({"issuer": ISSUER})).rules
    warned = [warning.path for warning in found.warnings if "empty list" in warning.problem]
    assert warned == ["spec.jwtRules[0].audiences", "spec.jwtRules[0].fromParams", "spec.targetRefs"]
    assert (
        read(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\nspec: {jwtRules: []}"
        ).warnings
        == ()
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1m", 60), ("0.5m", 30), (".5s", 0.5), ("+5.s", 5), ("1s500ms", 1.5), ("1.5s", 1.5), ("2h", 60)],
)
def test_a_timeout_is_read_as_go_reads_a_duration(text, seconds):
    assert rule_of(timeout=text).keys.timeout == seconds


def test_a_name_of_a_header_may_have_whatever_http_lets_it():
    rule = rule_of(fromHeaders=[{"name": "X.Token"}], outputPayloadToHeader="X.Payload")
    assert (rule.headers, rule.payload_header) == ((("x.token", ""),), "x.payload")


def test_a_document_is_for_a_selector_or_for_targets():
    selected = read(request_authentication(selector={"matchLabels": {"app": "shop"}}))
    assert selected.scopes == (Scope((("app", "shop"),)),)
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"}
    assert read(request_authentication(targetRefs=[target])).scopes[0].local
    assert read(request_authentication()).scopes == (Scope(()),)


REFUSED = {
    "no issuer and no URL": ({"issuer": ""}, "issuer"),
    "keys in two places": ({"jwksUri": URL, "jwks": KEYS}, "jwksUri"),
    "keys in two spellings": ({"jwksUri": URL, "jwks_uri": URL}, "jwks_uri"),
    "another scheme": ({"jwksUri": "ftp://a/b"}, "jwksUri"),
    "a file": ({"jwksUri": "file:///etc/passwd"}, "jwksUri"),
    "no host": ({"jwksUri": "https:///keys"}, "jwksUri"),
    "a port that is none": ({"jwksUri": "https://a:x/keys"}, "jwksUri"),
    "a password in the URL": ({"jwksUri": "https://u:p@a/keys"}, "jwksUri"),
    "a space in the URL": ({"jwksUri": "https://a/keys x"}, "jwksUri"),
    "a long URL": ({"jwksUri": f"https://a/{'k' * 2048}"}, "jwksUri"),
    "keys that are no JSON": ({"jwks": "{"}, "jwks"),
    "keys that are no set": ({"jwks": "{}"}, "jwks"),
    "audiences that are null": ({"audiences": None}, "audiences"),
    "an empty audience": ({"audiences": [""]}, "audiences[0]"),
    "a header without a name": ({"fromHeaders": [{"prefix": "x"}]}, "fromHeaders[0].name"),
    "a header that is none": ({"fromHeaders": [{"name": "x y"}]}, "fromHeaders[0].name"),
    "a prefix with a line end": ({"fromHeaders": [{"name": "x", "prefix": "a\n"}]}, "fromHeaders[0].prefix"),
    "an empty parameter": ({"fromParams": [""]}, "fromParams[0]"),
    "a parameter with a space": ({"fromParams": ["a b"]}, "fromParams[0]"),
    "an empty cookie": ({"fromCookies": [""]}, "fromCookies[0]"),
    "a payload header that is none": ({"outputPayloadToHeader": "a:b"}, "outputPayloadToHeader"),
    "the host as an output": ({"outputPayloadToHeader": "Host"}, "outputPayloadToHeader"),
    "an output without a claim": ({"outputClaimToHeaders": [{"header": "x"}]}, "outputClaimToHeaders[0].claim"),
    "an output without a header": ({"outputClaimToHeaders": [{"claim": "x"}]}, "outputClaimToHeaders[0].header"),
    "a pseudo-header as an output": (
        {"outputClaimToHeaders": [{"header": ":path", "claim": "x"}]},
        "outputClaimToHeaders[0].header",
    ),
    "no time": ({"timeout": "0s"}, "timeout"),
    "less than a millisecond": ({"timeout": "0.0001s"}, "timeout"),
    "parts of a millisecond": ({"timeout": "1.0001s"}, "timeout"),
    "another unit": ({"timeout": "5d"}, "timeout"),
    "no unit": ({"timeout": "5"}, "timeout"),
    "a negative time": ({"timeout": "-5s"}, "timeout"),
    "an empty time": ({"timeout": ""}, "timeout"),
    "an empty URL": ({"jwks": KEYS, "jwksUri": ""}, "jwksUri"),
    "a claim's header with a dot": (
        {"outputClaimToHeaders": [{"header": "x.y", "claim": "x"}]},
        "outputClaimToHeaders[0].header",
    ),
    "an unknown field": ({"jwkUri": URL}, "jwkUri"),
}


@pytest.mark.parametrize(("fields", "path"), REFUSED.values(), ids=REFUSED)
def test_what_istio_refuses_and_what_cannot_be_meant_is_refused_with_its_path(fields, path):
    with pytest.raises(InvalidInputError) as refusal:
        rule_of(**fields)
    assert f"spec.jwtRules[0].{path}" in [violation.path for violation in refusal.value.violations]


def test_two_ways_to_say_what_it_is_for_are_refused():
    target = {"group": "", "kind": "Service", "name": "a"}
    with pytest.raises(InvalidInputError, match="targetRefs"):
        read(request_authentication(selector={"matchLabels": {"a": "b"}}, targetRefs=[target]))


def test_keys_that_verify_nothing_and_an_issuer_that_describes_nothing_are_warned_of():
    private = json.dumps({"keys": [jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)]})
    (unusable,) = read(request_authentication(jwt_rule(jwks=private))).warnings
    assert (unusable.path, "every token is refused" in unusable.problem) == ("spec.jwtRules[0].jwks", True)
    (nowhere,) = read(request_authentication({"issuer": "testing@secure.istio.io"})).warnings
    assert nowhere.path == "spec.jwtRules[0].issuer"
    assert read(request_authentication()).warnings == ()


def test_keys_that_are_not_public_are_warned_of_each():
    private = jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)
    shared = {"kty": "oct", "k": "c2VjcmV0"}
    public = json.loads(KEYS)["keys"]
    found = read(request_authentication(jwt_rule(jwks=json.dumps({"keys": [*public, private, shared]})))).warnings
    numbers = (len(public), len(public) + 1)
    assert [f"keys[{number}] is" in each.problem for number, each in zip(numbers, found, strict=True)] == [True, True]


@pytest.mark.parametrize("selector", [{}, {"matchLabels": {}}])
def test_a_selector_without_labels_is_warned_of(selector):
    assert [each.path for each in read(request_authentication(selector=selector)).warnings] == ["spec.selector"]
