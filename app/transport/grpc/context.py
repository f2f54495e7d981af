"""What a handler knows about the call it answers."""

import asyncio
from dataclasses import dataclass, field

from app.core.caller import ANONYMOUS, Caller
from app.core.spiffe import SpiffeId


@dataclass(slots=True)
class CallContext:
    """One RPC as its handler sees it.

    `method` is `/package.Service/Method`. `metadata` maps lower-case keys to their values in order, text as str and
    `-bin` values decoded to bytes. `peer` is `address:port`, or `unix` for a Unix socket. `tls` says whether the
    listener terminated TLS; `client_chain` is the verified client chain, PEM, leaf first; `peer_id` its SPIFFE id.
    `deadline` is in the event loop's time, None if the client set none. `caller` is what authentication made of it.
    """

    method: str
    peer: str
    metadata: dict[str, tuple[str | bytes, ...]]
    tls: bool = False
    client_chain: tuple[str, ...] = ()
    peer_id: SpiffeId | None = None
    deadline: float | None = None
    request_id: str = ""
    caller: Caller = ANONYMOUS
    initial_metadata: list[tuple[str, str]] = field(default_factory=list)
    trailing_metadata: list[tuple[str, str]] = field(default_factory=list)

    def text(self, key: str) -> str | None:
        """Return the first text value of metadata `key` (lower case), or None."""
        for value in self.metadata.get(key, ()):
            if isinstance(value, str):
                return value
        return None

    def time_remaining(self) -> float | None:
        """Return the seconds left before the client gives up (never negative), or None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())
