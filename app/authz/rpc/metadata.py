"""What filters of the proxy found, in a check over gRPC: of those that its configuration declares, and of no others.

The check has the dynamic metadata of the filters that `metadata_context_namespaces` names. The check does not say which
those are, so that the proxy's configuration does, in the context extension `meshward.metadata`: names with commas
between them. Where `envoy.filters.http.jwt_authn` is one of them, the claims that it verified are the request's, under
the key `payload`, as istiod configures it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from google.protobuf.json_format import MessageToDict

from app.authz.model import NO_CLAIMS, Claims
from app.authz.rules.tokens import is_reserved
from app.core.errors import InvalidInputError

METADATA_EXTENSION = "meshward.metadata"
JWT_FILTER = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
# Declarations, as of forwarded headers; and how many filters one may name.
MAX_KNOWN_DECLARATIONS = 256
MAX_FILTERS = 32

_NAME = re.compile(r"[A-Za-z0-9._-]{1,256}")


def read_metadata(declared: str, context: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the metadata of each filter that is declared, empty where it found nothing.

    Raises InvalidInputError if the declaration is not written as names with commas between them.
    """
    found = context.filter_metadata
    return {name: MessageToDict(found[name]) if name in found else NO_CLAIMS for name in _names(declared)}


def verified_claims(metadata: Mapping[str, Mapping[str, Any]]) -> Claims:
    """Return the claims that the proxy verified, none if it is not declared to, or found no token.

    A token that claims to be of another source, such as an API key, is none.
    """
    claims = metadata.get(JWT_FILTER, NO_CLAIMS).get(PAYLOAD)
    return claims if isinstance(claims, dict) and not is_reserved(claims.get("iss")) else NO_CLAIMS


@lru_cache(maxsize=MAX_KNOWN_DECLARATIONS)
def _names(declared: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in declared.split(",")))
    if len(names) > MAX_FILTERS or not all(map(_NAME.fullmatch, names)):
        raise InvalidInputError(f"meshward.metadata is not up to {MAX_FILTERS} names of filters, such as {JWT_FILTER}")
    return names
