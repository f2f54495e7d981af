"""Laws of the framing: however the bytes are split, the same messages are read, and nothing else."""

import gzip
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import MeshwardError
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.wire import FrameReader, frame

LIMIT = 1000
messages = st.lists(st.binary(max_size=200), max_size=8)


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(messages, st.lists(st.integers(min_value=0), max_size=20), st.booleans())
def test_messages_are_read_as_they_were_sent_however_the_bytes_are_split(sent, places, compressed):
    if compressed:
        wire = b"".join(b"\1" + len(packed := gzip.compress(message)).to_bytes(4) + packed for message in sent)
    else:
        wire = b"".join(frame(message) for message in sent)
    reader = FrameReader("gzip" if compressed else "identity", LIMIT)
    received = [message for piece in cut(wire, places) for message in reader.feed(piece)]
    reader.close()
    assert received == sent


@given(st.lists(st.binary(max_size=300), max_size=10), st.sampled_from(["identity", "gzip"]))
def test_any_bytes_are_messages_within_the_limit_or_a_status(pieces, encoding):
    reader = FrameReader(encoding, LIMIT)
    code = None
    try:
        for piece in pieces:
            assert all(len(message) <= LIMIT for message in reader.feed(piece))
        reader.close()
    except MeshwardError as error:
        code = code_of(error)
    assert code in {None, Code.INTERNAL, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}
    # The one INTERNAL that the specification asks for.
    assert code is not Code.INTERNAL or encoding == "identity"


@given(st.integers(min_value=LIMIT + 1, max_value=2**32 - 1))
def test_a_message_over_the_limit_is_refused_by_its_prefix_alone(length):
    with pytest.raises(RpcError) as caught:
        FrameReader(max_bytes=LIMIT).feed(b"\0" + length.to_bytes(4))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@given(st.integers(min_value=LIMIT + 1, max_value=50 * LIMIT))
def test_a_message_over_the_limit_when_decompressed_is_refused(length):
    packed = gzip.compress(b"\0" * length)
    with pytest.raises(RpcError) as caught:
        FrameReader("gzip", LIMIT).feed(b"\1" + len(packed).to_bytes(4) + packed)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
