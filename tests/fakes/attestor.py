"""An Attestor with one secret."""

from app.core.errors import UnauthenticatedError


class SecretAttestor:
    """Accepts one secret as the proof of one caller; without a caller, no evidence is of its kind."""

    def __init__(self, secret, caller, reason="", error=None) -> None:
        self._secret, self._caller, self._reason, self._error = secret, caller, reason, error

    async def attest(self, evidence):
        if self._error is not None:
            raise self._error
        if self._caller is not None and evidence.bearer != self._secret:
            raise UnauthenticatedError(f"not {self._caller.name}", reason=self._reason)
        return self._caller
