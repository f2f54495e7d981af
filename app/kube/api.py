"""The API server of one cluster: how it is reached, how long it may take, and when it is left alone."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client, config

from app.core.circuit import Circuit
from app.core.clock import Clock
from app.core.errors import InvalidInputError, NotFoundError, UnavailableError
from app.core.json_text import parse_object
from app.telemetry.metrics import Metrics

# Calls at once, over as many connections; of those that wait for one, more would only wait until their time is over.
MAX_CONNECTIONS = 32
MAX_CALLS = 1000
# A review is 2 KB, a list of a few pods some hundred.
MAX_ANSWER_BYTES = 4 << 20

NOT_FOUND = 404
CREATED = 201
OK = 200
# The API server is overloaded; as those from this on, no answer to what was asked.
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
# What it says to a caller that it does not know, or that may not do this.
UNAUTHORIZED = 401
NOT_ALLOWED = frozenset({UNAUTHORIZED, 403})

Call = Callable[[Any], Awaitable[Any]]
"""Makes a call with the client and returns the response of its HTTP client, not read yet."""


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """A cluster by its id, and how its API server is reached: as a pod of it, or by a context of a kubeconfig file.

    `seconds` is how long an answer may take.
    """

    cluster: str
    kubeconfig: Path | None
    context: str | None
    seconds: float


class KubeApi:
    """Asks one API server. Nothing is read or connected before the first call."""

    def __init__(self, access: ClusterAccess, clock: Clock, metrics: Metrics) -> None:
        self.access = access
        self._clock, self._metrics = clock, metrics
        self._circuit = Circuit()
        self._client: client.ApiClient | None = None
        self._configured = False
        self._configuring = asyncio.Lock()
        self._asking = 0

    async def ask(self, what: str, call: Call) -> dict[str, Any]:
        """Return the object that the API server answers `call` with; `what` is the call's name in messages.

        Raises NotFoundError if there is no such object, and UnavailableError, with the reason, if there is no answer
        in time, or another one.
        """
        if wait := self._circuit.admit(self._clock.monotonic()):
            raise self._away(what, f"it is left alone for {wait:.0f} s, for it did not answer")
        if self._asking >= MAX_CALLS:
            raise self._away(what, f"{MAX_CALLS} calls wait for it already")
        self._asking += 1
        try:
            async with asyncio.timeout(self.access.seconds):
                status, content = await self._answer(call)
        except TimeoutError as error:
            raise self._failed(what, f"it did not answer within {self.access.seconds:g} s") from error
        except (aiohttp.ClientError, client.ApiException, config.ConfigException, OSError, ValueError) as error:
            raise self._failed(what, str(error) or type(error).__name__) from error
        finally:
            self._asking -= 1
        return self._read(what, status, content)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _answer(self, call: Call) -> tuple[int, bytes]:
        response = await call(await self._ready())
        try:
            content = b""
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > MAX_ANSWER_BYTES:
                    raise ValueError(f"it answered more than {MAX_ANSWER_BYTES} bytes")
            return response.status, content
        finally:
            response.release()

    async def _ready(self) -> client.ApiClient:
        async with self._configuring:
            if self._client is None:
                # No variable of the environment and no .netrc say where a token is sent.
                settings = client.Configuration(client_session_kwargs={"trust_env": False})
                settings.connection_pool_maxsize = MAX_CONNECTIONS
                await self._configure(settings)
                self._client = client.ApiClient(settings)
            elif not self._configured:
                await self._configure(self._client.configuration)
            self._configured = True
        return self._client

    async def _configure(self, settings: client.Configuration) -> None:
        """Read where the API server is, and what proves there who we are."""
        path = self.access.kubeconfig
        if path is None:
            await asyncio.to_thread(config.load_incluster_config, settings)
            return
        try:
            await config.load_kube_config(
                str(path), context=self.access.context, client_configuration=settings, persist_config=False
            )
        except (config.ConfigException, OSError):
            raise
        except Exception as error:  # noqa: BLE001
            # A file can be wrong in any way, and what is raised then may quote it, with its secrets.
            raise config.ConfigException(f"{path} is not a kubeconfig: {type(error).__name__}") from None

    def _read(self, what: str, status: int, content: bytes) -> dict[str, Any]:
        if status >= SERVER_ERROR or status == TOO_MANY_REQUESTS:
            raise self._failed(what, f"it answered {status}")
        self._circuit.succeeded()
        # As for a kubeconfig whose token was replaced; within a cluster it is read again every minute anyway.
        self._configured = status != UNAUTHORIZED
        self._metrics.kubernetes_available.set((self.access.cluster,), 1)
        if status == NOT_FOUND:
            self._count(what, "not_found")
            raise NotFoundError(f"the cluster {self.access.cluster} has no such object: {what}")
        if status in NOT_ALLOWED:
            raise self._refused(what, status, "give its service account the rights that the guide lists")
        if status not in {OK, CREATED}:
            raise self._refused(what, status, "see the API server's log")
        try:
            answer = parse_object(content, "its answer")
        except InvalidInputError as error:
            raise self._away(what, error.message) from error
        self._count(what, "ok")
        return answer

    def _refused(self, what: str, status: int, remedy: str) -> UnavailableError:
        self._count(what, "refused")
        return UnavailableError(self._message(what, f"it answered {status}: {remedy}"))

    def _failed(self, what: str, reason: str) -> UnavailableError:
        """Note that the API server did not answer, and return the error."""
        self._circuit.failed(self._clock.monotonic())
        self._metrics.kubernetes_available.set((self.access.cluster,), 0 if self._circuit.away else 1)
        return self._away(what, reason)

    def _away(self, what: str, reason: str) -> UnavailableError:
        self._count(what, "unavailable")
        return UnavailableError(self._message(what, reason))

    def _message(self, what: str, reason: str) -> str:
        return f"the API server of the cluster {self.access.cluster} cannot be asked ({what}): {reason}"

    def _count(self, what: str, result: str) -> None:
        self._metrics.kubernetes_calls.add((self.access.cluster, what, result))
