"""A server that shuts down, frame by frame: GOAWAY first, then refusals, after which a client calls elsewhere."""

import asyncio

import pytest
from h2.connection import ConnectionState
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, StreamReset

from app.core.net import Address
from app.transport.serving import MeshListener
from app.transport.sockets import listen
from tests.fakes.raw_http2 import RawClient, framed
from tests.fakes.served_echo import Mesh

PATIENCE = 10


class WatchingClient(RawClient):
    """A client that continues after GOAWAY, as one does that has not read it yet."""

    async def event(self, kind):
        async with asyncio.timeout(PATIENCE):
            while True:
                data = await self._reader.read(65_536)
                assert data, f"the connection was closed before {kind.__name__}"
                for event in self.h2.receive_data(data):
                    if isinstance(event, kind):
                        return event

    async def send_late(self, frames):
        self._writer.write(frames)
        await self._writer.drain()


@pytest.mark.parametrize("method", ["Unary", "Sync", "Awaitable"])
async def test_a_call_that_crosses_the_goaway_is_refused_unprocessed(method):
    mesh = Mesh()
    listener = MeshListener(listen(Address("127.0.0.1", 0)), mesh.application, grace_seconds=5)
    await listener.start()
    client = await WatchingClient.connect(listener.port)
    for _ in range(2):
        assert (await client.call(method, framed("before"))).status == "0"
    # The frames of a call that was made before GOAWAY was read.
    stream = client.h2.get_next_available_stream_id()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", f"/meshward.test.Echo/{method}")]
    headers += [(":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")]
    client.h2.send_headers(stream, headers)
    client.h2.send_data(stream, framed("late"), end_stream=True)
    late = client.h2.data_to_send()
    stopping = asyncio.create_task(listener.stop())
    goaway = await client.event(ConnectionTerminated)
    assert (goaway.error_code, goaway.last_stream_id) == (ErrorCodes.NO_ERROR, stream - 2)
    # The library takes GOAWAY for the end of the connection.
    client.h2.state_machine.state = ConnectionState.CLIENT_OPEN
    await client.send_late(late)
    refusal = await client.event(StreamReset)
    assert (refusal.stream_id, refusal.error_code) == (stream, ErrorCodes.REFUSED_STREAM)
    assert not stopping.done()
    await asyncio.wait_for(stopping, PATIENCE)
    assert [context.method for context in mesh.echo.contexts] == [f"/meshward.test.Echo/{method}"] * 2
    await client.close()


async def test_a_client_that_disconnects_does_not_delay_the_shutdown():
    mesh = Mesh()
    listener = MeshListener(listen(Address("127.0.0.1", 0)), mesh.application, grace_seconds=5)
    await listener.start()
    client = await RawClient.connect(listener.port)
    assert (await client.call("Unary", framed("before"))).status == "0"
    await client.close()
    await asyncio.wait_for(listener.stop(), PATIENCE)
