"""Callers of use cases."""

from app.spiffe.principal import Credential, Principal, Role

OPERATOR = Principal(
    Credential.ADMIN_TOKEN, roles=frozenset({Role.ADMIN}), address="192.0.2.7:40000", request_id="request-1"
)
