"""Tools that know nothing of us find every service and its messages by reflection, as grpcurl does."""

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha

from app.main.rpcs import SERVICES
from app.proto.reflection import reflection_pb2 as v1
from tests.support.callers import CALL_SECONDS, plaintext_channel


@pytest.mark.parametrize(("version", "messages"), [("v1", v1), ("v1alpha", v1alpha)])
def test_every_service_is_listed_and_described(shared_server, version, messages):
    request = messages.ServerReflectionRequest
    with plaintext_channel(shared_server, grpc) as channel:
        ask = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=messages.ServerReflectionResponse.FromString,
        )
        (listed,) = ask(iter([request(list_services="*")]), timeout=CALL_SECONDS)
        names = [service.name for service in listed.list_services_response.service]
        assert set(names) == SERVICES
        symbols = iter([request(file_containing_symbol=name) for name in names])
        for name, answer in zip(names, ask(symbols, timeout=CALL_SECONDS), strict=True):
            files = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
            services = {f"{file.package}.{service.name}" for file in files for service in file.service}
            assert name in services, answer.error_response
