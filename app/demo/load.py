"""Requests from several clients, each one at a time, while something else happens."""

import asyncio
from dataclasses import dataclass, field

import httpx

# The pause between two requests: one should nearly always be in flight, without loading the machine.
PAUSE_SECONDS = 0.01
# More than Envoy retries at a time by default: those in flight can all be refused together.
CLIENTS = 8
# The first few are enough to explain.
MAX_FAILURES_KEPT = 5


@dataclass(slots=True)
class Tally:
    """How many requests were sent, how many failed, and the first failures."""

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, problem: str | None) -> None:
        """Count a request that ended; `problem` is None if it succeeded."""
        self.sent += 1
        if problem is None:
            return
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(problem)


class SteadyLoad:
    """Requests `url` repeatedly from `start` to `stop`, as CLIENTS clients; any answer but 200 is a failure."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.tally = Tally()

    def start(self) -> None:
        """Start the clients, with nothing counted yet."""
        self.tally = Tally()
        self._tasks = tuple(asyncio.create_task(self._repeat()) for _ in range(CLIENTS))

    async def stop(self) -> Tally:
        """Stop the clients, drop requests in flight uncounted, and return the tally of the others.

        Raises the exception that ended a client early, if there was one: a client that sends nothing sees no failure.
        """
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
        return self.tally

    async def _repeat(self) -> None:
        while True:
            self.tally.note(await self._problem())
            await asyncio.sleep(PAUSE_SECONDS)

    async def _problem(self) -> str | None:
        try:
            answer = await self._client.get(self._url)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if answer.status_code == httpx.codes.OK else f"status {answer.status_code}: {answer.text[:200]}"
