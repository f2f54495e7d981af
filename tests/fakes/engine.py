"""A policy engine that has to wait for its verdict."""

import asyncio

from app.authz.model import CheckInput, Verdict


class WaitingEngine:
    """Waits for `verdict`, which the test completes with a verdict or an error; `asked` is set while it waits."""

    def __init__(self) -> None:
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.requests: list[CheckInput] = []
        self.asked = asyncio.Event()

    async def evaluate(self, request: CheckInput, /) -> Verdict:
        self.requests.append(request)
        self.asked.set()
        return await asyncio.shield(self.verdict)
