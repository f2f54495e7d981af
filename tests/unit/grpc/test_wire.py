"""Headers as metadata, timeouts, and errors as trailers."""

import base64
import math

import pytest
from google.rpc import error_details_pb2, status_pb2

from app.core.errors import InvalidInputError, MeshwardError, ResourceExhaustedError, Violation
from app.transport.grpc.status import Code, RpcError, code_of
from app.transport.grpc.wire import (
    MAX_STATUS_MESSAGE,
    MAX_VIOLATIONS,
    call_seconds,
    encode_message,
    error_trailers,
    parse_metadata,
    parse_timeout,
)
from tests.fakes.context import call_context


def test_metadata_is_text_or_bytes_by_name_in_the_order_received():
    metadata = parse_metadata([(b"a", b"1"), (b"a", b"2"), (b"x-bin", b"AP8"), (b"content-type", b"application/grpc")])
    assert metadata == {"a": ("1", "2"), "x-bin": (b"\x00\xff",)}


def test_malformed_metadata_values_are_left_out():
    assert parse_metadata([(b"x-bin", b"!!"), (b"a", b"\xff"), (b":path", b"/x")]) == {}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"5S", 5), (b"200m", 0.2), (b"7u", 7e-6), (b"99999999n", 0.099999999)],
)
def test_every_unit_of_a_timeout_is_parsed(value, seconds):
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"123456789S", b"-1S", b"1 S", b"1S\n", "٣S".encode()])
def test_a_malformed_timeout_is_refused(value):
    with pytest.raises(InvalidInputError, match="malformed"):
        parse_timeout(value)


def test_a_call_may_take_its_timeout_or_the_maximum_if_that_is_less():
    assert call_seconds(None, 60) == 60
    assert call_seconds(b"99999999H", 60) == 60
    assert call_seconds(b"1S", 60) == 1
    assert call_seconds(b"1S", math.inf) == 1


def test_a_status_message_is_percent_encoded_utf8_and_bounded():
    assert encode_message("50% é\n\x00") == b"50%25 %C3%A9%0A%00"
    assert len(encode_message("x" * 10_000)) == MAX_STATUS_MESSAGE


def test_violations_are_in_the_details_and_bounded():
    violations = [Violation(f"f{index}", "bad") for index in range(MAX_VIOLATIONS + 5)]
    trailers = dict(error_trailers(Code.INVALID_ARGUMENT, InvalidInputError("no", *violations)))
    encoded = trailers[b"grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    details = error_details_pb2.BadRequest()
    status.details[0].Unpack(details)
    assert [violation.field for violation in details.field_violations] == [
        f"f{index}" for index in range(MAX_VIOLATIONS)
    ]


def test_a_limit_that_was_reached_has_the_time_to_retry_in_its_details():
    trailers = dict(error_trailers(Code.RESOURCE_EXHAUSTED, ResourceExhaustedError("slower", retry_seconds=1.5)))
    encoded = trailers[b"grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(encoded + b"=" * (-len(encoded) % 4)))
    details = error_details_pb2.RetryInfo()
    status.details[0].Unpack(details)
    assert details.retry_delay.ToMilliseconds() == 1500
    without = error_trailers(Code.RESOURCE_EXHAUSTED, ResourceExhaustedError("full"))
    assert b"grpc-status-details-bin" not in dict(without)


def all_kinds(root):
    for kind in root.__subclasses__():
        yield kind
        yield from all_kinds(kind)


def test_every_kind_of_error_has_a_status_of_its_own():
    for kind in all_kinds(MeshwardError):
        if issubclass(kind, RpcError):
            continue
        error = kind.__new__(kind)
        MeshwardError.__init__(error, "message")
        if hasattr(error, "status"):
            continue  # the admin API's own, which never reaches a call
        assert code_of(error) is not Code.OK
    assert code_of(RpcError(Code.ABORTED, "")) is Code.ABORTED
    assert code_of(MeshwardError("of no kind")) is Code.INTERNAL


@pytest.mark.parametrize("given", ["a\nb", "a b", "x" * 129, "é", ""])
def test_an_unsafe_request_id_is_replaced(given):
    context = call_context(headers=[(b"x-request-id", given.encode())])
    assert context.request_id != given
    assert context.request_id == context.request_id


def test_a_safe_request_id_is_used():
    assert call_context(headers=[(b"x-request-id", b"7b2f6a52-7f2c.A_1")]).request_id == "7b2f6a52-7f2c.A_1"
