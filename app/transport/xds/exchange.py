"""The exchange of one type of resource on one stream, as a state machine without I/O: what both variants share.

An exchange is a frozen value. `receive` takes a request, `offer` takes the current resources, and each returns the next
state; `stream.py` does the waiting, reading and sending. A stream has one exchange for each type (xDS, "ACK/NACK and
resource type instance version": versions and nonces are separate for each type).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self

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


@dataclass(frozen=True, slots=True)
class Exchange(ABC):
    """The exchange of the catalog's resources, in either variant.

    `stream` distinguishes its nonces from those of other streams, and `opened` is whether there was a request. `names`
    are those that the client is subscribed to, `known` maps each name to the version that it was sent last. `due`: the
    last request may call for a response. `sent` counts responses, `answered` is the last that was accepted or refused.
    `sent_in` maps each name to the response that had it last, `accepted` to the version that the client accepted last.
    """

    catalog: Catalog
    stream: str
    opened: bool = False
    names: frozenset[str] = frozenset()
    due: bool = False
    known: Mapping[str, str] = field(default_factory=dict)
    sent: int = 0
    answered: int = 0
    sent_in: Mapping[str, int] = field(default_factory=dict)
    accepted: Mapping[str, str] = field(default_factory=dict)

    @property
    @abstractmethod
    def wanted(self) -> frozenset[str]:
        """The names that the client is subscribed to; `*` among them is the wildcard."""

    @abstractmethod
    def receive(self, request: Any) -> tuple[Self, Reply]:
        """Return the state after `request`. Raises InvalidInputError if it breaks the protocol or asks for too much."""

    @abstractmethod
    def offer(self, resources: Mapping[str, Resource]) -> tuple[Self, Any | None]:
        """Return the response that brings the client up to `resources` (the current ones of `wanted`), if needed."""

    def next_nonce(self) -> str:
        """Return the nonce of the next response: the name of the stream and the number, from 1, of the response."""
        return f"{self.stream}-{self.sent + 1}"

    def response_number(self, request: Any) -> int | None:
        """Return which response of this stream a request replies to, None if it names none."""
        nonce = request.response_nonce
        found = _NONCE.fullmatch(nonce) if len(nonce) <= MAX_NONCE_LENGTH else None
        return int(found[2]) if found and found[1] == self.stream else None

    def reply(self, request: Any, number: int) -> tuple[Self, Reply]:
        """Return the state after `request` has accepted or refused the response `number`."""
        if request.HasField("error_detail"):
            return replace(self, answered=number), Reply.NACK
        names = [name for name, response in self.sent_in.items() if response == number and name in self.known]
        accepted = {**self.accepted, **{name: self.known[name] for name in names}}
        return replace(self, answered=number, accepted=accepted), Reply.ACK


def requested_type(request: Any, served: Collection[str]) -> str:
    """Return the request's type URL, optional where one is `served`. Raises InvalidInputError if it is not served."""
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
    for locators in ("resource_locators", "resource_locators_subscribe", "resource_locators_unsubscribe"):
        if getattr(request, locators, ()):
            raise InvalidInputError(
                "xdstp resource locators are not supported: subscribe to resources by name",
                Violation(locators, "not supported"),
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
