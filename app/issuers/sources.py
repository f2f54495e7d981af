"""Where the keys of an issuer of JWTs come from: a URL, the issuer's own description of itself, or a file."""

import asyncio
import ssl
from pathlib import Path

import httpx

from app.core.bounded_files import read_regular
from app.core.errors import InvalidInputError, UnavailableError
from app.core.json_text import parse_object
from app.issuers.guard import Guard, IpAddress
from app.issuers.keys import KeySetSource
from app.spiffe.jwks import MAX_JWKS_BYTES

# For the whole answer, however slowly it comes; callers with a new key wait for it.
FETCH_SECONDS = 5.0
OK = 200
# OpenID Connect Discovery 1.0, section 4.
DISCOVERY = "/.well-known/openid-configuration"
_PORTS = {"http": 80, "https": 443}


class Fetcher:
    """Gets documents by URL within `seconds`: redirects are not followed, no proxy or variable is asked.

    `ca_file` has the authorities that the server's certificate is verified by (PEM), instead of the public ones.
    With a `guard`, the addresses of the server are those that it lets through.
    """

    def __init__(
        self, ca_file: Path | None = None, *, seconds: float = FETCH_SECONDS, guard: Guard | None = None
    ) -> None:
        self._ca_file, self._seconds, self._guard = ca_file, seconds, guard

    async def get(self, url: str) -> bytes:
        """Return the document. Raises as `KeySetSource.fetch` does."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._get(url)
        except TimeoutError as error:
            raise UnavailableError(f"{url} did not answer within {self._seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError, ValueError) as error:
            raise UnavailableError(f"cannot fetch {url}: {error or type(error).__name__}") from error

    async def _get(self, url: str) -> bytes:
        # Nothing is looked up a second time after it was let through, and a variable is no proxy.
        addresses = await self._addresses(httpx.URL(url))
        tls = await asyncio.to_thread(tls_context, self._ca_file)
        async with httpx.AsyncClient(
            verify=tls, trust_env=False, follow_redirects=False, timeout=self._seconds
        ) as client:
            for last, address in enumerate(addresses, 1 - len(addresses)):
                try:
                    return await _read(client, url, address)
                except httpx.ConnectError:
                    if last == 0:
                        raise
        raise UnavailableError(f"cannot fetch {url}: its host has no address")

    async def _addresses(self, url: httpx.URL) -> "list[IpAddress | None]":
        if self._guard is None:
            return [None]
        return [*await self._guard.resolve(url.host, url.port or _PORTS.get(url.scheme, 0))]


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return what a server's certificate is verified by: the authorities in the file (PEM), or the public ones."""
    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    return ssl.create_default_context(cafile=str(ca_file))


async def _read(client: httpx.AsyncClient, url: str, address: IpAddress | None) -> bytes:
    # Not decompressed: a few bytes could become gigabytes.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    extensions = {}
    target = httpx.URL(url)
    if address is not None:
        headers["host"] = target.netloc.decode("ascii")
        extensions["sni_hostname"] = target.host
        target = target.copy_with(host=str(address))
    async with client.stream("GET", target, headers=headers, extensions=extensions) as response:
        if response.status_code != OK:
            redirect = ", and redirects are not followed" if response.is_redirect else ""
            raise UnavailableError(f"{url} answered {response.status_code}{redirect}")
        content = b""
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > MAX_JWKS_BYTES:
                raise InvalidInputError(f"{url} answered more than {MAX_JWKS_BYTES} bytes")
        return content


class JwksUrl(KeySetSource):
    """Fetches a JWK Set from one URL and no other."""

    def __init__(self, url: str, fetcher: Fetcher) -> None:
        self._url, self._fetcher = url, fetcher

    async def fetch(self) -> bytes:
        """Return the JWK Set, as `KeySetSource.fetch` says."""
        return await self._fetcher.get(self._url)


class DiscoveredJwks(KeySetSource):
    """Fetches a JWK Set from where an issuer says that it is (OpenID Connect Discovery 1.0)."""

    def __init__(self, issuer: str, fetcher: Fetcher) -> None:
        self._issuer, self._fetcher = issuer, fetcher

    async def fetch(self) -> bytes:
        """Return the JWK Set, as `KeySetSource.fetch` says."""
        content = await self._fetcher.get(f"{self._issuer.removesuffix('/')}{DISCOVERY}")
        url = parse_object(content, f"{self._issuer}{DISCOVERY}").get("jwks_uri")
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise InvalidInputError(f"{self._issuer}{DISCOVERY} has no 'jwks_uri' that is a URL")
        return await self._fetcher.get(url)


class JwksFile(KeySetSource):
    """Reads a JWK Set from a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> bytes:
        """Return the JWK Set, as `KeySetSource.fetch` says."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        try:
            return read_regular(self._path, MAX_JWKS_BYTES + 1)
        except OSError as error:
            raise UnavailableError(f"cannot read {self._path}: {error.strerror}") from error
