"""Running the exchanges of a stream, whoever carries its messages: requests and changes in, responses out."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from app.transport.xds.exchange import Exchange, Reply, requested_type
from app.transport.xds.resources import ResourceSource
from app.transport.xds.state_of_the_world import StateOfTheWorldExchange

# Random bytes that distinguish the nonces of one stream from those of another.
STREAM_NAME_BYTES = 6

Done = TypeVar("Done")

StreamObserver = AbstractContextManager[Callable[[Any, Reply, Exchange], None]]
"""Is entered for the life of a stream; what it returns is called with each request, what that was, and the state."""


async def run_stream(
    variant: type[Exchange],
    sources: Mapping[str, ResourceSource],
    requests: AsyncIterator[Any],
    observer: StreamObserver,
) -> AsyncGenerator[Any, None]:
    """Yield the responses to a stream of discovery requests, and another whenever a subscribed resource is replaced.

    `sources` has the resources by their type URL. Raises InvalidInputError for a request that breaks the protocol or
    asks for what the caller may not have, and what a source or `requests` raises. It keeps no message while it waits:
    they may be large, and a secret in one stays in memory no longer than it must.
    """
    name = _stream_name()
    exchanges = {type_url: variant(source.catalog, name) for type_url, source in sources.items()}
    changes: dict[str, asyncio.Future[None]] = {}
    # Set when a request was read or a resource has changed: with `asyncio.wait` a push costs 40% more.
    happened = asyncio.Event()

    def started(work: Coroutine[Any, Any, Done]) -> asyncio.Future[Done]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: happened.set())
        return task

    with observer as received:
        reading = started(_next(requests))
        try:
            while True:
                if not reading.done() and not any(change.done() for change in changes.values()):
                    happened.clear()
                    await happened.wait()
                    continue
                if reading.done():
                    request = reading.result()
                    if request is None:
                        return
                    type_url = requested_type(request, sources)
                    exchanges[type_url], reply = exchanges[type_url].receive(request)
                    received(request, reply, exchanges[type_url])
                    reading = started(_next(requests))
                    del request
                    if not exchanges[type_url].due:
                        continue
                else:
                    type_url = next(changed for changed, change in changes.items() if change.done())
                    changes[type_url].result()
                await _cancel(changes.pop(type_url, None))
                source, exchange = sources[type_url], exchanges[type_url]
                exchanges[type_url], response = exchange.offer(await source.resources(exchange.wanted))
                changes[type_url] = started(source.wait_for_change())
                if response is not None:
                    yield response
                del response
        finally:
            for task in (reading, *changes.values()):
                await _cancel(task)


async def fetch(source: ResourceSource, request: Any) -> Any:
    """Return the DiscoveryResponse to one DiscoveryRequest. Raises as `run_stream` does."""
    exchange, _ = StateOfTheWorldExchange(source.catalog, _stream_name()).receive(request)
    _, response = exchange.offer(await source.resources(exchange.wanted))
    return response


def _stream_name() -> str:
    return secrets.token_hex(STREAM_NAME_BYTES)


async def _next(requests: AsyncIterator[Any]) -> Any | None:
    return await anext(requests, None)


async def _cancel(task: asyncio.Future[Any] | None) -> None:
    """End a task that this stream started; its result is no longer needed."""
    if task is None:
        return
    if task.done():
        if not task.cancelled():
            task.exception()
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
