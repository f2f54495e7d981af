"""What a handler knows about the call it answers."""

import re
import uuid

from app.spiffe.principal import ANONYMOUS, Principal
from app.transport.grpc.peer import is_local
from app.transport.grpc.wire import Headers, Metadata, parse_metadata

# A request id of the client is used only if it is harmless in a log line and in a header.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class CallContext:
    """One RPC as its handler sees it.

    `deadline` is in the event loop's time, None if the call may take any time. `principal` is the authenticated caller.
    Append to `initial_metadata` before the first message, to `trailing_metadata` before the call ends.
    """

    # Defaults of the class: a call on the fast path sets few of them, and what is not set costs nothing.
    deadline: float | None = None
    principal: Principal = ANONYMOUS
    # Whether the handler has asked for metadata to send.
    sends_metadata: bool = False
    _metadata: Metadata | None = None
    _request_id = ""
    _initial: list[tuple[str, str]] | None = None
    _trailing: list[tuple[str, str]] | None = None

    def __init__(
        self,
        method: str,
        peer: str,
        metadata: Metadata | None = None,
        *,
        tls: bool = False,
        principal: Principal | None = None,
    ) -> None:
        self._method = method
        self._peer = peer
        self._metadata = metadata
        self._tls = tls
        if principal is not None:
            self.principal = principal

    @property
    def method(self) -> str:
        """The RPC's path, `/package.Service/Method`."""
        return self._method

    @property
    def peer(self) -> str:
        """The client's `address:port`, or `unix` for a Unix socket."""
        return self._peer

    @property
    def tls(self) -> bool:
        """Whether the listener terminated TLS."""
        return self._tls

    @property
    def private(self) -> bool:
        """Whether only this process and the caller can read the call: it came over TLS, or from this machine."""
        host = self.peer.rpartition(":")[0] or self.peer
        return self.tls or is_local(host.strip("[]"))

    @property
    def headers(self) -> Headers:
        """The headers of the request, unparsed."""
        return ()

    @property
    def initial_metadata(self) -> list[tuple[str, str]]:
        """The metadata that is sent before the first message."""
        if self._initial is None:
            self._initial, self.sends_metadata = [], True
        return self._initial

    @property
    def trailing_metadata(self) -> list[tuple[str, str]]:
        """The metadata that is sent with the status."""
        if self._trailing is None:
            self._trailing, self.sends_metadata = [], True
        return self._trailing

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
            given = self.text("x-request-id")
            self._request_id = given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return self._request_id

    def text(self, key: str) -> str | None:
        """Return the first text value of metadata `key` (lower case), or None."""
        for value in self.metadata.get(key, ()):
            if isinstance(value, str):
                return value
        return None
