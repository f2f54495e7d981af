"""The admin token, in a private file of the data dir: its bearer may use the admin API. Read again when replaced."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Annotated

import structlog
from fastapi import Depends, Request

from app.core.errors import ConflictError, MeshwardError, NotFoundError, PreconditionError, UnauthenticatedError
from app.core.private_files import create_private_file, read_private_file, replace_private_file
from app.spiffe.principal import Credential, Principal, Role
from app.transport.rest.problems import request_id_of

TOKEN_BYTES = 32
# Fewer characters cannot have 128 random bits; more are not a token.
MIN_TOKEN_LENGTH = 22
MAX_TOKEN_LENGTH = 4096

_log = structlog.get_logger(__name__)


def current_principal(request: Request) -> Principal:
    """Return the principal that the route's authentication established. Raises UnauthenticatedError without one."""
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise UnauthenticatedError("this request was not authenticated")
    return principal


Caller = Annotated[Principal, Depends(current_principal)]
"""The parameter of an endpoint that needs its caller."""


def ensure_token(path: Path) -> None:
    """Create the file with a new token of 256 random bits if there is none. Raises PreconditionError if that fails."""
    try:
        read_token(path)
    except NotFoundError:
        try:
            create_private_file(path, _new_token())
        except ConflictError:
            read_token(path)  # another process was first: use its file


def rotate_token(path: Path) -> None:
    """Replace the token; the previous one is invalid from the server's next request on."""
    replace_private_file(path, _new_token())


def read_token(path: Path) -> str:
    """Return the token in the file. Raises NotFoundError without a file, PreconditionError if it is not safe."""
    content = read_private_file(path)
    token = content.decode("ascii", errors="replace").strip()
    if not MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH or not token.isascii() or not token.isprintable():
        raise PreconditionError(f"{path} contains no token: run meshward admin token --rotate")
    return token


class TokenAuthenticator:
    """Admits requests with the token in `path`; all others are refused with one message."""

    def __init__(self, path: Path) -> None:
        """Read the token. Raises as `read_token` does."""
        self._path = path
        self._stamp = self._stat()
        self._digest: bytes | None = _digest(read_token(path).encode())

    def authenticate(self, request: Request) -> Principal:
        """Return the bearer of the token. Raises UnauthenticatedError for any other caller; its token is not logged."""
        reason = self._refusal(request.headers.getlist("authorization"))
        if reason is not None:
            # Edge counts it and logs it.
            request.state.refusal = reason
            raise UnauthenticatedError(
                "send the admin token as `Authorization: Bearer …`; `meshward admin token` finds it", reason=reason
            )
        return Principal(
            Credential.ADMIN_TOKEN,
            roles=frozenset({Role.ADMIN}),
            address=request.client.host if request.client else "",
            request_id=request_id_of(request),
        )

    def _refusal(self, headers: list[str]) -> str | None:
        if len(headers) != 1:
            return "no_credential" if not headers else "several_credentials"
        scheme, _, token = headers[0].partition(" ")
        if scheme.lower() != "bearer":
            return "not_a_bearer_token"
        if len(token) > MAX_TOKEN_LENGTH:
            return "wrong_token"
        self._reload_if_replaced()
        # HTTP header values arrive as ISO 8859-1. Digests have one length, so that comparing them leaks nothing.
        presented = _digest(token.strip().encode("latin-1", errors="replace"))
        if self._digest is None or not hmac.compare_digest(presented, self._digest):
            return "wrong_token"
        return None

    def _reload_if_replaced(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digest = _digest(read_token(self._path).encode())
            _log.info("admin_token_replaced")
        except MeshwardError as error:
            self._digest = None
            _log.error("admin_token_unusable", problem=error.message)

    def _stat(self) -> tuple[int, ...] | None:
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode, status.st_uid


def _new_token() -> bytes:
    return secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
