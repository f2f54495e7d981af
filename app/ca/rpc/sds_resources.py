"""Secrets as Envoy's messages, each with a version that follows from its content."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import any_pb2

from app.core.errors import InvalidInputError, Violation
from app.spiffe.bundle import TrustBundle
from app.spiffe.x509_svid import WorkloadSvid

SECRET_TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name

# Hexadecimal digits of a version: 64 bits tell the few contents of one stream apart and stay readable in a log.
VERSION_DIGITS = 16
# How much of a foreign type URL is repeated to the caller.
MAX_TYPE_QUOTED = 128


@dataclass(frozen=True, slots=True)
class SecretResource:
    """A secret under the name that it was asked by. `version` is equal for equal content, also after a reconnect."""

    name: str
    version: str
    body: Any


def svid_resource(name: str, svid: WorkloadSvid) -> SecretResource:
    """Return the `tls_certificate` secret of an SVID.

    The version comes from the certificates alone: they bind the public key, and nothing derived from the private one
    belongs in a log.
    """
    chain = "".join(svid.chain).encode()
    secret = secret_pb2.Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain
    secret.tls_certificate.private_key.inline_bytes = svid.private_key
    return SecretResource(name, _digest([chain]), _packed(secret))


def bundle_resource(name: str, bundle: TrustBundle) -> SecretResource:
    """Return the `validation_context` secret of a trust bundle."""
    roots = "".join(bundle.roots).encode()
    secret = secret_pb2.Secret(name=name)
    secret.validation_context.trusted_ca.inline_bytes = roots
    return SecretResource(name, _digest([roots]), _packed(secret))


def version_of(resources: Mapping[str, SecretResource]) -> str:
    """Return one version for several resources together, whatever their order."""
    return _digest(f"{name} {resources[name].version}".encode() for name in sorted(resources))


def check_request(request: Any) -> None:
    """Raise InvalidInputError if a discovery request is for something else than secrets by name.

    The type may be left out: the service carries no other (xDS, "type_url is implicit in singleton APIs").
    """
    if request.type_url not in {"", SECRET_TYPE}:
        raise InvalidInputError(
            f"type_url is {request.type_url[:MAX_TYPE_QUOTED]!r}; this service serves {SECRET_TYPE} alone",
            Violation("type_url", f"must be {SECRET_TYPE}"),
        )
    for field in ("resource_locators", "resource_locators_subscribe", "resource_locators_unsubscribe"):
        if getattr(request, field, ()):
            raise InvalidInputError(
                "xdstp resource locators are not supported: ask for secrets by name",
                Violation(field, "not supported"),
            )


def _packed(secret: Any) -> any_pb2.Any:
    return any_pb2.Any(type_url=SECRET_TYPE, value=secret.SerializeToString(deterministic=True))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:VERSION_DIGITS]
