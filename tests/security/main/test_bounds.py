"""What hostile callers of the mesh ports can claim: bounded memory, bounded time, and no other caller's answers."""

import asyncio
import contextlib
import socket
import ssl

import grpc
import httpx
import pytest

from tests.support.callers import check, code_of, join, plaintext_channel, rate_limit, tls_channel
from tests.support.serving import PATIENCE

HOSTILE_NAMES = 2000
AT_ONCE = 100
# Connections of each kind that never say anything whole.
IDLERS = 4
# What the process may have in the test of a crowd: enough for its own and a small quarter for each port.
DESCRIPTORS = 200
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The time that the mesh ports give to a handshake or a head, and what a slow machine adds.
BOUNDED_SECONDS = 15


@pytest.fixture
async def server(shared_server):
    """The server, which answers afterwards as it did before."""
    yield shared_server
    async with plaintext_channel(shared_server) as channel:
        assert await check(channel)
    assert shared_server.process.poll() is None
    assert "Traceback" not in shared_server.log_text


def url(server):
    return f"http://127.0.0.1:{server.plaintext_port}"


async def in_batches(count, make):
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(make(number) for number in range(start, start + AT_ONCE)))


async def test_names_that_callers_make_up_are_no_series_of_the_metrics(server):
    server.put_quota("known", "{domain: known, descriptors: [{key: never}]}")
    async with plaintext_channel(server) as channel, httpx.AsyncClient(base_url=server.url) as admin:

        async def make_up(number):
            unknown = channel.unary_unary(f"/made.Up{number}/Method{number}")(b"", timeout=PATIENCE)
            assert await code_of(unknown) is grpc.StatusCode.UNIMPLEMENTED
            await rate_limit(channel, f"made-up-{number}", key=f"key-{number}", value=f"value-{number}")
            await check(channel, f"/made/up/{number}", host=f"made-up-{number}.example", method=f"MADE{number}")

        await make_up(0)
        await admin.get("/made/up")
        before = server.metrics()
        await in_batches(HOSTILE_NAMES, make_up)
        for number in range(AT_ONCE):
            await admin.request(f"MADE{number}", f"/made/up/{number}")
        after = server.metrics()
    assert not any("made" in name.lower() for name in after)
    # One more for the code of each admin answer with a method that is not known.
    assert len(after) <= len(before) + 2, after.keys() - before.keys()
    unknown = 'meshward_rpcs_total{code="UNIMPLEMENTED",method="unknown"}'
    assert after[unknown] >= HOSTILE_NAMES


@pytest.mark.parametrize("size", [70_000, 400_000])
async def test_metadata_that_is_too_long_fails_its_own_call_alone(server, size):
    async with plaintext_channel(server) as channel:
        fine = asyncio.gather(*(check(channel) for _ in range(20)))
        call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        code = await code_of(call(b"", metadata=[("x-long", "x" * size)], timeout=PATIENCE))
        assert code is not grpc.StatusCode.OK
        assert code is not grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.gather(fine, return_exceptions=True)


async def test_hundreds_of_header_fields_are_refused(server):
    headers = [(f"x-field-{number}", "x") for number in range(300)]
    async with httpx.AsyncClient() as client:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.get(f"{url(server)}/ext_authz/x", headers=headers)
            assert answer.status_code in {400, 403, 431}
    async with plaintext_channel(server) as channel:
        call = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        assert await code_of(call(b"", metadata=headers, timeout=PATIENCE)) is not grpc.StatusCode.OK


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_a_body_of_ten_megabytes_is_a_denial_or_the_end_of_the_connection(server, chunked):
    body = b"x" * 10_000_000
    async with httpx.AsyncClient(timeout=PATIENCE) as client:

        async def pieces():
            for start in range(0, len(body), 100_000):
                yield body[start : start + 100_000]

        try:
            answer = await client.post(f"{url(server)}/ext_authz/x", content=pieces() if chunked else body)
        except httpx.TransportError:
            return
    assert answer.status_code in {403, 413}


BEGINNINGS = {
    "zeros": b"\x00" * 1000,
    "half a TLS record of garbage": b"\x16\x03\x01" + b"\xff" * 1000,
    "garbage after the preface": PREFACE + b"\xff" * 1000,
    "nothing": b"",
    "half a preface": b"PRI * HTTP/2.0\r\n",
    "half a head": b"GET /ext_authz/x HTTP/1.1\r\nhost: x\r\nx-slow: ",
    "headers that go on": PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # SETTINGS
    b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x83",  # HEADERS of stream 1, without END_HEADERS
}


async def idle(port, beginning):
    """Connect, say the beginning, and return when the server has had enough."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(beginning)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                continue
    finally:
        writer.close()


async def test_connections_that_say_nothing_whole_are_closed_in_bounded_time(server):
    idlers = [
        asyncio.create_task(idle(port, beginning))
        for beginning in BEGINNINGS.values()
        for port in (server.plaintext_port, server.tls_port)
        for _ in range(IDLERS)
    ]
    names = [(name, port) for name in BEGINNINGS for port in ("plaintext", "tls") for _ in range(IDLERS)]
    async with plaintext_channel(server) as channel:  # others are served meanwhile
        assert await check(channel)
    _, pending = await asyncio.wait(idlers, timeout=BOUNDED_SECONDS)
    left = {name for name, idler in zip(names, idlers, strict=True) if idler in pending}
    for idler in pending:
        idler.cancel()
    await asyncio.gather(*idlers, return_exceptions=True)
    assert left == set()


async def test_connections_take_no_descriptors_from_the_rest_of_the_process(serving):
    server = serving.start(descriptors=DESCRIPTORS)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * DESCRIPTORS):
            crowd = stack.enter_context(socket.socket())
            crowd.setblocking(False)
            crowd.connect_ex(("127.0.0.1", server.tls_port))
        async with plaintext_channel(server) as channel:
            for _ in range(50):
                assert await check(channel)
                assert server.ask("GET", "/v1/ca").status_code == 200
    # Once they have gone, the port takes callers again.
    async with tls_channel(server, await join(server)) as channel:
        assert await check(channel)
    assert server.stop() == 0
    assert "Too many open files" not in server.log_text


def test_old_tls_is_refused(shared_server):
    context = ssl.create_default_context(cadata=shared_server.roots.decode())
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", shared_server.tls_port), timeout=PATIENCE) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(raw, server_hostname="localhost")


async def test_a_caller_without_a_certificate_cannot_keep_checks_of_others_waiting(server):
    """Calls that are refused cost little: a flood of them leaves the others their answers."""
    async with tls_channel(server) as nobody, plaintext_channel(server) as channel:
        call = nobody.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        flood = [asyncio.create_task(code_of(call(b"", timeout=PATIENCE))) for _ in range(1000)]
        assert await check(channel)
        assert set(await asyncio.gather(*flood)) == {grpc.StatusCode.UNAUTHENTICATED}
