"""The introspection endpoint of an authorization server (RFC 7662), asked over connections that are kept."""

import asyncio
import ssl
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote_plus, urlencode

import httpx

from app.core.bounded_files import read_regular
from app.core.circuit import Circuit
from app.core.clock import Clock
from app.core.errors import MeshwardError, UnavailableError
from app.issuers.guard import Guard, IpAddress
from app.issuers.sources import OK, tls_context
from app.telemetry.metrics import Metrics

MAX_CONNECTIONS = 32
# Questions at once; of more, the last would only wait until their time is over.
MAX_CALLS = 1000
# What an answer says of a token with many claims.
MAX_ANSWER_BYTES = 64 << 10
MAX_SECRET_BYTES = 4096
# After so long addresses are looked up again, and the files are read again: secrets and authorities are replaced.
RENEW_SECONDS = 30.0

UNAUTHORIZED = 401
# The server is overloaded; as those from the second on, no answer to what was asked.
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Where the endpoint is, and how we prove there who we are (RFC 6749, section 2.3.1).

    `seconds` is how long an answer may take. `ca_file` has the authorities that its certificate is verified by, instead
    of the public ones.
    """

    name: str
    url: str
    client_id: str
    secret_file: Path
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    seconds: float = 1.0
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    client: httpx.AsyncClient
    addresses: tuple[IpAddress, ...]
    secret: str
    at: float


class HttpIntrospection:
    """Asks one endpoint and no other: redirects are not followed, no proxy or variable is asked.

    Its host's addresses are those that the guard lets through. A server that fails is left alone for a while.
    """

    def __init__(self, options: EndpointOptions, guard: Guard, clock: Clock, metrics: Metrics) -> None:
        self._options, self._guard, self._clock, self._metrics = options, guard, clock, metrics
        self._url = httpx.URL(options.url)
        self._circuit = Circuit()
        self._opened: _Opened | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._asking = 0

    async def introspect(self, token: str) -> bytes:
        """Return what the endpoint answers about a token. Raises UnavailableError, without the token, else."""
        if wait := self._circuit.admit(self._clock.monotonic()):
            raise self._error("unavailable", f"it is left alone for {wait:.0f} s, for it did not answer")
        if self._asking >= MAX_CALLS:
            raise self._error("unavailable", f"{MAX_CALLS} calls wait for it already")
        self._asking += 1
        try:
            async with asyncio.timeout(self._options.seconds):
                status, content = await self._ask(token)
        except TimeoutError as error:
            raise self._failed(f"it did not answer within {self._options.seconds:g} s") from error
        except MeshwardError as error:
            raise self._failed(error.message) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError, ValueError) as error:
            # What was not connected has sent nothing; another message of a library's may have what was sent.
            told = str(error) if isinstance(error, httpx.ConnectError | OSError) else ""
            raise self._failed(told or type(error).__name__) from error
        finally:
            self._asking -= 1
        return self._read(status, content)

    async def close(self) -> None:
        """Close the connections."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._opened is not None:
            await self._opened.client.aclose()

    async def _ask(self, token: str) -> tuple[int, bytes]:
        opened = await self._ready()
        for last, address in enumerate(opened.addresses, 1 - len(opened.addresses)):
            try:
                return await self._post(opened, address, token)
            except httpx.ConnectError:
                if last == 0:
                    raise
        raise UnavailableError("its host has no address")

    async def _post(self, opened: _Opened, address: IpAddress, token: str) -> tuple[int, bytes]:
        options = self._options
        form = {"token": token, "token_type_hint": "access_token"}
        headers = {
            "host": self._url.netloc.decode("ascii"),
            "accept": "application/json",
            "accept-encoding": "identity",  # not decompressed: a few bytes could become gigabytes
            "content-type": "application/x-www-form-urlencoded",
        }
        if options.method == "client_secret_post":
            form |= {"client_id": options.client_id, "client_secret": opened.secret}
        else:
            pair = f"{quote_plus(options.client_id)}:{quote_plus(opened.secret)}"
            headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        target = self._url.copy_with(host=str(address))
        extensions = {"sni_hostname": self._url.host}
        body = urlencode(form, errors="surrogatepass").encode()
        async with opened.client.stream(
            "POST", target, content=body, headers=headers, extensions=extensions
        ) as response:
            content = b""
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    raise UnavailableError(f"it answered more than {MAX_ANSWER_BYTES} bytes")
            return response.status_code, content

    async def _ready(self) -> _Opened:
        async with self._opening:
            now = self._clock.monotonic()
            if self._opened is None or now - self._opened.at >= RENEW_SECONDS:
                before, self._opened = self._opened, await self._open(now)
                if before is not None:
                    self._close_later(before.client)
            return self._opened

    async def _open(self, now: float) -> _Opened:
        options = self._options
        found = await self._guard.resolve(self._url.host, self._url.port or _PORTS[self._url.scheme])
        secret = await asyncio.to_thread(_read_secret, options.secret_file)
        tls = await asyncio.to_thread(tls_context, options.ca_file)
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        client = httpx.AsyncClient(
            verify=tls, trust_env=False, follow_redirects=False, timeout=options.seconds, limits=limits
        )
        return _Opened(client, tuple(found), secret, now)

    def _close_later(self, client: httpx.AsyncClient) -> None:
        """Close a client once every call over it has ended, or its time is over."""

        async def close() -> None:
            try:
                await asyncio.sleep(self._options.seconds)
            finally:
                await client.aclose()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _read(self, status: int, content: bytes) -> bytes:
        if status >= SERVER_ERROR or status == TOO_MANY_REQUESTS:
            raise self._failed(f"it answered {status}")
        self._circuit.succeeded()
        if status == UNAUTHORIZED:
            raise self._error("refused", "it answered 401: check client_id and client_secret_file")
        if status != OK:
            raise self._error("refused", f"it answered {status}")
        self._metrics.introspections.add((self._options.name, "ok"))
        return content

    def _failed(self, reason: str) -> UnavailableError:
        self._circuit.failed(self._clock.monotonic())
        return self._error("unavailable", reason)

    def _error(self, result: str, reason: str) -> UnavailableError:
        self._metrics.introspections.add((self._options.name, result))
        return UnavailableError(f"the authorization server {self._options.name} cannot be asked: {reason}")


def _read_secret(path: Path) -> str:
    try:
        content = read_regular(path, MAX_SECRET_BYTES + 1)
        secret = content.decode().strip("\r\n")
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UnavailableError(f"{path} is not text") from None
    if not secret or len(content) > MAX_SECRET_BYTES:
        raise UnavailableError(f"{path} must have a secret of up to {MAX_SECRET_BYTES} bytes")
    return secret
