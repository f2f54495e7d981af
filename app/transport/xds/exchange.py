"""The exchange of one type of resource on one stream, as a state machine without I/O: what both variants share.

An exchange is a frozen value. `receive` takes a request, `offer` takes the current resources, and each returns the next
state; `stream.py` does the waiting, reading and sending. A stream has one exchange for each type (xDS, "ACK/NACK and
resource type instance version": versions and nonces are separate for each type).
"""

import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, Protocol, Self

from app.core.errors import InvalidInputError, Violation
from app.transport.xds.resources import WILDCARD, Catalog, Resource

# Nonces are this stream's own: its name, a dash and a count. A longer one is not ours and is not parsed.
MAX_NONCE_LENGTH = 64
_NONCE = re.compile(r"([0-9a-zA-Z]+)-([1-9][0-9]{0,15})")
# How much of an unknown type URL is repeated to the caller.
MAX_TYPE_QUOTED = 128


class Reply(Enum):
    """What a request was. STALE: it refers to a response that is not the one awaiting a reply."""

    REQUEST = "request"
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"


class Exchange(Protocol):
    """The exchange of one type, in either variant."""

    def __init__(self, catalog: Catalog, stream: str) -> None:
        """Begin an exchange of the catalog's resources; `stream` distinguishes its nonces from other streams'."""
        ...

    @property
    def due(self) -> bool:
        """Whether the last request may call for a response."""
        ...

    @property
    def wanted(self) -> frozenset[str]:
        """The names that the client is subscribed to; `*` among them is the wildcard."""
        ...

    def receive(self, request: Any) -> tuple[Self, Reply]:
        """Return the state after `request`. Raises InvalidInputError if it breaks the protocol or asks for too much."""
        ...

    def offer(self, resources: Mapping[str, Resource]) -> tuple[Self, Any | None]:
        """Return the response that brings the client up to `resources` (the current ones of `wanted`), if needed."""
        ...


def requested_type(request: Any, served: Collection[str]) -> str:
    """Return the type URL that a discovery request is for. Raises InvalidInputError if it is not one of those served.

    It may be left out where one type is served (xDS, "type_url is implicit in singleton APIs").
    """
    if request.type_url in served:
        return str(request.type_url)
    if not request.type_url and len(served) == 1:
        return next(iter(served))
    types = ", ".join(served)
    raise InvalidInputError(
        f"type_url is {request.type_url[:MAX_TYPE_QUOTED]!r}; this service serves {types} alone",
        Violation("type_url", f"must be {types}"),
    )


def check_request(request: Any, catalog: Catalog) -> None:
    """Raise InvalidInputError if a discovery request is for something else than the catalog's resources by name."""
    requested_type(request, (catalog.type_url,))
    for field in ("resource_locators", "resource_locators_subscribe", "resource_locators_unsubscribe"):
        if getattr(request, field, ()):
            raise InvalidInputError(
                "xdstp resource locators are not supported: subscribe to resources by name",
                Violation(field, "not supported"),
            )


def check_count(names: Collection[str], catalog: Catalog) -> None:
    """Raise InvalidInputError if there are more names than the catalog allows."""
    if len(names) > catalog.max_names:
        raise InvalidInputError(
            f"a request names {len(names)} resources; at most {catalog.max_names} are accepted",
            Violation("resource_names", f"more than {catalog.max_names} names"),
        )


def check_names(names: Collection[str], catalog: Catalog) -> None:
    """Raise InvalidInputError if there are too many names or the caller may not subscribe to one of them."""
    check_count(names, catalog)
    for name in names:
        if name != WILDCARD:
            catalog.check(name)


def make_nonce(stream: str, number: int) -> str:
    """Return the nonce of the response `number` (from 1) of a stream."""
    return f"{stream}-{number}"


def nonce_number(stream: str, nonce: str) -> int | None:
    """Return which response of the stream `nonce` belongs to, None if it is not this stream's."""
    if len(nonce) > MAX_NONCE_LENGTH:
        return None
    found = _NONCE.fullmatch(nonce)
    return int(found[2]) if found and found[1] == stream else None
