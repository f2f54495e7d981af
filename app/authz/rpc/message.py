"""CheckRequest as it is read here: Envoy's own message, with the peers of a connection left as bytes.

What they say is the same in most checks of a sidecar, so that it is remembered by those bytes, and in less time than it
takes to reach their fields. The message is made of Envoy's descriptor: it accepts the same bytes and reads the same.
"""

from collections.abc import Sequence
from typing import Any

from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "meshward.authz"
_PEERS = frozenset({"source", "destination"})

Peer: Any = attribute_context_pb2.AttributeContext.Peer


def _file() -> FileDescriptorProto:
    """Return Envoy's file with AttributeContext in a package of ours, with the peers as bytes, and our CheckRequest."""
    file = FileDescriptorProto()
    attribute_context_pb2.DESCRIPTOR.CopyToProto(file)
    theirs, ours = f".{file.package}.AttributeContext", f".{_PACKAGE}.AttributeContext"
    file.name, file.package = "meshward/authz/check.proto", _PACKAGE
    attributes = file.message_type[0]
    _rename(attributes, theirs, ours)
    for field in attributes.field:
        if field.name in _PEERS:
            # Repeated, because a message that is there twice is merged, where the last of several bytes would count.
            field.type, field.label = FieldDescriptorProto.TYPE_BYTES, FieldDescriptorProto.LABEL_REPEATED
            field.ClearField("type_name")
    request = file.message_type.add(name="CheckRequest")
    request.field.add(
        name="attributes",
        number=1,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        type_name=ours,
    )
    return file


def _rename(message: DescriptorProto, before: str, after: str) -> None:
    for field in message.field:
        if field.type_name.startswith(before):
            field.type_name = after + field.type_name.removeprefix(before)
    for nested in message.nested_type:
        _rename(nested, before, after)


def _message_class() -> Any:
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(_file().SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.CheckRequest"))


_parse = _message_class().FromString


def read_attributes(payload: bytes) -> Any:
    """Return the attributes of a serialized CheckRequest. Raises DecodeError if the bytes are none."""
    return _parse(payload).attributes


def whole_attributes(payload: bytes) -> Any:
    """Return the attributes as Envoy's own message."""
    return external_auth_pb2.CheckRequest.FromString(payload).attributes


def serialized_peer(given: Sequence[bytes]) -> bytes:
    """Return the peer in the bytes of a field; what is there more than once is merged, as protobuf does.

    Raises DecodeError if one of several is no peer; a single one is as it came.
    """
    if len(given) == 1:
        return given[0]
    merged = Peer()
    for each in given:
        merged.MergeFromString(each)
    serialized: bytes = merged.SerializePartialToString()
    return serialized
