"""CredentialAuthentication documents: what is read, and what is refused, with its place."""

import pytest

from app.authz.model import Scope
from app.authz.rules.credential_rules import (
    CREDENTIAL_AUTHENTICATION_KIND,
    MAX_RULES,
    ApiKeySource,
    CredentialRule,
    IntrospectionSource,
    KnownSources,
    TokenReviewSource,
    credential_authentication_kind,
)
from app.core.errors import InvalidInputError
from app.documents.parser import parse_documents
from tests.assets.request_authentications import credential_authentication


def read(text):
    (document,) = CREDENTIAL_AUTHENTICATION_KIND.parse(parse_documents(text.encode()))
    return document


def refused(text):
    with pytest.raises(InvalidInputError) as error:
        read(text)
    return {violation.path: violation.problem for violation in error.value.violations}


def test_api_keys_are_in_x_api_key_where_a_rule_names_no_place():
    assert read(credential_authentication()).rules == (CredentialRule(ApiKeySource(), (("x-api-key", ""),)),)


def test_every_field_is_read():
    rule = {
        "apiKey": {"selector": {"matchLabels": {"tier": "gold"}}},
        "fromHeaders": [{"name": "Authorization", "prefix": "APIKEY "}],
        "fromParams": ["api_key"],
        "fromCookies": ["key"],
        "forwardOriginalCredential": True,
    }
    document = read(credential_authentication(rule, selector={"matchLabels": {"app": "shop"}}))
    headers = (("authorization", "APIKEY "),)
    source = ApiKeySource((("tier", "gold"),))
    assert document.rules == (CredentialRule(source, headers, ("api_key",), ("key",), forward=True),)
    assert document.scopes == (Scope((("app", "shop"),)),)


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({}, "spec.rules[0]"),
        ({"fromHeaders": [{"name": "x-api-key"}]}, "spec.rules[0]"),
        ({"apiKey": []}, "spec.rules[0].apiKey"),
        ({"apiKey": {"allNamespaces": True}}, "spec.rules[0].apiKey.allNamespaces"),
        ({"apiKey": {"selector": {"matchLabels": {"a b": "c"}}}}, "spec.rules[0].apiKey.selector.matchLabels.a b"),
        ({"oauth2Introspection": {}}, "spec.rules[0].oauth2Introspection.authorizationServer"),
        (
            {"oauth2Introspection": {"endpoint": "http://a", "authorizationServer": "a"}},
            "spec.rules[0].oauth2Introspection.endpoint",
        ),
        ({"kubernetesTokenReview": {}}, "spec.rules[0].kubernetesTokenReview.audiences"),
        ({"kubernetesTokenReview": {"audiences": "a"}}, "spec.rules[0].kubernetesTokenReview.audiences"),
        ({"apiKey": {}, "kubernetesTokenReview": {"audiences": ["a"]}}, "spec.rules[0].kubernetesTokenReview"),
        ({"apiKey": {}, "fromHeaders": [{"name": "x api"}]}, "spec.rules[0].fromHeaders[0].name"),
        ({"apiKey": {}, "fromHeaders": [{"name": "x", "prefx": "a"}]}, "spec.rules[0].fromHeaders[0].prefx"),
        ({"apiKey": {}, "fromCookies": ["a b"]}, "spec.rules[0].fromCookies[0]"),
        *(({"apiKey": {}, name: []}, f"spec.rules[0].{name}") for name in ("fromHeaders", "fromParams", "fromCookies")),
        (
            {"oauth2Introspection": {"authorizationServer": "a", "audiences": []}},
            "spec.rules[0].oauth2Introspection.audiences",
        ),
        ({"apiKey": {}, "forwardOriginalCredential": 1}, "spec.rules[0].forwardOriginalCredential"),
        ({"apiKey": {}, "forward": True}, "spec.rules[0].forward"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(rule, place):
    assert list(refused(credential_authentication(rule))) == [place]


def test_tokens_of_authorization_servers_and_clusters_are_bearer_tokens_where_a_rule_names_no_place():
    introspected = {"oauth2Introspection": {"authorizationServer": "idp", "audiences": ["shop", "shop"]}}
    reviewed = {"kubernetesTokenReview": {"audiences": ["shop"], "cluster": "west"}}
    one, two = read(credential_authentication(introspected, reviewed)).rules
    bearer = (("authorization", "Bearer "),)
    assert one == CredentialRule(IntrospectionSource("idp", ("shop",)), bearer)
    assert two == CredentialRule(TokenReviewSource(("shop",), "west"), bearer)


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"oauth2Introspection": {"authorizationServer": "none"}}, "oauth2Introspection.authorizationServer"),
        ({"kubernetesTokenReview": {"audiences": ["a"], "cluster": "none"}}, "kubernetesTokenReview.cluster"),
    ],
)
def test_a_name_that_the_settings_do_not_have_is_refused_when_it_is_given_and_not_when_it_is_stored(rule, place):
    known = KnownSources(frozenset({"idp"}), frozenset({"main"}), "main")
    kind = credential_authentication_kind(known)
    documents = parse_documents(credential_authentication({"apiKey": {}}, rule).encode())
    with pytest.raises(InvalidInputError, match="not in the settings: use one of") as error:
        kind.parse(documents)
    assert [each.path for each in error.value.violations] == [f"spec.rules[1].{place}"]
    assert kind.parse(documents, stored=True)
    fine = credential_authentication(
        {"oauth2Introspection": {"authorizationServer": "idp"}}, {"kubernetesTokenReview": {"audiences": ["a"]}}
    )
    assert kind.parse(parse_documents(fine.encode()))


def test_a_document_that_asks_for_nothing_or_is_of_another_group_is_refused():
    assert "spec.rules" in refused(credential_authentication(rules=[]))
    assert "spec.rules" in refused(credential_authentication(*[{"apiKey": {}}] * (MAX_RULES + 1)))
    istio = credential_authentication().replace("meshward.io/v1", "security.istio.io/v1")
    assert refused(istio) == {"apiVersion": "must be meshward.io/v1"}
