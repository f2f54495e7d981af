"""Real Envoy's jwt_authn, as istiod configures it, and our check beside it: the same requests, the same answers.

One Envoy has a listener with the filter and one that asks this service, both before the same workload, which returns
the request as it got it.
"""

import json
from datetime import timedelta

import httpx
import pytest
import yaml

from app.core.clock import SystemClock
from tests.assets.jwts import EC_KEY, ISSUER, RSA_KEY, STRANGER, confused, jwk, jwks, part, spelled, token
from tests.fakes.authz import policy
from tests.fakes.served_authz import served_authz
from tests.support.envoy_process import EnvoyProcess, cluster
from tests.support.istio_jwt import jwt_filter
from tests.support.workload import workload

FILTERS = "type.googleapis.com/envoy.extensions.filters"
NOW = SystemClock().now()
KEYS = json.dumps({"keys": [*json.loads(jwks())["keys"], jwk(RSA_KEY, kid="declared", alg="RS512")]})
OTHER = "https://other.example.org"
# What Envoy or the client adds to each request.
OF_THE_CONNECTION = {
    "x-request-id",
    "x-envoy-expected-rq-timeout-ms",
    "accept",
    "accept-encoding",
    "user-agent",
    "host",
}


def document(name, rules):
    spec = {"jwtRules": [rule | {"jwks": KEYS} for rule in rules]}
    return json.dumps(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": name, "namespace": name},
            "spec": spec,
        }
    )


OUTPUTS = [
    {"header": f"x-{claim.replace('.', '-')}", "claim": claim}
    for claim in ("sub", "level", "staff", "ratio", "groups", "realm.role")
]
# Rules of a workload, by its namespace.
RULES = {
    "plain": [{"issuer": ISSUER}],
    "audience": [{"issuer": ISSUER, "audiences": ["https://shop.example.org/", "api"]}],
    "forward": [{"issuer": ISSUER, "forwardOriginalToken": True, "outputPayloadToHeader": "X-Payload"}],
    "outputs": [{"issuer": ISSUER, "outputClaimToHeaders": OUTPUTS, "outputPayloadToHeader": "x-payload"}],
    "places": [
        {
            "issuer": ISSUER,
            "fromHeaders": [{"name": "X-Token", "prefix": "Token "}, {"name": "x-raw"}],
            "fromParams": ["token"],
            "fromCookies": ["jwt"],
        }
    ],
    "two": [{"issuer": ISSUER, "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}]}, {"issuer": OTHER}],
}


def made(**changed):
    return token(NOW, **changed)


GOOD = made()
EXPIRED = made(exp=int((NOW - timedelta(hours=1)).timestamp()))
HEAD, PAYLOAD = {"alg": "RS256", "kid": "rsa"}, {"iss": ISSUER, "sub": "a"}
# Tokens by what they are.
TOKENS = {
    "good": GOOD,
    "an EC key": made(key=EC_KEY, kid="ec", algorithm="ES256"),
    "without a kid": made(kid=None),
    "without an end": made(exp=None),
    "an end within the skew": made(exp=int((NOW - timedelta(seconds=20)).timestamp())),
    "an access token": made(headers={"typ": "at+jwt"}),
    "an issue in the future": made(iat=int((NOW + timedelta(hours=1)).timestamp())),
    "expired": EXPIRED,
    "not yet": made(nbf=int((NOW + timedelta(hours=1)).timestamp())),
    "of the other issuer": made(iss=OTHER),
    "of no issuer that is known": made(iss="https://nobody.example.org"),
    "without issuer": made(iss=None),
    "audience": made(aud=["api"]),
    "audience without scheme": made(aud="shop.example.org"),
    "a stranger's": made(key=STRANGER),
    "an unknown key": made(kid="other"),
    "an expired one of a stranger": made(key=STRANGER, exp=1),
    "none": f"{part({'alg': 'none'})}.{part(PAYLOAD)}.",
    "none with a signature": spelled({"alg": "none"}, PAYLOAD),
    "key confusion": confused(NOW),
    "the algorithm of the RSA key with the kid of the EC key": made(kid="ec"),
    "a key that is for its algorithm": made(kid="declared", algorithm="RS512"),
    "a key that is for another algorithm": made(kid="declared"),
    "the other key's algorithm": made(key=EC_KEY, kid="rsa", algorithm="ES256"),
    "no algorithm": spelled({"kid": "rsa"}, PAYLOAD),
    "a kid that is no text": spelled({"alg": "RS256", "kid": 7}, PAYLOAD),
    "an issuer that is no text": spelled(HEAD, {"iss": 7}),
    "a subject that is no text": spelled(HEAD, {"iss": ISSUER, "sub": 7}),
    "an end that is text": spelled(HEAD, PAYLOAD | {"exp": "tomorrow"}),
    "a negative end": spelled(HEAD, PAYLOAD | {"exp": -1}),
    "a negative begin": spelled(HEAD, PAYLOAD | {"nbf": -1}),
    "a begin that is text": spelled(HEAD, PAYLOAD | {"nbf": "x"}),
    "an issue that is text": spelled(HEAD, PAYLOAD | {"iat": "x"}),
    "an id that is no text": spelled(HEAD, PAYLOAD | {"jti": 7}),
    "an audience that is a number": spelled(HEAD, PAYLOAD | {"aud": 7}),
    "audiences with a number": spelled(HEAD, PAYLOAD | {"aud": ["a", 7]}),
    "two parts": "eyJ.eyJ",
    "four parts": f"{GOOD}.x",
    "a header that is no base64": f"e+J.{part(PAYLOAD)}.x",
    "a header that is no JSON": f"{part(b'{')}.{part(PAYLOAD)}.eA",
    "a payload that is no base64": f"{part(HEAD)}.e+J.eA",
    "a payload that is no JSON": f"{part(HEAD)}.{part(b'[]')}.eA",
    "a signature that is no base64": f"{part(HEAD)}.{part(PAYLOAD)}.e+J",
    "no token": "hello",
    "claims for headers": made(level=3, staff=True, ratio=1.5, groups=["a", "b"], realm={"role": "admin"}, sub="alice"),
    "claims that are no headers": made(level=-1, staff=False, realm="x", sub=""),
}
ONE = [("GET", "/a?x=1", {"authorization": f"Bearer {text}"}) for text in TOKENS.values()]
FORGED = {"x-sub": "root", "x-payload": "root", "x-level": "9"}
# Requests with none, one or several tokens, in all places.
OTHERS = [
    ("GET", "/", {}),
    ("GET", "/", FORGED),
    ("GET", "/", FORGED | {"authorization": f"Bearer {GOOD}"}),
    ("GET", "/", {"authorization": f"bearer {GOOD}"}),
    ("GET", "/", {"authorization": f"Basic {GOOD}"}),
    ("GET", "/", {"authorization": f"Basic x, Bearer {GOOD}"}),
    ("GET", "/", {"authorization": f"Bearer  {GOOD}"}),
    ("GET", "/", {"authorization": "Bearer ~"}),
    ("GET", f"/?access_token={GOOD}&b=2", {}),
    ("GET", f"/?b=2&access_token={EXPIRED}", {}),
    ("GET", f"/?access%5Ftoken={GOOD}", {}),
    ("GET", f"/?access_token={GOOD}&access_token={GOOD}&access_token=", {}),
    ("GET", f"/?access_token={EXPIRED}", {"authorization": f"Bearer {GOOD}"}),
    ("GET", f"/?access_token={GOOD}", {"authorization": f"Bearer {EXPIRED}"}),
    ("GET", f"/?access_token={GOOD}", {"authorization": f"Bearer {GOOD}"}),
    ("GET", "/?access_token=", {}),
    ("GET", f"/?token={GOOD}", {}),
    ("GET", f"/?token={GOOD}", {"x-raw": EXPIRED}),
    ("GET", f"/?token={EXPIRED}", {"x-raw": GOOD}),
    ("GET", "/", {"x-token": f"Token {GOOD}"}),
    ("GET", "/", {"x-token": f"Token {GOOD}", "x-raw": GOOD}),
    ("GET", "/", {"x-token": f"Token {GOOD}", "x-raw": "nothing"}),
    ("GET", "/", {"x-raw": GOOD}),
    ("GET", "/", {"cookie": f"a=b; jwt={GOOD}; c=d"}),
    ("GET", "/", {"cookie": f'jwt="{GOOD}"'}),
    ("GET", "/", {"cookie": f"jwt={EXPIRED}"}),
    ("OPTIONS", "/", {"authorization": f"Bearer {EXPIRED}"}),
    (
        "OPTIONS",
        "/",
        {
            "authorization": f"Bearer {EXPIRED}",
            "origin": "https://shop.example.org",
            "access-control-request-method": "GET",
        },
    ),
    ("GET", "/" + "a" * 400 + "?b", {"authorization": f"Bearer {EXPIRED}"}),
    ("HEAD", "/", {"authorization": f"Bearer {EXPIRED}"}),
]


# Workloads whose sidecar verifies tokens itself, and whether its route declares that.
VERIFIED = {
    "declared": {"meshward.metadata": "envoy.filters.http.jwt_authn"},
    "undeclared": {},
}
NEEDS_CART = """
rules:
- from: [{source: {requestPrincipals: ["https://issuer.example.org/system:serviceaccount:shop:cart"]}}]
  when: [{key: "request.auth.audiences", values: [istio-ca]}]
"""


def listener(name, filters, extensions=None):
    named = {"meshward.namespace": name.removeprefix("ours-"), **(extensions or {})}
    routes = {
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                "typed_per_filter_config": {
                    "envoy.filters.http.ext_authz": {
                        "@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthzPerRoute",
                        "check_settings": {"context_extensions": named},
                    }
                }
                if name.startswith("ours-")
                else {},
            }
        ]
    }
    manager = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "generate_request_id": False,
        "route_config": routes,
        "http_filters": [
            *filters,
            {"name": "router", "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"}},
        ],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def bootstrap(authz_port, upstream_port):
    check = {
        "@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "encode_raw_headers": True,
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "30s"},
    }
    listeners = []
    for name, rules in RULES.items():
        theirs = [{"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_filter(rules, KEYS)}]
        listeners += [
            listener(f"theirs-{name}", theirs),
            listener(f"ours-{name}", [{"name": "envoy.filters.http.ext_authz", "typed_config": check}]),
        ]
    theirs = [{"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_filter(RULES["plain"], KEYS)}]
    with_metadata = check | {"metadata_context_namespaces": ["envoy.filters.http.jwt_authn"]}
    for name, declared in VERIFIED.items():
        both = [*theirs, {"name": "envoy.filters.http.ext_authz", "typed_config": with_metadata}]
        listeners.append(listener(f"ours-{name}", both, declared))
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                cluster("authz", authz_port, typed_extension_protocol_options=http2),
                cluster("upstream", upstream_port),
            ],
        },
    }


def seen(response):
    """What the client got, or, if the request passed, what the workload got."""
    if response.status_code == 200 and response.request.method != "HEAD":
        target, headers = response.json()
        passed: dict[str, str] = {}
        for name, _, value in headers:
            if name not in OF_THE_CONNECTION:
                passed[name] = f"{passed[name]},{value}" if name in passed else value
        return 200, target, passed
    kept = {name: response.headers.get(name) for name in ("www-authenticate", "content-type")}
    return response.status_code, response.text, kept


@pytest.fixture
async def ask(tmp_path):
    """Send a request to both listeners of the workload, and return what came of it at each."""
    policies = "\n---\n".join(document(name, rules) for name, rules in RULES.items())
    async with (
        workload() as upstream,
        served_authz(policies, clock=SystemClock()) as served,
        EnvoyProcess.started(bootstrap(served.port, upstream), tmp_path) as envoy,
        httpx.AsyncClient() as client,
    ):
        names = [
            *(f"{side}-{name}" for side in ("ours", "theirs") for name in RULES),
            *(f"ours-{name}" for name in VERIFIED),
        ]
        ports = {name: await envoy.port_of(name) for name in names}
        for name in VERIFIED:
            await served.apply(policy(json.dumps(yaml.safe_load(NEEDS_CART)), "cart", name))

        async def both(name, method, target, headers, sides=("ours", "theirs")):
            found = []
            for side in sides:
                url = f"http://127.0.0.1:{ports[f'{side}-{name}']}{target}"
                response = await client.request(method, url, headers=headers | {"host": "shop.example.org"})
                found.append(seen(response))
            return found

        yield both


async def test_every_token_in_every_place_has_the_answer_of_envoys_own_filter(ask):
    differences = []
    statuses = set()
    for name in RULES:
        for method, target, headers in (*ONE, *OTHERS):
            ours, theirs = await ask(name, method, target, headers)
            statuses.add(theirs[0])
            if ours != theirs:
                differences.append((name, method, target[:80], headers, ours, theirs))
    assert statuses == {200, 401, 403}
    assert differences == []


async def test_what_envoys_own_filter_verified_is_believed_where_it_is_declared_and_nowhere_else(ask):
    for text, declared in ((GOOD, 200), (made(sub="mallory"), 403), (made(aud="other"), 403), (EXPIRED, 401)):
        headers = {"authorization": f"Bearer {text}"}
        (found,) = await ask("declared", "GET", "/", headers, ["ours"])
        assert found[0] == declared
        (undeclared,) = await ask("undeclared", "GET", "/", headers, ["ours"])
        assert undeclared[0] == (401 if declared == 401 else 403)
    (forged,) = await ask("declared", "GET", "/", {"x-payload": GOOD.split(".")[1]}, ["ours"])
    assert forged[0] == 403


async def test_a_token_with_spaces_is_refused_although_envoy_reads_over_them(ask):
    target = f"/?access_token={GOOD}%20"
    ours, theirs = await ask("plain", "GET", target, {})
    assert (ours[0], theirs[0]) == (401, 200)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (f"/?access_token={GOOD}&access_token={EXPIRED}", {}),
        (f"/?access_token={GOOD}&access%5Ftoken={EXPIRED}", {}),
        ("/", {"cookie": f"jwt={GOOD}; jwt={EXPIRED}"}),
    ],
)
async def test_a_token_that_comes_twice_is_accepted_twice_although_envoy_takes_the_first(ask, target, headers):
    found = [(ours[0], theirs[0]) for ours, theirs in [await ask(name, "GET", target, headers) for name in RULES]]
    assert (401, 200) in found
    assert (200, 401) not in found
