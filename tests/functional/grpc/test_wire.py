"""The wire, frame by frame: what only a faulty client sends, and the format of the responses."""

import asyncio
import contextlib
import gzip

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.fakes.echo import ECHO
from tests.fakes.raw_http2 import RawClient, framed


@contextlib.asynccontextmanager
async def client_of(mesh, method):
    """A client that has called the method before, so that the next call takes the fast path."""
    client = await RawClient.connect(mesh.port)
    assert (await client.call(method, framed("before"))).status == "0"
    mesh.echo.contexts.clear()
    yield client
    await client.close()


@pytest.fixture(params=["Unary", "Sync", "Awaitable"])
async def raw(mesh, request):
    async with client_of(mesh, request.param) as client:
        yield client


@pytest.fixture(params=["Unary", "Sync", "Awaitable"])
async def raw_h2corn(h2corn_mesh, request):
    async with client_of(h2corn_mesh, request.param) as client:
        yield client


async def test_a_message_split_over_frames_is_put_together(raw):
    stream = await raw.open()
    data = framed("split")
    for byte in range(len(data)):
        await raw.send(stream, data[byte : byte + 1])
    await raw.send(stream, b"", end=True)
    answer = await raw.answer(stream)
    assert (answer.body, answer.status) == (framed("split!"), "0")


async def test_several_messages_in_one_frame_are_split(raw):
    stream = await raw.open("BidiStream")
    await raw.send(stream, framed("a") + framed("b") + framed("c"), end=True)
    answer = await raw.answer(stream)
    assert (answer.body, answer.status) == (framed("a!") + framed("b!") + framed("c!"), "0")


async def test_an_error_before_any_message_is_trailers_only(raw_h2corn):
    stream = await raw_h2corn.open()
    await raw_h2corn.send(stream, framed("invalid"), end=True)
    answer = await raw_h2corn.answer(stream)
    assert answer.headers["grpc-status"] == "3"
    assert answer.headers[":status"] == "200"
    assert answer.headers["grpc-message"] == "Pr%C3%BCfung: 100%25 of it is wrong"
    assert (answer.data_frames, answer.trailers) == (0, {})


async def test_a_request_that_ends_inside_a_message_is_refused(raw, mesh):
    for method in ("Unary", "Sync", "Awaitable", "BidiStream", "ClientStream"):
        stream = await raw.open(method)
        await raw.send(stream, framed("cut off")[:-3], end=True)
        answer = await raw.answer(stream)
        assert answer.status == "3", method


async def test_a_length_that_is_too_large_is_refused_at_the_end(raw):
    stream = await raw.open()
    await raw.send(stream, b"\0" + (50).to_bytes(4) + b"only this", end=True)
    assert (await raw.answer(stream)).status == "3"


async def test_a_length_over_the_limit_is_refused_at_once(raw_h2corn):
    stream = await raw_h2corn.open()
    await raw_h2corn.send(stream, b"\0\xff\xff\xff\xff")
    assert (await raw_h2corn.answer(stream)).status == "8"


async def test_a_length_that_is_too_small_is_refused(raw):
    stream = await raw.open()
    await raw.send(stream, b"\0" + (2).to_bytes(4) + b"\x0a\x03abcdefgh", end=True)
    assert (await raw.answer(stream)).status in {"12", "3"}


@pytest.mark.parametrize("body", [b"", framed("a") + framed("b")])
async def test_a_unary_method_takes_exactly_one_message(raw, body):
    stream = await raw.open()
    await raw.send(stream, body, end=True)
    assert (await raw.answer(stream)).status == "12"


async def test_a_message_that_is_not_protobuf_is_refused(raw):
    stream = await raw.open()
    await raw.send(stream, b"\0" + (3).to_bytes(4) + b"\xff\xff\xff", end=True)
    assert (await raw.answer(stream)).status == "3"


async def test_an_undefined_flag_is_refused(raw):
    stream = await raw.open()
    await raw.send(stream, framed("x", flag=2), end=True)
    assert (await raw.answer(stream)).status == "3"


async def test_a_compressed_flag_without_an_encoding_is_refused(raw):
    stream = await raw.open()
    await raw.send(stream, framed("x", flag=1), end=True)
    assert (await raw.answer(stream)).status == "13"


async def test_gzip_that_is_cut_off_or_carries_more_is_refused(raw):
    message = gzip.compress(StringValue(value="x" * 100).SerializeToString())
    for payload in (message[:-4], message + b"more", b"not gzip"):
        stream = await raw.open(grpc_encoding="gzip")
        await raw.send(stream, b"\1" + len(payload).to_bytes(4) + payload, end=True)
        assert (await raw.answer(stream)).status == "3"


async def test_an_unsupported_encoding_names_the_supported_ones(raw_h2corn):
    stream = await raw_h2corn.open(grpc_encoding="snappy")
    await raw_h2corn.send(stream, framed("x"), end=True)
    answer = await raw_h2corn.answer(stream)
    assert (answer.status, answer.headers["grpc-accept-encoding"]) == ("12", "identity,gzip")


@pytest.mark.parametrize("value", ["", "5", "m", "1234567890S", "-1S", "1.5S", "5X", "٣S"])
async def test_a_malformed_timeout_is_refused(raw, value):
    stream = await raw.open(grpc_timeout=value)
    await raw.send(stream, framed("x"), end=True)
    assert (await raw.answer(stream)).status == "3"


async def test_a_timeout_of_zero_has_passed_before_a_handler_can_wait(raw, mesh):
    stream = await raw.open("Unary", grpc_timeout="0m")
    await raw.send(stream, framed("wait"), end=True)
    assert (await raw.answer(stream)).status == "4"


@pytest.mark.parametrize("sent", [b"", framed("late")[:7], framed("late")], ids=["nothing", "a part", "no end"])
async def test_a_request_that_never_ends_fails_at_its_deadline(raw_h2corn, sent):
    stream = await raw_h2corn.open(grpc_timeout="200m")
    if sent:
        await raw_h2corn.send(stream, sent)
    assert (await raw_h2corn.answer(stream)).status == "4"


async def test_without_te_trailers_the_call_is_refused(raw_h2corn):
    stream = await raw_h2corn.open(te=None)
    await raw_h2corn.send(stream, framed("x"), end=True)
    assert (await raw_h2corn.answer(stream)).status == "13"


@pytest.mark.parametrize("value", ["application/grpc+proto", "application/grpc;charset=utf-8", "Application/gRPC"])
async def test_a_content_type_with_a_subtype_or_parameters_is_grpc_too(raw_h2corn, value):
    stream = await raw_h2corn.open(content_type=value)
    await raw_h2corn.send(stream, framed("x"), end=True)
    assert (await raw_h2corn.answer(stream)).body == framed("x!")


async def test_what_is_not_grpc_is_not_found(raw):
    for changed in ({"content_type": "application/json"}, {"content_type": "application/grpc-web"}):
        stream = await raw.open(**changed)
        await raw.send(stream, framed("x"), end=True)
        answer = await raw.answer(stream)
        assert (answer.headers[":status"], answer.status) == ("404", None)


async def test_a_stream_that_is_reset_in_the_middle_of_a_message_leaves_the_connection_usable(raw, mesh):
    stream = await raw.open()
    await raw.send(stream, framed("never whole")[:-2])
    raw.h2.reset_stream(stream)
    await raw.flush()
    stream = await raw.open()
    await raw.send(stream, framed("next"), end=True)
    assert (await raw.answer(stream)).body == framed("next!")
    assert [context.method for context in mesh.echo.contexts] == [f"/{ECHO}/{raw.method}"]


@pytest.mark.parametrize("method", ["Unary", "Awaitable", "Sync"])
async def test_a_reset_before_the_request_has_ended_is_counted_as_cancelled(h2corn_mesh, method):
    async with client_of(h2corn_mesh, method) as client:
        stream = await client.open()
        await client.send(stream, framed("never whole")[:-2])
        assert (await client.call("Mesh", framed("between"))).status == "0"
        client.h2.reset_stream(stream)
        assert (await client.call("Mesh", framed("next"))).status == "0"
    counted = {code: h2corn_mesh.metrics.rpcs.value(f"/{ECHO}/{method}", code) for code in ("CANCELLED", "INTERNAL")}
    assert counted == {"CANCELLED": 1, "INTERNAL": 0}


@pytest.mark.parametrize("method", ["Unary", "Awaitable"])
async def test_a_reset_before_the_response_is_sent_is_counted_as_cancelled(h2corn_mesh, method):
    """Even where the handler ignores the cancellation, and its response can be sent no more."""
    async with client_of(h2corn_mesh, method) as client:
        stream = await client.open()
        await client.send(stream, framed("ignore cancellation"), end=True)
        async with asyncio.timeout(5):
            await h2corn_mesh.echo.waiting.wait()
            client.h2.reset_stream(stream)
            await client.flush()
            await h2corn_mesh.echo.cancelled.wait()
        assert (await client.call("Sync", framed("next"))).status == "0"
    counted = {code: h2corn_mesh.metrics.rpcs.value(f"/{ECHO}/{method}", code) for code in ("CANCELLED", "INTERNAL")}
    assert counted == {"CANCELLED": 1, "INTERNAL": 0}


async def test_a_bad_preface_closes_the_connection_and_not_the_server(mesh):
    for garbage in (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\0" * 64, b"\x16\x03\x01\x02\x00garbage"):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.port)
        writer.write(garbage)
        async with asyncio.timeout(15):
            while await reader.read(4096):
                continue
        writer.close()
    client = await RawClient.connect(mesh.port)
    stream = await client.open()
    await client.send(stream, framed("alive"), end=True)
    assert (await client.answer(stream)).status == "0"
    await client.close()


async def test_a_grpc_request_under_a_mount_goes_to_the_mount(raw, mesh):
    """A gRPC error is an HTTP 200, which an HTTP ext_authz client takes for a yes."""
    stream = await raw.open(**{":path": "/mounted/some.Service/Method"})
    await raw.send(stream, framed("x"), end=True)
    answer = await raw.answer(stream)
    assert (answer.body, answer.status) == (b"loopback", None)
