"""Requests and answers as bytes, against protobuf's own reading and writing of them."""

import pytest
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from app.quota.model import MAX_UINT32, Code, FixedWindow, Hit, Outcome, RateLimit, Status, Unit, Unlimited
from app.quota.rpc.messages import AnswerWriter, read_descriptor, split_request, varint, write_within
from app.quota.rules.match import MatchedDescriptor
from app.quota.rules.tree import AppliedLimit, CountedLimit

Response = rls_pb2.RateLimitResponse
OK, OVER = Response.OK, Response.OVER_LIMIT

texts = st.text(st.characters(codec="utf-8"), max_size=200)
entries = st.lists(st.tuples(texts, texts), max_size=4)
requests = st.tuples(texts, st.lists(entries, min_size=1, max_size=4))


def message(domain, descriptors):
    return rls_pb2.RateLimitRequest(
        domain=domain,
        descriptors=[{"entries": [{"key": key, "value": value} for key, value in each]} for each in descriptors],
    )


def read(payload):
    """What is read without protobuf: domain, and the entries of each descriptor; None if it is left to protobuf."""
    split = split_request(payload)
    if split is None:
        return None
    descriptors = [read_descriptor(each) for each in split[1]]
    if None in descriptors:
        return None
    try:
        return split[0].decode(), [list(each.entries) for each in descriptors]
    except UnicodeDecodeError:
        return None


def by_protobuf(payload):
    """The same by protobuf, which keeps what it does not know."""
    parsed = rls_pb2.RateLimitRequest.FromString(payload)
    return parsed.domain, [[(entry.key, entry.value) for entry in each.entries] for each in parsed.descriptors]


@given(requests)
def test_what_is_read_is_what_protobuf_reads(request):
    payload = message(*request).SerializeToString()
    assert read(payload) in (None, by_protobuf(payload))


def test_an_ordinary_request_is_read_without_protobuf():
    descriptors = [[("principal", "spiffe://a/ns/b/sa/c")], [("route", "/é"), ("user", "u" * 300)], []]
    payload = message("edge", descriptors).SerializeToString()
    assert read(payload) == ("edge", descriptors)


@settings(max_examples=400)
@given(requests, st.data())
def test_bytes_that_are_damaged_are_read_as_protobuf_reads_them_or_not_at_all(request, data):
    payload = bytearray(message(*request).SerializeToString() or b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=3))
        payload = payload or bytearray(b"\n")
    found = read(bytes(payload))
    if found is not None:
        assert found == by_protobuf(bytes(payload))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them_or_not_at_all(payload):
    found = read(payload)
    if found is not None:
        assert found == by_protobuf(payload)


@pytest.mark.parametrize(
    "change",
    [
        lambda request: setattr(request, "hits_addend", 2),
        lambda request: setattr(request.descriptors[0].hits_addend, "value", 0),
        lambda request: setattr(request.descriptors[0].limit, "requests_per_unit", 1),
        lambda request: request.descriptors[0].MergeFromString(b"\x20\x01"),  # is_negative_hits
        lambda request: request.descriptors[0].entries.add(key="a", value="b" * 2000),
        lambda request: request.ClearField("descriptors"),
    ],
)
def test_what_has_more_than_entries_is_left_to_protobuf(change):
    request = message("edge", [[("k", "v")]])
    change(request)
    assert read(request.SerializeToString()) is None


@pytest.mark.parametrize("more", [b"\x0a\x01x", b"\x7a\x01x", b"\x12"])
def test_a_second_domain_and_what_is_not_a_field_is_left_to_protobuf(more):
    assert read(message("edge", [[("k", "v")]]).SerializeToString() + more) is None


def test_a_value_that_is_not_utf8_is_left_to_protobuf():
    payload = message("edge", [[("k", "vv")]]).SerializeToString().replace(b"vv", b"\xc3\x28")
    assert read(payload) is None
    with pytest.raises(DecodeError):
        by_protobuf(payload)


HIT = Hit("", (), FixedWindow(1, 1), 1)
numbers = st.integers(0, MAX_UINT32)
limits = st.builds(RateLimit, st.sampled_from(Unit) | st.none(), numbers, st.sampled_from(["", "ten"]))
statuses = st.builds(Status, st.sampled_from(Code), limits, numbers, numbers) | st.builds(
    Status, st.just(Code.OK), st.none(), st.sampled_from([0, MAX_UINT32])
)


def expected(code, statuses):
    """The answer as a message, field by field."""
    response = Response(overall_code=OK if code is Code.OK else OVER)
    for status in statuses:
        written = response.statuses.add(code=OK if status.code is Code.OK else OVER)
        written.limit_remaining = status.remaining
        if status.limit is not None:
            unit = status.limit.unit
            written.current_limit.unit = Response.RateLimit.Unit.Value(unit.name) if unit else 0
            written.current_limit.requests_per_unit = status.limit.requests_per_unit
            written.current_limit.name = status.limit.name
            written.duration_until_reset.seconds = status.reset_seconds
    return response


@given(st.sampled_from(Code), st.lists(statuses, max_size=4))
def test_an_answer_is_written_as_protobuf_writes_it(code, statuses):
    assert AnswerWriter().write(code, statuses) == expected(code, statuses).SerializeToString(deterministic=True)


def matched(status):
    if status.limit is None:
        return MatchedDescriptor(AppliedLimit(Unlimited(), "", None) if status.remaining else None)
    return MatchedDescriptor(None, (HIT, CountedLimit(status.limit, "", 0)))


@given(st.lists(statuses, max_size=4))
def test_an_answer_within_every_limit_is_written_from_the_outcomes(statuses):
    writer = AnswerWriter()
    heads = [writer.head(matched(status)) for status in statuses]
    counted = [status for status in statuses if status.limit is not None]
    outcomes = [Outcome(status.code is Code.OK, status.remaining, status.reset_seconds) for status in counted]
    within = all(outcome.allowed for outcome in outcomes)
    assert write_within(heads, outcomes) == (writer.write(Code.OK, statuses) if within else None)


@given(st.integers(0, 2**42 - 1))
def test_a_varint_has_seven_bits_in_a_byte(number):
    written = varint(number)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(written)) == number
    assert [byte >= 0x80 for byte in written] == [True] * (len(written) - 1) + [False]
    assert len(written) == 1 or written[-1]
