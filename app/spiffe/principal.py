"""Who makes a call, as the transport established it."""

from dataclasses import dataclass
from enum import Enum

from app.spiffe.id import SpiffeId
from app.spiffe.service_account import ServiceAccount


class Credential(Enum):
    """What a principal was authenticated by. INTERNAL is the control plane itself, by its schedule."""

    SVID = "svid"
    JOIN_TOKEN = "join_token"  # noqa: S105 - the name of a credential, not one
    JWT = "jwt"
    SERVICE_ACCOUNT = "service_account"
    FORWARDED = "forwarded_certificate"
    LOOPBACK = "loopback"
    ADMIN_TOKEN = "admin_token"  # noqa: S105 - as above
    INTERNAL = "internal"
    NONE = "none"


class Role(Enum):
    """What a principal may do through the admin API."""

    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of a use case: who it is, how that was proved, what it may do, where it calls from.

    `spiffe_id` is set for SVID, JOIN_TOKEN, JWT, SERVICE_ACCOUNT and FORWARDED. `service_account` is whose token it
    was, as the API server said, for SERVICE_ACCOUNT; `token_id` (the stored id of the join token, never its secret) is
    set only for JOIN_TOKEN: an issuance consumes it in the same transaction. `serial` is the serial number of an SVID's
    certificate, 32 hexadecimal digits, empty where it is not known. `address` is the peer's, `host:port` or `unix`;
    `request_id` is the id under which the call is logged. Both are empty where the transport does not provide them.
    """

    credential: Credential
    spiffe_id: SpiffeId | None = None
    token_id: str | None = None
    roles: frozenset[Role] = frozenset()
    address: str = ""
    request_id: str = ""
    serial: str = ""
    service_account: ServiceAccount | None = None

    @property
    def name(self) -> str:
        """The name in audit records and logs: the SPIFFE ID, or the kind of the credential."""
        return str(self.spiffe_id) if self.spiffe_id else self.credential.value


ANONYMOUS = Principal(Credential.NONE)
