"""What filters of the proxy found, in a check over gRPC: of those that its configuration declares, and of no others.

The check has the dynamic metadata of the filters that `metadata_context_namespaces` names. The check does not say which
those are, so that the proxy's configuration does, in the context extension `meshward.metadata`: names with commas
between them. Where `envoy.filters.http.jwt_authn` is one of them, the claims that it verified are the request's, under
the key `payload`, as istiod configures it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict

from app.authz.model import NO_CLAIMS, Claims
from app.authz.rules.tokens import is_reserved
from app.core.errors import InvalidInputError

JWT_FILTER = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
# How many filters a declaration may name.
MAX_FILTERS = 32

_NAME = re.compile(r"[A-Za-z0-9._-]{1,256}")


def read_filters(declared: str) -> tuple[str, ...]:
    """Return the names of the filters that are declared.

    Raises InvalidInputError if the declaration is not written as names with commas between them.
    """
    names = tuple(dict.fromkeys(name.strip() for name in declared.split(",")))
    if len(names) > MAX_FILTERS or not all(map(_NAME.fullmatch, names)):
        raise InvalidInputError(f"meshward.metadata is not up to {MAX_FILTERS} names of filters, such as {JWT_FILTER}")
    return names


def read_metadata(filters: Iterable[str], context: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the metadata of each of the filters, empty where it found nothing."""
    found = context.filter_metadata
    return {name: MessageToDict(found[name]) if name in found else NO_CLAIMS for name in filters}


def verified_claims(metadata: Mapping[str, Mapping[str, Any]]) -> Claims:
    """Return the claims that the proxy verified, none if it is not declared to, or found no token.

    A token that claims to be of another source, such as an API key, is none.
    """
    claims = metadata.get(JWT_FILTER, NO_CLAIMS).get(PAYLOAD)
    return claims if isinstance(claims, dict) and not is_reserved(claims.get("iss")) else NO_CLAIMS
