"""Where policies come from: files on this machine, or a bundle at a URL."""

import asyncio
import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Protocol

import httpx
import structlog

from app.authz.backends.bundle_archive import MAX_BYTES, unpack
from app.authz.backends.rego_files import read_files
from app.core.bounded_files import read_regular
from app.core.clock import Clock
from app.core.errors import InvalidInputError, MeshwardError, UnavailableError
from app.core.last_good import LastGoodFile

# For the whole answer, however slowly it comes.
FETCH_SECONDS = 10.0
# After a failure a bundle is asked for again after one second, then two, and so on, up to this.
MAX_BACKOFF_SECONDS = 60.0
# Replicas that start together ask at times that differ by this part of the interval.
JITTER = 0.1
MAX_TOKEN_BYTES = 16 * 1024

_OK, _NOT_MODIFIED = 200, 304
_log = structlog.get_logger(__name__)
_random = SystemRandom()

Files = Mapping[str, bytes]


class PolicySource(Protocol):
    """Reads the files of policies."""

    @property
    def what(self) -> str:
        """Where the files are from, for messages."""
        ...

    async def read(self) -> Files:
        """Return the files by their names. Raises MeshwardError if there are none to be had."""
        ...

    async def activated(self, files: Files) -> None:
        """Note that these decide now."""
        ...


class PathSource:
    """A file, a directory or a bundle on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: Files | None = None

    @property
    def what(self) -> str:
        """The path."""
        return str(self._path)

    async def read(self) -> Files:
        """Return the files, the same ones each time unless they were changed."""
        files = await asyncio.to_thread(read_files, self._path)
        if files == self._files:
            return self._files
        if files != await asyncio.to_thread(read_files, self._path):
            raise UnavailableError(f"the files of {self._path} change while they are read")
        self._files = files
        return files

    async def activated(self, files: Files) -> None:
        """Do nothing: they stay where they are."""


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """Where a bundle is, and how it is asked for.

    `poll_seconds` is how often. `ca_file` has the authorities that the server is verified by, instead of the public
    ones; `token_file` the bearer token that is sent, read each time.
    """

    url: str
    poll_seconds: float
    ca_file: Path | None = None
    token_file: Path | None = None


class BundleUrl:
    """A bundle at one URL and no other: redirects are not followed, no proxy or variable is asked.

    It is asked for with the ETag of what is there already. What fails is asked for again, later each time, and leaves
    what is there. With `kept`, what was active last is there after a start without the server.
    """

    def __init__(
        self,
        options: BundleOptions,
        clock: Clock,
        kept: LastGoodFile | None = None,
        jitter: Callable[[], float] = lambda: _random.uniform(1 - JITTER, 1 + JITTER),
    ) -> None:
        self._options, self._clock, self._kept, self._jitter = options, clock, kept, jitter
        self._files: Files | None = None
        self._content = b""
        self._etag = ""
        self._due = 0.0
        self._failures = 0
        self._problem: MeshwardError | None = None

    @property
    def what(self) -> str:
        """The URL."""
        return self._options.url

    async def read(self) -> Files:
        """Return the files of the bundle, which is asked for if it is time to."""
        if self._clock.monotonic() < self._due:
            return self._there()
        try:
            await self._refresh()
        except MeshwardError as error:
            self._problem = error
            self._due = self._clock.monotonic() + min(2.0**self._failures, MAX_BACKOFF_SECONDS) * self._jitter()
            self._failures += 1
            if await self._read_kept():
                return self._there(although_failed=True)
            raise
        self._problem, self._failures = None, 0
        self._due = self._clock.monotonic() + self._options.poll_seconds * self._jitter()
        return self._there()

    def _there(self, *, although_failed: bool = False) -> Files:
        if self._problem is not None and not although_failed:
            raise self._problem.with_traceback(None)
        if self._files is None:
            raise UnavailableError(f"{self.what} has not been fetched yet")
        return self._files

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                found = await self._fetch()
        except TimeoutError as error:
            raise UnavailableError(f"{self.what} did not answer within {FETCH_SECONDS:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError, ValueError) as error:
            raise UnavailableError(f"cannot fetch {self.what}: {error or type(error).__name__}") from error
        if found is not None:
            content, etag = found
            # With the ETag of a bundle that is refused the server would answer that nothing changed.
            self._files = await asyncio.to_thread(unpack, content, self.what)
            self._content, self._etag = content, etag

    async def _fetch(self) -> tuple[bytes, str] | None:
        """Return the bundle and its ETag, None if it is the one that is there."""
        options = self._options
        headers = {"accept-encoding": "identity"}
        if self._etag and self._files is not None:
            headers["if-none-match"] = self._etag
        if options.token_file is not None:
            token = await asyncio.to_thread(read_regular, options.token_file, MAX_TOKEN_BYTES)
            headers["authorization"] = f"Bearer {token.decode('ascii').strip()}"
        tls = await asyncio.to_thread(_tls, options.ca_file)
        async with (
            httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=FETCH_SECONDS) as client,
            client.stream("GET", options.url, headers=headers) as response,
        ):
            if response.status_code == _NOT_MODIFIED and "if-none-match" in headers:
                return None
            if response.status_code != _OK:
                redirect = ", and redirects are not followed" if response.is_redirect else ""
                raise UnavailableError(f"{options.url} answered {response.status_code}{redirect}")
            content = b""
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > MAX_BYTES:
                    raise InvalidInputError(f"{options.url} answered more than {MAX_BYTES} bytes")
            return content, response.headers.get("etag", "")

    async def activated(self, files: Files) -> None:
        """Keep the bundle for a start without the server."""
        if self._kept is None or files is not self._files or not self._content:
            return
        try:
            await asyncio.to_thread(self._kept.write, [b64encode(self._content).decode("ascii")])
        except MeshwardError as error:
            _log.warning("bundle_not_kept", url=self.what, reason=error.message)

    async def _read_kept(self) -> bool:
        """Take what was active last, if nothing else is there; return whether it was taken."""
        if self._files is not None or self._kept is None:
            return False
        try:
            content = await asyncio.to_thread(self._kept.read, _decoded)
            self._files = await asyncio.to_thread(unpack, content, self.what)
        except MeshwardError:
            return False
        _log.warning("bundle_of_last_run", url=self.what)
        return True


def _decoded(items: list[object]) -> bytes:
    (item,) = items
    return b64decode(str(item), validate=True)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=str(ca_file))
