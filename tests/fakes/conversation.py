"""The client's half of a bidirectional stream, as a handler sees it: messages that a test puts in when it likes."""

import asyncio


class Conversation:
    """An async iterator of requests. `say` adds one, `hang_up` ends it as a half-close, `fail` as a lost peer."""

    def __init__(self, *requests) -> None:
        self._queue: asyncio.Queue = asyncio.Queue()
        for request in requests:
            self._queue.put_nowait((request, None))

    def say(self, request) -> None:
        self._queue.put_nowait((request, None))

    def hang_up(self) -> None:
        self._queue.put_nowait((None, StopAsyncIteration()))

    def fail(self, error: Exception) -> None:
        self._queue.put_nowait((None, error))

    def __aiter__(self):
        return self

    async def __anext__(self):
        request, error = await self._queue.get()
        if error:
            raise error
        return request
