"""SIGTERM: what is in flight is finished, what is open is ended well, and nothing is left behind."""

import asyncio
import contextlib
import signal
import socket
import sqlite3

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from sqlalchemy import text

from app.db.engine import create_engine
from app.db.migrate import POSTGRES_LOCK
from tests.assets.documents import DENY_NEWS
from tests.support.callers import (
    CART,
    certify,
    check,
    code_of,
    join,
    opened_stream,
    plaintext_channel,
    tls_channel,
)
from tests.support.serving import PATIENCE, eventually, eventually_async

IN_FLIGHT = 8


@contextlib.contextmanager
def locked(database):
    """Nobody else can write to the database; calls that have to, wait."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def arrived(channel):
    """Return once the server has got every call that was made on the channel's connection before."""
    await HealthStub(channel).Check(HealthCheckRequest(), timeout=PATIENCE)


class AdminRequest:
    """A POST to the admin API whose body is sent when the test wants it."""

    def __init__(self, server, path, body):
        self._body = body.encode()
        self._socket = socket.create_connection(("127.0.0.1", server.admin_port), timeout=PATIENCE)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {server.token}\r\n"
            f"connection: close\r\ncontent-length: {len(self._body)}\r\nexpect: 100-continue\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        # The server asks for the body when the request is being answered.
        assert self._socket.recv(4096).startswith(b"HTTP/1.1 100")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def finish(self):
        """The status line and all that follows."""
        self._socket.sendall(self._body)
        answer = b""
        with self._socket:
            while piece := self._socket.recv(65536):
                answer += piece
        return answer.decode()


async def end_of(call):
    """The status with which a stream ends, after what it may still bring."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await call.read() is grpc.aio.EOF:
                    return await call.code()
            except grpc.aio.AioRpcError as error:
                return error.code()


def is_free(port):
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", port))
    return True


@pytest.mark.parametrize("signals", [1, 5], ids=["once", "impatiently"])
async def test_calls_in_flight_finish_and_open_streams_end(serving, signals):
    server = serving.start()
    cart = await join(server)
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(tls_channel(server, cart)) for _ in range(2)]
        channels.append(await stack.enter_async_context(plaintext_channel(server)))
        streams = [await opened_stream(channel) for channel in channels[:2]]
        admin = stack.enter_context(AdminRequest(server, "/v1/policies", DENY_NEWS))
        with locked(server.directory / "meshward.db"):
            renewals = [asyncio.create_task(certify(channels[number % 2])) for number in range(IN_FLIGHT)]
            await asyncio.sleep(0)
            await asyncio.gather(*map(arrived, channels))
            for _ in range(signals):
                server.signal(signal.SIGTERM)
            eventually(lambda: server.events("stopping"), "the drain to begin")
            ends = await asyncio.gather(*map(end_of, streams))
            assert not any(renewal.done() for renewal in renewals)
            for _ in range(signals - 1):
                server.signal(signal.SIGTERM)
        assert {renewed.spiffe_id for renewed in await asyncio.gather(*renewals)} == {CART}
        assert set(ends) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert admin.finish().startswith("HTTP/1.1 201")
    assert server.wait() == 0
    assert "Traceback" not in server.log_text
    assert all(map(is_free, (server.tls_port, server.plaintext_port, server.admin_port)))
    again = serving.start()
    assert len(again.items("/v1/policies")) == 1
    assert sum(svid["spiffe_id"] == CART for svid in again.items("/v1/svids")) >= IN_FLIGHT + 1


async def test_new_calls_are_refused_at_once_while_it_drains(serving):
    server = serving.start()
    with AdminRequest(server, "/v1/policies", DENY_NEWS) as admin:
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server.tls_port) and is_refused(server.plaintext_port), "the ports to close")
        async with plaintext_channel(server) as channel:
            assert await code_of(check(channel)) is grpc.StatusCode.UNAVAILABLE
        assert admin.finish().startswith("HTTP/1.1 201")
    assert server.wait() == 0


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_call_that_does_not_end_holds_the_end_up_for_the_grace_time_alone(serving):
    server = serving.start(shutdown_grace="1s")
    with AdminRequest(server, "/v1/policies", DENY_NEWS):
        assert server.stop() == 0
    assert serving.start().items("/v1/policies") == []


@pytest.mark.parametrize("moment", ["database_upgraded", "ca_root_created", '"mesh_plaintext"'])
def test_a_signal_while_it_starts_stops_it_and_spoils_nothing(serving, moment):
    server = serving.launch()
    eventually(lambda: moment in server.log_text, moment)
    assert server.stop() == 0
    assert "Traceback" not in server.log_text
    roots = serving.start().roots
    assert roots.count(b"BEGIN CERTIFICATE") == 1


WAITING_FOR_LOCK = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_a_start_that_waits_for_another_replicas_migration_can_be_stopped(serving, postgres_url):
    engine = create_engine(postgres_url)
    try:
        async with engine.connect() as other:
            await other.execute(text(f"SELECT pg_advisory_xact_lock({POSTGRES_LOCK})"))
            server = serving.launch(database_url=postgres_url)

            async def waits():
                return await other.scalar(text(WAITING_FOR_LOCK))

            await eventually_async(waits, "the start to wait for the lock")
            assert await asyncio.to_thread(server.stop) == 0, server.log_text
    finally:
        await engine.dispose()
    assert "Traceback" not in server.log_text
