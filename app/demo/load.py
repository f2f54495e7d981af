"""Requests from several clients, one after the other each, while something else happens."""

import asyncio
from dataclasses import dataclass, field

import httpx

# A breath between two requests: the point is that one is nearly always under way, not to load the machine.
PAUSE_SECONDS = 0.01
# More than Envoy lets be made again at a time unless it is told otherwise: those under way can all be refused together.
CLIENTS = 8
# The first few say enough.
MAX_FAILURES_KEPT = 5


@dataclass(slots=True)
class Tally:
    """How the requests went: how many were sent, how many failed, and what the first failures were."""

    sent: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, problem: str | None) -> None:
        """Count a request that ended; `problem` says what was wrong with it, None that nothing was."""
        self.sent += 1
        if problem is None:
            return
        self.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(problem)


class SteadyLoad:
    """Asks for `url` again and again from `start` to `stop`, as CLIENTS; any answer but 200 is a failure."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.tally = Tally()

    def start(self) -> None:
        """Begin to ask, with nothing counted yet."""
        self.tally = Tally()
        self._tasks = tuple(asyncio.create_task(self._ask()) for _ in range(CLIENTS))

    async def stop(self) -> Tally:
        """Let no new request begin, drop those under way uncounted, and return how the others went.

        Raises what ended a client before its time, if anything did: who asks nothing sees no failure.
        """
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end
        return self.tally

    async def _ask(self) -> None:
        while True:
            self.tally.note(await self._problem())
            await asyncio.sleep(PAUSE_SECONDS)

    async def _problem(self) -> str | None:
        try:
            answer = await self._client.get(self._url)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if answer.status_code == httpx.codes.OK else f"status {answer.status_code}: {answer.text[:200]}"
