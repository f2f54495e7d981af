"""The context of a call, as a handler sees it."""

from app.spiffe.principal import ANONYMOUS
from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import read_peer


def call_context(method="/a.Service/Method", *, peer="127.0.0.1:40000", tls=False, headers=(), principal=ANONYMOUS):
    """A call from `peer`, which is `host:port` or `unix`."""
    host, _, port = peer.rpartition(":")
    extensions = {"tls": {"client_cert_chain": (), "client_cert_error": None}} if tls else {}
    scope = {"client": None if peer == "unix" else (host.strip("[]"), port), "extensions": extensions}
    return CallContext(method, read_peer(scope), headers, principal)
