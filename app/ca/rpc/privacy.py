"""Whether what a call carries can be read on the way: a join token to us, a private key to the caller."""

from app.transport.grpc.context import CallContext
from app.transport.grpc.peer import is_local


def is_private(context: CallContext) -> bool:
    """Whether the call came over TLS, or does not leave this machine."""
    host = context.peer.rpartition(":")[0] or context.peer
    return context.tls or is_local(host.strip("[]"))
