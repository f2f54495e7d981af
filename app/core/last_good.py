"""What was last known to be good, in a file of the data directory, for a start without the database."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from app.core.errors import InvalidInputError, MeshwardError, PreconditionError
from app.core.private_files import discard, ensure_private_directory, read_private_file, replace_private_file

FORMAT = b"meshward-last-good-1"
# More than what the documents of one kind take; a file that is larger is not kept, and not read.
MAX_BYTES = 64 << 20

Value = TypeVar("Value")


class LastGoodFile:
    """A value as lines of JSON, mode 0600, replaced whole.

    The first line has the format and the SHA-256 of all that follows, the second what the value is and of which
    database. A file that is not whole, of another database, or not this user's alone is refused.
    """

    def __init__(self, path: Path, what: str, source: str) -> None:
        """`source` is the database, or the server, that the value is of."""
        self.path, self._head = path, json.dumps({"what": what, "source": source}).encode()

    def write(self, items: Sequence[object]) -> None:
        """Keep `items`, unless they are what is kept already.

        Raises a MeshwardError if they cannot be kept. Then nothing is: what was kept before is known to be out of date,
        and must not decide again.
        """
        body = b"\n".join((self._head, *(json.dumps(item).encode() for item in items)))
        content = b"%s %s\n%s" % (FORMAT, hashlib.sha256(body).hexdigest().encode(), body)
        try:
            if self._content() == content:
                return
            if len(content) > MAX_BYTES:
                raise PreconditionError(f"{self.path} would be larger than {MAX_BYTES} bytes: nothing is kept")
            ensure_private_directory(self.path.parent)
            replace_private_file(self.path, content)
        except MeshwardError:
            discard(self.path)
            raise

    def read(self, decode: Callable[[list[object]], Value]) -> Value:
        """Return what `decode` makes of the items.

        Raises NotFoundError if nothing is kept; PreconditionError if what is kept cannot be trusted or is not what
        `decode` takes.
        """
        try:
            ensure_private_directory(self.path.parent)
            lines = self._lines(read_private_file(self.path, MAX_BYTES))
            return decode([json.loads(line) for line in lines])
        except InvalidInputError as error:
            raise PreconditionError(f"{self.path} is refused: {error.message}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise PreconditionError(f"{self.path} is refused: its content cannot be read") from error

    def _lines(self, content: bytes) -> list[bytes]:
        first, _, body = content.partition(b"\n")
        if first != b"%s %s" % (FORMAT, hashlib.sha256(body).hexdigest().encode()):
            raise InvalidInputError("it is damaged, or of another version")
        head, *lines = body.split(b"\n")
        if head != self._head:
            raise InvalidInputError("it is of another database")
        return lines

    def _content(self) -> bytes | None:
        try:
            return read_private_file(self.path, MAX_BYTES)
        except MeshwardError:  # it is replaced
            return None
