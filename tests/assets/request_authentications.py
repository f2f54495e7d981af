"""RequestAuthentication, PeerAuthentication and CredentialAuthentication documents as tests write them."""

import json

from tests.assets.jwts import ISSUER, jwks

KEYS = jwks().decode()
URL = "https://issuer.example.org/keys"


def jwt_rule(**fields):
    """A rule of the usual issuer with its keys inline, unless `fields` say where they are."""
    given = {"issuer": ISSUER, **fields}
    return given if {"jwks", "jwksUri"} & given.keys() else given | {"jwks": KEYS}


def request_authentication(*rules, name="r", namespace="shop", **spec):
    """A document with these rules; without any, with the usual one."""
    return _document("RequestAuthentication", name, namespace, {"jwtRules": list(rules) or [jwt_rule()], **spec})


def peer_authentication(mode=None, name="p", namespace="shop", created=None, **spec):
    """A document with this mode."""
    mtls = {} if mode is None else {"mtls": {"mode": mode}}
    more = {"creationTimestamp": created} if created else {}
    return _document("PeerAuthentication", name, namespace, mtls | spec, **more)


def credential_authentication(*rules, name="c", namespace="shop", **spec):
    """A document with these rules; without any, with one for API keys in the usual header."""
    spec = {"rules": list(rules) or [{"apiKey": {}}], **spec}
    return _document("CredentialAuthentication", name, namespace, spec, version="meshward.io/v1")


def _document(kind, name, namespace, spec, version="security.istio.io/v1", **metadata):
    document = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": spec,
    }
    return f"---\n{json.dumps(document)}\n"
