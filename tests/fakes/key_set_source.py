"""A KeySetSource that answers what a test says."""

import asyncio

from tests.assets.jwts import jwks


class FakeKeySetSource:
    """Answers `content`, or raises `failure` if it is set, once `let_go` is; `fetched` counts the attempts."""

    def __init__(self, content=None) -> None:
        self.content = jwks() if content is None else content
        self.failure: Exception | None = None
        self.fetched = 0
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def fetch(self) -> bytes:
        self.fetched += 1
        await self.let_go.wait()
        if self.failure is not None:
            raise self.failure
        return self.content
