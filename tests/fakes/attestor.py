"""An Attestor with one secret."""

from app.core.errors import UnauthenticatedError


class SecretAttestor:
    """Accepts one secret as the proof of one caller."""

    def __init__(self, secret, caller) -> None:
        self._secret, self._caller = secret, caller

    async def attest(self, evidence):
        if evidence.bearer != self._secret:
            raise UnauthenticatedError(f"not {self._caller.name}")
        return self._caller
