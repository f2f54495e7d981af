"""Where the agent finds its join token."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from app.agent.model import JoinToken
from app.core.errors import InvalidInputError

# A token is a few dozen characters; a file with more than this holds something else.
MAX_TOKEN_LENGTH = 4096

# The characters that a gRPC metadata value may have without being changed or split.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that was given when the agent was started."""

    secret: str = field(repr=False)

    def read(self) -> JoinToken | None:
        """Return the token. Raises InvalidInputError if it is malformed."""
        return _token(self.secret, "the join token")


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token in a file, which may be put there or replaced while the agent runs."""

    path: Path

    def read(self) -> JoinToken | None:
        """Return the token in the file, None if there is no file. Raises InvalidInputError if it is malformed."""
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_TOKEN_LENGTH + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInputError(f"cannot read the join token file {self.path}: {error.strerror}") from error
        return _token(content.decode("utf-8", "replace"), f"the file {self.path}")


@dataclass(frozen=True, slots=True)
class NoToken:
    """No token: the agent uses the identity that it saved."""

    def read(self) -> JoinToken | None:
        """Return None."""
        return None


def _token(text: str, where: str) -> JoinToken:
    secret = text.strip()
    if len(secret) > MAX_TOKEN_LENGTH or not _TOKEN.fullmatch(secret):
        raise InvalidInputError(
            f"{where} does not hold a join token: it must be one word, as `meshward token create` prints it"
        )
    return JoinToken(secret)
