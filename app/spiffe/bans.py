"""What the parts that refuse banned callers need to know of bans."""

from typing import Protocol

from app.core.errors import MeshwardError
from app.core.signals import Signal

# The reason of a refusal, in metrics and logs.
BANNED = "banned"


class BanLookup(Protocol):
    """The active bans of identities and certificates. `changed` fires after each change of them.

    `any`: there may be one; without, `refusal` returns None for everybody.
    """

    changed: Signal
    any: bool

    def refusal(self, identity: str, serial: str) -> MeshwardError | None:
        """Return why an identity, `example.org/ns/shop/sa/cart`, or its certificate is refused, None if it is not.

        `serial` is hexadecimal, 32 digits; it is empty where the certificate is not known.
        """
        ...


class NoBans:
    """A BanLookup without a ban."""

    def __init__(self) -> None:
        self.changed, self.any = Signal(), False

    def refusal(self, _identity: str, _serial: str) -> MeshwardError | None:
        """Return None."""
        return None
