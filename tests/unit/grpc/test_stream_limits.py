"""The limit of streams that any caller may open, and the release of their slots."""

import asyncio
from contextlib import aclosing

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from app.core.errors import ResourceExhaustedError
from app.proto.reflection import reflection_pb2
from app.transport.grpc.admission import MAX_PUBLIC_STREAMS
from app.transport.grpc.health import Health
from app.transport.grpc.reflection import Reflection
from tests.fakes.context import call_context

CONTEXT = call_context()


def watch(health):
    return health.watch(HealthCheckRequest(), CONTEXT)


async def nothing():
    await asyncio.get_running_loop().create_future()
    yield


async def test_the_watches_of_health_are_limited():
    health = Health(frozenset())
    watchers = [watch(health) for _ in range(MAX_PUBLIC_STREAMS)]
    for watcher in watchers:
        await anext(watcher)
    with pytest.raises(ResourceExhaustedError, match="streams of this service are open"):
        await anext(watch(health))
    await watchers.pop().aclose()
    async with aclosing(watch(health)) as late:
        await anext(late)
    for watcher in watchers:
        await watcher.aclose()


async def test_the_open_reflection_streams_are_limited():
    reflection = Reflection(["a.Service"])

    async def ask():
        await anext(reflection.info(reflection_pb2.ServerReflectionResponse, nothing(), CONTEXT))

    held = [asyncio.create_task(ask()) for _ in range(MAX_PUBLIC_STREAMS)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhaustedError):
        await ask()
    for task in held:
        task.cancel()
    await asyncio.wait(held)
