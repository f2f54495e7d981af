"""A CheckRequest with its connection as bytes: the same bytes are accepted as by Envoy's message, and read the same."""

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.authz.rpc.message import AttributeContext, read_attributes, rest_of, whole_attributes
from tests.fakes.checks import check_request

OF_THE_REQUEST = ("request", "metadata_context")
texts = st.text(max_size=5)
maps = st.dictionaries(texts, texts, max_size=3)


def everything(request):
    """The request with a part of every kind that a check can have."""
    attributes = request.attributes
    attributes.request.time.seconds = 1
    attributes.request.http.raw_body = b"\xff"
    attributes.tls_session.sni = "shop.example.org"
    for context in (attributes.metadata_context, attributes.route_metadata_context):
        context.filter_metadata["a"].update({"b": [1, {"c": None}]})
    return request


checks = st.builds(
    lambda path, principal, labels, headers, extensions: check_request(
        path, principal=principal, labels=labels, headers=headers, extensions=extensions
    ),
    texts,
    texts,
    maps,
    maps,
    maps,
)
valid = st.one_of(checks, checks.map(everything)).map(lambda request: request.SerializeToString())
# What is there twice is merged, so that several requests one after the other are one.
several = st.lists(valid, min_size=1, max_size=3).map(b"".join)


@st.composite
def damaged(draw):
    """A valid message with a few bytes replaced, inserted and left out."""
    payload = bytearray(draw(several))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        length = draw(st.sampled_from([0, 1, 1, 1, 2, 20]))
        payload[at : at + length] = draw(st.binary(max_size=3))
    return bytes(payload)


def as_envoy_reads(payload):
    """Every part of the attributes, deterministic, None if the bytes are no CheckRequest."""
    try:
        attributes = external_auth_pb2.CheckRequest.FromString(payload).attributes
    except DecodeError:
        return None
    whole = written(attributes)
    parts = {name: (attributes.HasField(name), written(getattr(attributes, name))) for name in OF_THE_REQUEST}
    for name in OF_THE_REQUEST:
        attributes.ClearField(name)
    return parts, written(attributes), whole


def as_we_read(payload):
    try:
        attributes = read_attributes(payload)
        had = {name: attributes.HasField(name) for name in OF_THE_REQUEST}
        parts = {name: getattr(attributes, name) for name in OF_THE_REQUEST}
        rest = AttributeContext.FromString(rest_of(attributes))
    except DecodeError:
        return None
    found = {name: (had[name], written(part)) for name, part in parts.items()}
    return found, written(rest), written(whole_attributes(payload))


def written(message):
    return message.SerializePartialToString(deterministic=True)


@settings(max_examples=1000, deadline=None)
@given(st.one_of(several, damaged(), st.binary(max_size=40)))
@example(b"")
@example(b"\x0a\x02\x0a\x00")
@example(b"\x0a\x05\x0a\x03\x22\x01\xff")  # a source whose principal is not UTF-8
@example(b"\x0a\x07\x0a\x02\x22\x01\x0a\x01a")  # two sources that are one only beside each other
def test_the_same_bytes_are_accepted_and_read_the_same(payload):
    assert as_we_read(payload) == as_envoy_reads(payload)
