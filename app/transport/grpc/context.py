"""What a handler knows about the call it answers."""

from app.spiffe.principal import ANONYMOUS, Principal
from app.telemetry.logs import request_id
from app.transport.grpc.peer import Peer
from app.transport.grpc.wire import Headers, Metadata, parse_metadata


class CallContext:
    """One RPC as its handler sees it.

    `method` is its path, `/package.Service/Method`, `headers` are unparsed, `principal` is the authenticated caller.
    `deadline` is in the event loop's time, None if the call may take any time.
    """

    # Defaults of the class: a call on the fast path sets few of them, and what is not set costs nothing.
    deadline: float | None = None
    _metadata: Metadata | None = None
    _request_id = ""

    def __init__(self, method: str, peer: Peer, headers: Headers = (), principal: Principal = ANONYMOUS) -> None:
        self.method = method
        self.peer = peer
        self.headers = headers
        self.principal = principal

    @property
    def metadata(self) -> Metadata:
        """The call's custom metadata: lower-case keys to their values in order, `-bin` values as bytes."""
        if self._metadata is None:
            self._metadata = parse_metadata(self.headers)
        return self._metadata

    @property
    def request_id(self) -> str:
        """The client's `x-request-id` if it is harmless, else a new one."""
        if not self._request_id:
            self._request_id = request_id(self.text("x-request-id"))
        return self._request_id

    def text(self, key: str) -> str | None:
        """Return the first text value of metadata `key` (lower case), or None."""
        for value in self.metadata.get(key, ()):
            if isinstance(value, str):
                return value
        return None
