"""Who makes a call, as the transport established it."""

from dataclasses import dataclass
from enum import Enum

from app.core.spiffe import SpiffeId


class Credential(Enum):
    """What a caller proved its identity with."""

    SVID = "svid"
    JOIN_TOKEN = "join_token"  # noqa: S105 - the name of a credential, not one
    LOOPBACK = "loopback"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller of an RPC.

    `spiffe_id` is set for SVID and JOIN_TOKEN; `token_id` (the stored id of the join token, never its secret) only
    for JOIN_TOKEN: whoever issues for it consumes it in the same transaction.
    """

    credential: Credential
    spiffe_id: SpiffeId | None = None
    token_id: str | None = None


ANONYMOUS = Caller(Credential.NONE)
LOOPBACK = Caller(Credential.LOOPBACK)
