"""A policy engine that has to wait for its verdict."""

import asyncio

from app.authz.model import CheckInput, Verdict


class WaitingEngine:
    """Waits until the test answers or fails the request that it was asked for; `asked` is set while one waits."""

    def __init__(self) -> None:
        self.requests: list[CheckInput] = []
        self.asked = asyncio.Event()
        self._verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    async def evaluate(self, request: CheckInput, /) -> Verdict:
        self.requests.append(request)
        self._verdict = asyncio.get_running_loop().create_future()
        self.asked.set()
        return await self._verdict

    def changed(self, _removed, _added, /):
        return self

    def answer(self, verdict: Verdict) -> None:
        self.asked.clear()
        self._verdict.set_result(verdict)

    def fail(self, error: Exception) -> None:
        self.asked.clear()
        self._verdict.set_exception(error)
