"""Every kind of call, by a grpcio client, on both servers."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from app.spiffe.principal import Credential
from tests.fakes.echo import ECHO
from tests.fakes.served_echo import GOOD_TOKEN


def unary(channel, method="Unary"):
    return channel.unary_unary(
        f"/{ECHO}/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


def stream(channel, kind, method):
    return getattr(channel, kind)(
        f"/{ECHO}/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_unary_call_is_answered(channel, mesh):
    assert (await unary(channel)(StringValue(value="hi"))).value == "hi!"
    assert mesh.metrics.rpcs.value(f"/{ECHO}/Unary", "OK") == 1


async def test_a_server_stream_is_sent_whole(channel):
    call = stream(channel, "unary_stream", "ServerStream")(StringValue(value="n"))
    assert [message.value async for message in call] == ["n0", "n1", "n2"]


async def test_a_stream_that_fails_in_the_middle_keeps_what_came_before(channel):
    call = stream(channel, "unary_stream", "ServerStream")(StringValue(value="fail"))
    assert (await call.read()).value == "fail0"
    assert (await call.read()).value == "fail1"
    error = await refusal(call.read())
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "two were enough")


async def test_a_client_stream_is_read_whole(channel):
    call = stream(channel, "stream_unary", "ClientStream")(iter([StringValue(value=v) for v in "abc"]))
    assert (await call).value == "a,b,c"


async def test_a_bidirectional_stream_answers_as_it_goes(channel):
    call = stream(channel, "stream_stream", "BidiStream")()
    for value in ("a", "b"):
        await call.write(StringValue(value=value))
        assert (await call.read()).value == f"{value}!"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_error_carries_its_code_message_and_violations(channel):
    error = await refusal(unary(channel)(StringValue(value="invalid")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "Prüfung: 100% of it is wrong"
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    details = error_details_pb2.BadRequest()
    assert status.code == 3
    assert status.details[0].Unpack(details)
    assert details.field_violations[0].field == "spec.rules[0]"


async def test_a_fault_is_internal_without_its_text(channel):
    error = await refusal(unary(channel)(StringValue(value="bug")))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()


@pytest.mark.parametrize("method", ["OnError", "OnErrorSync"])
@pytest.mark.parametrize("value", ["x" * 100_000, "invalid", "bug"])
async def test_on_error_answers_in_place_of_an_error(channel, mesh, method, value):
    for _ in range(2):
        answer = await unary(channel, method)(StringValue(value=value))
        assert answer.value.startswith("no: ")
        assert "secret" not in answer.value
    assert not mesh.metrics.rpcs.value(f"/{ECHO}/{method}", "OK")


async def test_a_plain_function_answers_like_an_async_one(channel, mesh):
    """From the second call on, which takes the fast path."""
    method = unary(channel, "Sync")
    for number in range(3):
        call = method(StringValue(value="metadata"), metadata=(("x-request-id", f"r-{number}"),), timeout=9)
        assert (await call).value == "metadata!"
        context = mesh.echo.contexts[-1]
        assert (context.method, context.request_id) == (f"/{ECHO}/Sync", f"r-{number}")
        assert context.peer.address.startswith("127.0.0.1:")
        assert not context.peer.tls
        assert 8 < context.deadline - asyncio.get_running_loop().time() < 9.5
        assert (await method(StringValue(value="prepared"))).value == "prepared!"
        assert (await refusal(method(StringValue(value="invalid")))).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "secret" not in (await refusal(method(StringValue(value="bug")))).details()
    counted = {code: mesh.metrics.rpcs.value(f"/{ECHO}/Sync", code) for code in ("OK", "INVALID_ARGUMENT", "INTERNAL")}
    assert counted == {"OK": 6, "INVALID_ARGUMENT": 3, "INTERNAL": 3}


async def test_on_error_does_not_answer_a_caller_that_was_not_admitted(channel):
    error = await refusal(unary(channel, "OnErrorForTokens")(StringValue(value="x")))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_unknown_method_and_service_are_unimplemented(channel, mesh):
    for path in (f"/{ECHO}/Nope", "/no.Such/Thing"):
        error = await refusal(channel.unary_unary(path)(b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert mesh.metrics.rpcs.value("unknown", "UNIMPLEMENTED") == 2


async def test_metadata_is_received_and_sent(channel, mesh):
    call = unary(channel)(
        StringValue(value="metadata"),
        metadata=(("x-a", "1"), ("x-a", "2"), ("x-bin", b"\x00\xff"), ("x-request-id", "r-1")),
    )
    await call
    context = mesh.echo.contexts[0]
    assert context.metadata["x-a"] in {("1", "2"), ("1, 2",), ("1,2",)}
    assert context.metadata["x-bin"] == (b"\x00\xff",)
    assert context.request_id == "r-1"
    assert context.peer.address.startswith("127.0.0.1:")


@pytest.mark.parametrize("method", ["Unary", "Awaitable"])
@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_deadline_ends_the_call_and_its_handler(channel, mesh, method, calls_before):
    for _ in range(calls_before):
        await unary(channel, method)(StringValue(value="before"))
    error = await refusal(unary(channel, method)(StringValue(value="wait"), timeout=0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await mesh.echo.cancelled.wait()
    assert mesh.echo.contexts[-1].deadline - asyncio.get_running_loop().time() < 0.3


@pytest.mark.parametrize("method", ["Unary", "Awaitable"])
@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_cancelled_call_cancels_its_handler(channel, mesh, method, calls_before):
    for _ in range(calls_before):
        await unary(channel, method)(StringValue(value="before"))
    call = unary(channel, method)(StringValue(value="wait"))
    async with asyncio.timeout(5):
        await mesh.echo.waiting.wait()
        call.cancel()
        await mesh.echo.cancelled.wait()


async def test_a_cancelled_server_stream_ends_its_generator(channel, mesh):
    call = stream(channel, "unary_stream", "ServerStream")(StringValue(value="wait"))
    async with asyncio.timeout(5):
        await mesh.echo.waiting.wait()
        call.cancel()
        await mesh.echo.cancelled.wait()


async def test_a_cancelled_bidirectional_stream_ends_its_generator(channel, mesh):
    call = stream(channel, "stream_stream", "BidiStream")()
    await call.write(StringValue(value="a"))
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        await mesh.echo.finished.wait()


async def test_gzip_requests_are_read(mesh):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.port}", compression=grpc.Compression.Gzip) as channel:
        value = "long " * 700
        assert (await unary(channel)(StringValue(value=value))).value == f"{value}!"


async def test_deflate_is_refused_with_what_is_supported(mesh):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.port}", compression=grpc.Compression.Deflate) as channel:
        error = await refusal(unary(channel)(StringValue(value="long " * 1000)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "deflate" in error.details()


async def test_a_message_over_the_limit_is_refused(channel):
    error = await refusal(unary(channel)(StringValue(value="x" * 100_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_gzip_bomb_is_refused(mesh):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.port}", compression=grpc.Compression.Gzip) as channel:
        error = await refusal(unary(channel)(StringValue(value="x" * 3_000_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_plaintext_peer_on_this_machine_is_admitted_to_mesh_rows(channel, mesh):
    await unary(channel, "Mesh")(StringValue(value="x"))
    assert mesh.echo.contexts[0].principal.credential is Credential.LOOPBACK


async def test_identity_needs_a_token_or_an_svid(channel, mesh):
    for metadata in ((), (("authorization", "Bearer bad"),), (("authorization", GOOD_TOKEN),)):
        error = await refusal(unary(channel, "Identity")(StringValue(value="x"), metadata=metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert mesh.echo.contexts == []
    await unary(channel, "Identity")(StringValue(value="x"), metadata=(("authorization", f"Bearer {GOOD_TOKEN}"),))
    assert mesh.echo.contexts[0].principal.token_id == "token-1"


async def test_a_row_with_a_rate_limit_admits_its_burst_and_refills(channel, mesh):
    call = unary(channel, "Limited")
    await call(StringValue(value="1"))
    await call(StringValue(value="2"))
    error = await refusal(call(StringValue(value="3")))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "retry in" in error.details()
    mesh.clock.advance(1)
    await call(StringValue(value="4"))


async def test_health_answers_and_watches(channel, mesh):
    stub = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    error = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="nope")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=ECHO))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    mesh.health.set_serving(serving=False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_reflection_lists_the_services_and_gives_their_descriptors(channel):
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [service.name for service in (await call.read()).list_services_response.service]
    assert names == sorted([ECHO, "grpc.health.v1.Health"])
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"))
    assert (await call.read()).error_response.error_code == 5
    await call.done_writing()
