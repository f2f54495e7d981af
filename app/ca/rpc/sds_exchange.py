"""One SDS stream as a state machine without I/O: what the state-of-the-world and the delta variant share.

An exchange is a frozen value. `receive` takes what the client said, `offer` takes the current secrets, and each
returns the exchange's next state; the driver in `sds.py` does the waiting, reading and sending.
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Protocol, Self

from app.ca.rpc.sds_names import Catalog
from app.ca.rpc.sds_resources import SecretResource

# Nonces are this stream's own: its name, a dash and a count. A longer one is not ours and is not looked at.
MAX_NONCE_LENGTH = 64
_NONCE = re.compile(r"([0-9a-zA-Z]+)-([1-9][0-9]{0,15})")


class Reply(Enum):
    """What a request was. STALE: it refers to a response that is no longer the one in question."""

    REQUEST = "request"
    ACK = "ack"
    NACK = "nack"
    STALE = "stale"


class Exchange(Protocol):
    """One stream of either variant."""

    def __init__(self, catalog: Catalog, stream: str) -> None:
        """Begin a stream on which `catalog`'s owner may ask, `stream` setting its nonces apart."""
        ...

    @property
    def due(self) -> bool:
        """Whether what the client said last may call for a response."""
        ...

    @property
    def wanted(self) -> frozenset[str]:
        """The plain names of the secrets that the client is subscribed to."""
        ...

    def receive(self, request: Any) -> tuple[Self, Reply]:
        """Return the state after `request`. Raises InvalidInputError if it breaks the protocol or asks for too much."""
        ...

    def offer(self, resources: Mapping[str, SecretResource]) -> tuple[Self, Any | None]:
        """Return the response that brings the client up to `resources` (one for each wanted name), if one is needed."""
        ...


def make_nonce(stream: str, number: int) -> str:
    """Return the nonce of the response `number` (from 1) of a stream."""
    return f"{stream}-{number}"


def nonce_number(stream: str, nonce: str) -> int | None:
    """Return which response of the stream `nonce` belongs to, None if it is not this stream's."""
    if len(nonce) > MAX_NONCE_LENGTH:
        return None
    found = _NONCE.fullmatch(nonce)
    return int(found[2]) if found and found[1] == stream else None
