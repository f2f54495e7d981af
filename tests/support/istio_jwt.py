"""What istiod makes of RequestAuthentication: Envoy's jwt_authn filter, with the keys of each rule inline."""

JWT_AUTHN = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


def jwt_filter(rules, keys):
    """The filter for the `jwtRules` of one workload, as in `convertToEnvoyJwtConfig`; `keys` is a JWK Set."""
    rules = sorted(rules, key=lambda rule: rule.get("issuer", ""))
    providers = {f"origins-{number}": _provider(rule, keys) for number, rule in enumerate(rules)}
    optional = [
        {"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}} for name in providers
    ]
    requires = optional[0]
    if len(optional) > 1:
        any_of = [{"provider_name": name} for name in providers]
        requires = {"requires_any": {"requirements": [*any_of, {"requires_all": {"requirements": optional}}]}}
    return {
        "@type": JWT_AUTHN,
        "providers": providers,
        "rules": [{"match": {"prefix": "/"}, "requires": requires}],
        "bypass_cors_preflight": True,
    }


def _provider(rule, keys):
    claims = sorted({"scope", "permission", *rule.get("spaceDelimitedClaims", ())})
    headers = [{"name": each["name"], "value_prefix": each.get("prefix", "")} for each in rule.get("fromHeaders", ())]
    outputs = [
        {"header_name": each["header"], "claim_name": each["claim"]} for each in rule.get("outputClaimToHeaders", ())
    ]
    return {
        "issuer": rule.get("issuer", ""),
        "audiences": rule.get("audiences", []),
        "forward": rule.get("forwardOriginalToken", False),
        "forward_payload_header": rule.get("outputPayloadToHeader", ""),
        "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {"space_delimited_claims": claims},
        "claim_to_headers": outputs,
        "from_headers": headers,
        "from_params": rule.get("fromParams", []),
        "from_cookies": rule.get("fromCookies", []),
        "local_jwks": {"inline_string": keys},
    }
