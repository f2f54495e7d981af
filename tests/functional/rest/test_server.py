"""The admin listener on a real socket: in the loop of its caller, ended with requests in flight."""

import asyncio
import contextlib
import signal

import httpx
import pytest
from starlette.responses import PlainTextResponse

from app.core.net import Address
from app.transport.rest.server import MAX_HEAD_BYTES, HttpListener
from app.transport.sockets import listen


class Application:
    """Answers `/` at once and `/slow` when it is let."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope, receive, send):
        if scope["path"] == "/slow":
            self.entered.set()
            await self.go_on.wait()
        await PlainTextResponse("done")(scope, receive, send)


@pytest.fixture
def application():
    return Application()


@pytest.fixture
async def listener(application):
    listener = HttpListener(listen(Address("127.0.0.1", 0)), application, grace_seconds=5)
    await listener.start()
    yield listener
    await listener.stop()


@pytest.fixture
async def client(listener):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}", timeout=10) as client:
        yield client


async def test_it_answers_as_soon_as_it_has_started(client):
    assert (await client.get("/")).text == "done"


async def test_a_request_in_flight_is_answered_while_the_listener_stops(listener, client, application):
    listener_port = listener.port
    request = asyncio.create_task(client.get("/slow"))
    async with asyncio.timeout(10):
        await application.entered.wait()
        stopping = asyncio.create_task(listener.stop())
        while await _accepts(listener_port):
            pass
        application.go_on.set()
        assert (await request).text == "done"
        await stopping


async def test_a_request_that_does_not_end_is_cut_off_after_the_grace_time(application):
    listener = HttpListener(listen(Address("127.0.0.1", 0)), application, grace_seconds=1)
    await listener.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}", timeout=30) as client:
        request = asyncio.create_task(client.get("/slow"))
        async with asyncio.timeout(20):
            await application.entered.wait()
            await listener.stop()
            with pytest.raises(httpx.HTTPError):
                (await request).raise_for_status()


async def test_the_signals_of_the_process_are_left_alone(application):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    listener = HttpListener(listen(Address("127.0.0.1", 0)), application, grace_seconds=5)
    await listener.start()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    await listener.stop()


async def test_idle_connections_do_not_hold_the_listener_up(listener, client):
    await client.get("/")  # stays open: keep-alive
    async with asyncio.timeout(4):  # less than the grace time
        await listener.stop()


async def test_a_head_that_does_not_end_is_refused(listener):
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    answer = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.1\r\nhost: admin\r\nx: " + b"a" * 4 * MAX_HEAD_BYTES)
            answer = await reader.read()
    writer.close()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


async def test_stopping_twice_is_stopping_once(listener):
    await listener.stop()
    await listener.stop()


async def _accepts(port):
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
