"""Envoy accepts clients, and serves, under authorities with each kind of key that they may have."""

import ssl
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.assets.certificates import key_pem, new_key, pem, root_authority
from tests.support.envoy_process import EnvoyProcess

HOUR, YEAR = timedelta(hours=1), timedelta(days=365)
TYPES = "type.googleapis.com/envoy.extensions"
KEYS = {
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 3072),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def listener(chain, key, roots):
    """An Envoy that answers 200 to clients with a certificate under the roots."""
    tls = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key_pem(key).decode()}}
            ],
            "validation_context": {"trusted_ca": {"inline_string": roots}},
        },
    }
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    http = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "answer",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    anywhere = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chains = [
        {"transport_socket": {"name": "tls", "typed_config": tls}, "filters": [{"name": "http", "typed_config": http}]}
    ]
    listeners = [{"name": "listener", "address": anywhere, "filter_chains": chains}]
    return {"admin": {"address": anywhere}, "static_resources": {"listeners": listeners}}


@pytest.mark.parametrize("kind", KEYS)
async def test_both_sides_accept_certificates_under_such_keys(tmp_path, kind):
    now = datetime.now(UTC)
    root = root_authority("root", now - HOUR, now + YEAR, key=KEYS[kind]())
    signer = root.authority("signer", now - HOUR, now + YEAR, key=KEYS[kind]())
    server, client = new_key(), new_key()
    served = signer.leaf(server.public_key(), now - HOUR, now + HOUR, dns=("localhost",))
    shown = signer.leaf(client.public_key(), now - HOUR, now + HOUR)
    file = tmp_path / "client.pem"
    file.write_bytes(key_pem(client) + (pem(shown) + signer.pem).encode())
    context = ssl.create_default_context(cadata=root.pem)
    context.load_cert_chain(file)
    bootstrap = listener(pem(served) + signer.pem, server, root.pem)
    async with EnvoyProcess.started(bootstrap, tmp_path) as envoy, httpx.AsyncClient(verify=context) as http:
        listeners = (await http.get(f"http://{envoy.admin_address}/listeners?format=json")).json()
        port = listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        assert (await http.get(f"https://localhost:{port}/")).status_code == 200
