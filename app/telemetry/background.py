"""A stream that is written by a thread: a reader that does not read, or a slow disk, holds no event loop."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import structlog

# Characters that wait to be written: ten thousand lines. What comes then is left out and counted.
MAX_WAITING_CHARACTERS = 4 << 20
# How long the end of the process waits for the last lines.
CLOSE_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class BackgroundStream:
    """Takes lines without ever waiting; `log_lines_left_out` says how many were left out once there is room again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._waiting = 0
        self._left_out = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Have the text written, or leave it out if there is too much already."""
        with self._changed:
            if self._waiting + len(text) > MAX_WAITING_CHARACTERS:
                self._left_out += 1
                return
            self._lines.append(text)
            self._waiting += len(text)
            self._changed.notify()

    def flush(self) -> None:
        """Do nothing: the thread flushes what it has written."""

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return self._stream.isatty()

    def close(self) -> None:
        """Write what waits, for CLOSE_SECONDS at most."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while lines := self._next():
            with suppress(OSError, ValueError):  # there is nobody to be told
                self._stream.write(lines)
                self._stream.flush()
            with self._changed:
                self._waiting -= len(lines)
                left_out, self._left_out = self._left_out, 0
            if left_out:
                _log.warning("log_lines_left_out", lines=left_out)

    def _next(self) -> str:
        """Return the lines that wait, "" once there are none and will be none."""
        with self._changed:
            while not self._lines and not self._closed:
                self._changed.wait()
            lines = "".join(self._lines)
            self._lines.clear()
            return lines


@contextmanager
def written_in_background(stream: TextIO) -> Iterator[BackgroundStream]:
    """Yield a stream that is written by a thread, to its end when the block ends."""
    background = BackgroundStream(stream)
    try:
        yield background
    finally:
        background.close()
