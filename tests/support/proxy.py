"""A TCP proxy that can stop forwarding, answer by itself, or break connections."""

import asyncio
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards to `target` (host, port). While `forwarding` is cleared nothing passes and every connection stays open.

    `answer` is sent in place of what the target answers, if it is set.
    """

    def __init__(self, target):
        self._target = target
        self.forwarding = asyncio.Event()
        self.forwarding.set()
        self.answer = None
        self.port = 0
        self.accepted = 0
        self._tasks = set()

    async def serve(self, reader, writer):
        self.accepted += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self.forwarding.wait()
            target_reader, target_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, target_writer, None))
                    group.create_task(self._copy(target_reader, writer, self))
            finally:
                target_writer.close()
        except* (OSError, _EndedError):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _copy(self, reader, writer, answering):
        while data := await reader.read(65536):
            await self.forwarding.wait()
            writer.write(answering.answer if answering and answering.answer is not None else data)
            with suppress(OSError):
                await writer.drain()
        raise _EndedError

    def break_connections(self):
        for task in self._tasks:
            task.cancel()


class _EndedError(Exception):
    pass


@asynccontextmanager
async def proxied(port, tls=None):
    """A proxy in front of a port of loopback, which takes TLS with the context `tls`."""
    proxy = Proxy(("127.0.0.1", port))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.forwarding.set()
        proxy.break_connections()
        await asyncio.sleep(0.01)
