"""Short spellings of discovery requests and of what was answered."""

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from app.envoy.sds import SecretCatalog, SecretKind, bundle_resource, svid_resource
from tests.fakes import secrets

CATALOG = SecretCatalog(secrets.OWNER)
OWN = str(secrets.OWNER)
DOMAIN = "spiffe://example.org"


def request(*names, nonce="", version="", error=None, **fields):
    detail = status_pb2.Status(code=3, message=error) if error is not None else None
    return discovery_pb2.DiscoveryRequest(
        resource_names=names, response_nonce=nonce, version_info=version, error_detail=detail, **fields
    )


def delta(*names, drop=(), held=None, nonce="", error=None, **fields):
    detail = status_pb2.Status(code=3, message=error) if error is not None else None
    return discovery_pb2.DeltaDiscoveryRequest(
        resource_names_subscribe=names,
        resource_names_unsubscribe=drop,
        initial_resource_versions=held or {},
        response_nonce=nonce,
        error_detail=detail,
        **fields,
    )


def resources(names, svid=None, bundle=None):
    svid, bundle = svid or secrets.svid(), bundle or secrets.bundle()
    return {
        name: svid_resource(name, svid) if kind is SecretKind.SVID else bundle_resource(name, bundle)
        for name, kind in CATALOG.kinds(frozenset(names)).items()
    }


def offer(exchange, svid=None, bundle=None):
    return exchange.offer(resources(exchange.wanted, svid, bundle))


def opened(exchange, said):
    """The exchange after its first request was answered, with that answer."""
    after, _ = exchange.receive(said)
    return offer(after)


def secret_of(body):
    secret = secret_pb2.Secret()
    assert body.Unpack(secret)
    return secret


def names_in(response):
    return [secret_of(body).name for body in response.resources]


def delta_names(response):
    return [resource.name for resource in response.resources]
