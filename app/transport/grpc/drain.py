"""The end of one server: what its open streams and its connections wait for."""

import asyncio
from dataclasses import dataclass, field


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True)
class Drain:
    """`streams` is done once open streams have to end; `connections` is set once no connection is held open any more.

    Made in the event loop that serves.
    """

    streams: "asyncio.Future[None]" = field(default_factory=_future)
    connections: asyncio.Event = field(default_factory=asyncio.Event)

    def end_streams(self) -> None:
        """Let open streams end."""
        if not self.streams.done():
            self.streams.set_result(None)

    def end_connections(self) -> None:
        """Let the connections be closed that have nothing open."""
        self.connections.set()
