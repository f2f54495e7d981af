import asyncio

import httpx
import pytest

from app.demo.load import MAX_FAILURES_KEPT, SteadyLoad, Tally


async def test_it_asks_again_and_again_until_it_is_stopped():
    enough = asyncio.Event()
    asked = []

    def answer(request):
        asked.append(request)
        if len(asked) == 3:
            enough.set()
        return httpx.Response(503 if len(asked) == 2 else 200, text="away")

    load = SteadyLoad(httpx.AsyncClient(transport=httpx.MockTransport(answer)), "http://api/hello")
    load.start()
    await asyncio.wait_for(enough.wait(), 5)
    tally = await load.stop()
    assert tally.sent >= 2
    assert (tally.failed, tally.failures) == (1, ["status 503: away"])
    assert await load.stop() is tally


async def test_a_connection_that_breaks_is_a_failure():
    broken = asyncio.Event()

    def answer(request):
        broken.set()
        raise httpx.ReadError("reset")

    load = SteadyLoad(httpx.AsyncClient(transport=httpx.MockTransport(answer)), "http://api/hello")
    load.start()
    await asyncio.wait_for(broken.wait(), 5)
    tally = await load.stop()
    assert tally.failed == tally.sent >= 1
    assert tally.failures[0] == "reset"


async def test_a_client_that_ends_before_its_time_is_told():
    asked = asyncio.Event()

    def answer(request):
        asked.set()
        raise KeyError("a fault of the load itself")

    load = SteadyLoad(httpx.AsyncClient(transport=httpx.MockTransport(answer)), "http://api/hello")
    load.start()
    await asyncio.wait_for(asked.wait(), 5)
    with pytest.raises(KeyError):
        await load.stop()


def test_only_the_first_failures_are_kept():
    tally = Tally()
    for number in range(MAX_FAILURES_KEPT + 3):
        tally.note(str(number))
    tally.note(None)
    assert (tally.sent, tally.failed, len(tally.failures)) == (MAX_FAILURES_KEPT + 4, MAX_FAILURES_KEPT + 3, 5)
    assert tally.failures[0] == "0"
