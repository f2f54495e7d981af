"""The data dir of the agent: the identity in one file, and a lock that keeps a second agent out."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.agent.identity import Identity, accept_answer
from app.core.errors import MeshwardError, NotFoundError, PreconditionError
from app.core.private_files import ensure_private_directory, read_private_file, replace_private_file
from app.spiffe.bundle import parse_crls
from app.spiffe.x509_svid import parse_certificate

IDENTITY_FILE = "identity.json"
LOCK_FILE = "agent.lock"


class SavedIdentity(BaseModel):
    """The file's content: PEM, one certificate or revocation list a string, the key in PKCS#8."""

    # A message about a bad file must not repeat the key in it.
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    private_key: str
    chain: list[str] = Field(min_length=1)
    roots: list[str] = Field(min_length=1)
    crls: list[str] = Field(default_factory=list)


class IdentityStore:
    """The identity on disk: key, chain and roots in one file, so that they change together or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / IDENTITY_FILE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make and lock the directory for the block. Raises PreconditionError if it is locked or open to others."""
        ensure_private_directory(self._directory)
        path = self._directory / LOCK_FILE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PreconditionError(f"cannot open {path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PreconditionError(
                    f"another agent uses the data dir {self._directory}: stop it, or give this one its own --data-dir"
                ) from error
            except OSError as error:
                raise PreconditionError(f"cannot lock the data dir {self._directory}: {error.strerror}") from error
            yield
        finally:
            os.close(descriptor)

    def load(self, now: datetime) -> Identity | None:
        """Return the saved identity, which may have expired, or None. Raises PreconditionError if it is not whole."""
        try:
            content = read_private_file(self._path)
        except NotFoundError:
            return None
        try:
            return _parse(content, now)
        except (MeshwardError, ValidationError) as error:
            reason = error.message if isinstance(error, MeshwardError) else "it is damaged"
            raise PreconditionError(
                f"{self._path} does not hold a usable identity ({reason}): remove it and enrol with a new join token"
            ) from error

    def save(self, identity: Identity) -> None:
        """Replace the saved identity. Raises PreconditionError if it cannot be written."""
        saved = SavedIdentity(
            private_key=identity.svid.private_key.decode("ascii"),
            chain=list(identity.svid.chain),
            roots=list(identity.bundle.roots),
            crls=list(identity.bundle.crls),
        )
        replace_private_file(self._path, saved.model_dump_json(indent=1).encode("ascii"))


def _parse(content: bytes, now: datetime) -> Identity:
    saved = SavedIdentity.model_validate_json(content)
    leaf = parse_certificate(saved.chain[0])
    # An expired identity is loaded as well: it is verified as of its last moment, and the caller checks its time.
    moment = min(max(now, leaf.not_valid_before_utc), leaf.not_valid_after_utc)
    identity = accept_answer(saved.private_key.encode(), [*saved.chain, "".join(saved.roots)], moment)
    return Identity(identity.svid, replace(identity.bundle, crls=parse_crls("".join(saved.crls))))
