"""Bans of listed identities and serial numbers."""

from app.core.errors import PermissionDeniedError
from app.core.signals import Signal
from app.spiffe.bans import BANNED


class ListedBans:
    def __init__(self) -> None:
        self.changed, self.any = Signal(), True
        self._banned: set[str] = set()

    def ban(self, *banned):
        """Replace what is banned: identities without their scheme, and serial numbers."""
        self._banned = set(banned)
        self.changed.fire()

    def refusal(self, identity, serial):
        found = {identity, serial} & self._banned
        return PermissionDeniedError(f"{found} banned", reason=BANNED) if found else None
