"""Descriptors of a gRPC service as `protoc --include_imports --descriptor_set_out` writes them, and frames of calls."""

from google.protobuf import descriptor_pb2, timestamp_pb2

TEXT, INTEGER, MESSAGE = 9, 3, 11


def descriptor_set(*, imports=True):
    """`shop.v1.Carts`: `Add(Item)`, `Watch(stream Item)`; an Item has `cart_id`, `count`, `added` and `parts`."""
    found = descriptor_pb2.FileDescriptorSet()
    file = found.file.add(name="shop.proto", package="shop.v1", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    item = file.message_type.add(name="Item")
    item.field.add(name="cart_id", number=1, type=TEXT, label=1, json_name="cartId")
    item.field.add(name="count", number=2, type=INTEGER, label=1, json_name="count")
    item.field.add(name="added", number=3, type=MESSAGE, label=1, type_name=".google.protobuf.Timestamp")
    item.field.add(name="parts", number=4, type=MESSAGE, label=3, type_name=".shop.v1.Item")
    service = file.service.add(name="Carts")
    service.method.add(name="Add", input_type=".shop.v1.Item", output_type=".shop.v1.Item")
    service.method.add(name="Watch", input_type=".shop.v1.Item", output_type=".shop.v1.Item", client_streaming=True)
    if imports:
        timestamp_pb2.DESCRIPTOR.CopyToProto(found.file.add())
    return found.SerializeToString()


# An Item whose cart_id is c1 and whose count is 7, with one part that has nothing.
ITEM = b"\x0a\x02c1\x10\x07\x22\x00"


def frame(message, packed=0):
    """A message as it is in the body of a call."""
    return bytes([packed]) + len(message).to_bytes(4, "big") + message
