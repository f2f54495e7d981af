"""CheckRequest as it is read here: Envoy's own message, with all but the parts of the request left as bytes.

What the rest says is the same in all checks of a connection, so that it is remembered by those bytes, and in less time
than it takes to reach its fields. The message is made of Envoy's descriptor: what it has no fields for it keeps.
"""

from typing import Any

from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass

_PACKAGE = "meshward.authz"
# What differs from one request of a connection to the next.
_REQUEST, _METADATA = "request", "metadata_context"

AttributeContext: Any = attribute_context_pb2.AttributeContext


def _file() -> FileDescriptorProto:
    """Return Envoy's file with AttributeContext in a package of ours, with few of its fields, and our CheckRequest."""
    file = FileDescriptorProto()
    attribute_context_pb2.DESCRIPTOR.CopyToProto(file)
    theirs, ours = f".{file.package}.AttributeContext", f".{_PACKAGE}.AttributeContext"
    file.name, file.package = "meshward/authz/check.proto", _PACKAGE
    attributes = file.message_type[0]
    _rename(attributes, theirs, ours)
    fields = [field for field in attributes.field if field.name in {_REQUEST, _METADATA}]
    del attributes.field[:]
    attributes.field.extend(fields)
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


def rest_of(attributes: Any) -> bytes:
    """Take the parts of the request out of the attributes and return what is left, an AttributeContext of Envoy's."""
    attributes.ClearField(_REQUEST)
    attributes.ClearField(_METADATA)
    rest: bytes = attributes.SerializePartialToString()
    return rest


def whole_attributes(payload: bytes) -> Any:
    """Return the attributes as Envoy's own message."""
    return external_auth_pb2.CheckRequest.FromString(payload).attributes
