"""Where the keys of an issuer of JWTs come from: one URL, or one file."""

import asyncio
import os
import ssl
import stat
from pathlib import Path

import httpx

from app.ca.ports import KeySetSource
from app.core.errors import InvalidInputError, UnavailableError
from app.spiffe.jwks import MAX_JWKS_BYTES

# For the whole answer, however slowly it comes; callers with a new key wait for it.
FETCH_SECONDS = 5.0
OK = 200


class JwksUrl(KeySetSource):
    """Fetches a JWK Set from one URL and no other: redirects are not followed, no proxy or variable is asked.

    `ca_file` has the authorities that the server's certificate is verified by (PEM), instead of the public ones.
    """

    def __init__(self, url: str, ca_file: Path | None = None, *, seconds: float = FETCH_SECONDS) -> None:
        self._url, self._ca_file, self._seconds = url, ca_file, seconds

    async def fetch(self) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._fetch()
        except TimeoutError as error:
            raise UnavailableError(f"{self._url} did not answer within {self._seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError, ValueError) as error:
            raise UnavailableError(f"cannot fetch {self._url}: {error or type(error).__name__}") from error

    async def _fetch(self) -> bytes:
        # Not decompressed: a few bytes could become gigabytes.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        tls = await asyncio.to_thread(self._tls)
        async with (
            httpx.AsyncClient(verify=tls, trust_env=False, follow_redirects=False, timeout=self._seconds) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != OK:
                redirect = ", and redirects are not followed" if response.is_redirect else ""
                raise UnavailableError(f"{self._url} answered {response.status_code}{redirect}")
            content = b""
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > MAX_JWKS_BYTES:
                    raise InvalidInputError(f"{self._url} answered more than {MAX_JWKS_BYTES} bytes")
            return content

    def _tls(self) -> ssl.SSLContext:
        if self._ca_file is None:
            return httpx.create_ssl_context(trust_env=False)
        return ssl.create_default_context(cafile=str(self._ca_file))


class JwksFile(KeySetSource):
    """Reads a JWK Set from a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> bytes:
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb", buffering=0, opener=_open_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise InvalidInputError(f"{self._path} is not a file")
                return file.read(MAX_JWKS_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"cannot read {self._path}: {error.strerror}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for a writer
