"""RateLimitRequest and RateLimitResponse as bytes: what every call reads and writes, without a message of protobuf's.

What a request of an ordinary shape has, and the statuses of an answer, are read and written here, in less time than it
takes to reach the fields of a message. Everything else is left to protobuf.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from app.core.errors import InvalidInputError, Violation
from app.quota.model import (
    MAX_DESCRIPTORS,
    MAX_ENTRIES,
    MAX_KEY_LENGTH,
    MAX_UINT32,
    MAX_VALUE_LENGTH,
    Code,
    Descriptor,
    Entry,
    Outcome,
    RateLimit,
    Status,
    Unit,
)
from app.quota.rules.match import MatchedDescriptor
from app.transport.grpc.call import malformed_message
from app.transport.grpc.status import Code as StatusCode
from app.transport.grpc.status import RpcError

# Bytes of a request that is read here, or remembered: a sidecar's is smaller. The work is that of Python, so it is
# bounded.
MAX_PLAIN_REQUEST = 1024
# Limits whose part of a status is remembered: those of a configuration, and the ones that requests bring.
MAX_KNOWN_HEADS = 16_384

# A descriptor's `is_negative_hits`, which newer Envoys can send and our messages do not have.
_IS_NEGATIVE_HITS = 4
# A byte with this bit is followed by another one of the same number; the lower bits of the number come first.
_MORE = 0x80
# Tags of strings and messages: domain, entries and key are the first field of their message, descriptors and value the
# second.
_FIRST, _SECOND = 0x0A, 0x12
# envoy.type.v3.RateLimitUnit, whose numbers are not those of the answer's unit.
_OVERRIDE_UNITS: dict[int, Unit] = {
    1: Unit.SECOND,
    2: Unit.MINUTE,
    3: Unit.HOUR,
    4: Unit.DAY,
    5: Unit.MONTH,
    6: Unit.YEAR,
}

_Response: Any = rls_pb2.RateLimitResponse
_OK: int = _Response.OK
_OVER_LIMIT: int = _Response.OVER_LIMIT
_UNIT_NUMBERS: dict[Unit | None, int] = {
    None: _Response.RateLimit.UNKNOWN,
    **{unit: _Response.RateLimit.Unit.Value(unit.name) for unit in Unit},
}

# Domain, descriptors, and the hits of each that has none of its own.
Request = tuple[str, Sequence[Descriptor], int]


def read_request(payload: bytes) -> Request:
    """Return what a serialized RateLimitRequest asks.

    Raises RpcError UNKNOWN, with the texts of envoyproxy/ratelimit, for an empty domain and no descriptors, and
    InvalidInputError for what is no request or beyond a bound, and for an override without a unit.
    """
    request = _read_message(payload)
    domain, descriptors, _ = request
    if not domain:
        raise RpcError(StatusCode.UNKNOWN, "rate limit domain must not be empty")
    if not descriptors:
        raise RpcError(StatusCode.UNKNOWN, "rate limit descriptor list must not be empty")
    if len(payload) > MAX_KEY_LENGTH:  # what is shorter as a whole has neither a key nor a value that is too long
        _check_lengths(descriptors)
    return request


def parse_message(payload: bytes) -> Any:
    """Return the RateLimitRequest. Raises InvalidInputError if the bytes are none."""
    try:
        return rls_pb2.RateLimitRequest.FromString(payload)
    except DecodeError as error:
        raise malformed_message(rls_pb2.RateLimitRequest) from error


def split_request(payload: bytes) -> tuple[bytes, Sequence[bytes]] | None:
    """Return the domain of a serialized RateLimitRequest and its descriptors, each serialized.

    None for a request, valid or not, that has anything else, none of them, or one that is long. No length is believed:
    the descriptors end where the request does.
    """
    size = len(payload)
    if not 2 < size <= MAX_PLAIN_REQUEST:  # noqa: PLR2004 - a tag and a length
        return None
    end = 2 + payload[1]
    if payload[0] != _FIRST or end >= _MORE:
        return None
    domain = payload[2:end]
    descriptors: list[bytes] = []
    try:
        while end < size:
            start = end + 2
            length = payload[end + 1]
            if length >= _MORE:
                length += (payload[start] - 1) * _MORE
                start += 1
            if payload[end] != _SECOND:
                return None
            end = start + length
            descriptors.append(payload[start:end])
    except IndexError:
        return None
    return (domain, descriptors) if end == size and 0 < len(descriptors) <= MAX_DESCRIPTORS else None


def read_descriptor(payload: bytes) -> Descriptor | None:
    """Return a serialized descriptor that has nothing but entries, each a key and a value; None for any other one."""
    entries: list[Entry] = []
    start, end = 0, len(payload)
    try:
        while start < end:
            length, place = payload[start + 1], start + 2
            if length >= _MORE:
                length += (payload[place] - 1) * _MORE
                place += 1
            stop = place + length
            key_length = payload[place + 1]
            key_end = place + 2 + key_length
            value_length, value_start = payload[key_end + 1], key_end + 2
            if value_length >= _MORE:
                value_length += (payload[value_start] - 1) * _MORE
                value_start += 1
            if (
                payload[start] != _FIRST
                or payload[place] != _FIRST
                or payload[key_end] != _SECOND
                or key_length >= _MORE
                or value_start + value_length != stop
            ):
                return None
            entries.append((payload[place + 2 : key_end].decode(), payload[value_start:stop].decode()))
            start = stop
    except (IndexError, UnicodeDecodeError):
        return None
    return Descriptor(tuple(entries)) if start == end and len(entries) <= MAX_ENTRIES else None


def _read_message(payload: bytes) -> Request:
    request = parse_message(payload)
    messages = request.descriptors
    if len(messages) > MAX_DESCRIPTORS:
        raise _refusal("descriptors", f"are more than {MAX_DESCRIPTORS}")
    return request.domain, [_descriptor(message, index) for index, message in enumerate(messages)], request.hits_addend


def _descriptor(message: Any, index: int) -> Descriptor:
    # There may be none, against the contract of ratelimit.proto: Envoy sends it so where `skip_if_absent` skipped all.
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    if len(entries) > MAX_ENTRIES:
        raise _refusal(f"descriptors[{index}].entries", f"are more than {MAX_ENTRIES}")
    hits = message.hits_addend.value if message.HasField("hits_addend") else None
    unknown_fields: Any = UnknownFieldSet(message)
    gives_back = False
    for unknown in unknown_fields:
        if unknown.field_number == _IS_NEGATIVE_HITS:
            gives_back = bool(unknown.data)
    override = _override(message.limit, index) if message.HasField("limit") else None
    return Descriptor(entries, hits, override, gives_back)


def _check_lengths(descriptors: Sequence[Descriptor]) -> None:
    for index, descriptor in enumerate(descriptors):
        for number, (key, value) in enumerate(descriptor.entries):
            path = f"descriptors[{index}].entries[{number}]"
            if len(key) > MAX_KEY_LENGTH:
                raise _refusal(f"{path}.key", f"must have at most {MAX_KEY_LENGTH} characters")
            if len(value) > MAX_VALUE_LENGTH:
                raise _refusal(f"{path}.value", f"must have at most {MAX_VALUE_LENGTH} characters")


def _override(limit: Any, index: int) -> RateLimit:
    unit = _OVERRIDE_UNITS.get(limit.unit)
    if unit is None:
        raise _refusal(f"descriptors[{index}].limit.unit", f"must be a unit of time, not {limit.unit}")
    return RateLimit(unit, limit.requests_per_unit)


def _refusal(path: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"rate limit request is not valid: {path} {problem}", Violation(path, problem))


StatusHead = tuple[bytes, bool]
"""What of a status within its limit is known beforehand, and whether that is all of it: nothing is counted."""


class AnswerWriter:
    """Writes answers. What of a status is the same for each answer of a limit is remembered."""

    def __init__(self) -> None:
        # By the identity of the limit, which is kept beside it so that no other one gets the same.
        self._heads: dict[int, tuple[RateLimit, bytes, bytes]] = {}

    def head(self, descriptor: MatchedDescriptor) -> StatusHead:
        """Return what is known of the status of a descriptor."""
        if descriptor.counts is None:
            return _UNLIMITED if descriptor.applied else _NOT_LIMITED
        limit = descriptor.counts[1].limit
        known = self._heads.get(id(limit)) or self._keep(limit)
        return known[1], False

    def write(self, code: Code, statuses: Sequence[Status]) -> bytes:
        """Return the serialized RateLimitResponse with `code` and `statuses`."""
        written = [_CODES[code]]
        for status_code, limit, remaining, reset_seconds, _ in statuses:
            if limit is None:
                written.append(_status(_CODES[status_code] + _remaining(remaining)))
            else:
                known = self._heads.get(id(limit)) or self._keep(limit)
                head = known[1] if status_code is Code.OK else known[2]
                written.append(_status(head + _remaining(remaining) + _duration(reset_seconds)))
        return b"".join(written)

    def _keep(self, limit: RateLimit) -> tuple[RateLimit, bytes, bytes]:
        if len(self._heads) >= MAX_KNOWN_HEADS:
            self._heads.clear()
        heads = self._heads[id(limit)] = limit, _head(_OK, limit), _head(_OVER_LIMIT, limit)
        return heads


def write_within(heads: Sequence[StatusHead], outcomes: Sequence[Outcome]) -> bytes | None:
    """Return the serialized RateLimitResponse to a request that is within every limit; None if it is not."""
    written = _CODES[Code.OK]
    place = 0
    for head, is_whole in heads:
        if is_whole:
            written += head
            continue
        allowed, remaining, reset_seconds, _ = outcomes[place]
        if not allowed:
            return None
        place += 1
        body = head + _remaining(remaining) + _duration(reset_seconds)
        written += b"\x12" + varint(len(body)) + body
    return written


_CODES = {Code.OK: b"\x08\x01", Code.OVER_LIMIT: b"\x08\x02"}
# Numbers of so many bits are written by one look in a table: as the last bytes, or with others to follow.
_BITS = 14
_LOW = (1 << _BITS) - 1
_LAST = [bytes((n & 0x7F | _MORE, n >> 7)) if n >= _MORE else bytes((n,)) for n in range(_LOW + 1)]
_BEFORE = [bytes((n & 0x7F | _MORE, n >> 7 | _MORE)) for n in range(_LOW + 1)]


def varint(number: int) -> bytes:
    """Return `number`, below 2^42, as protobuf writes it: 7 bits in a byte, the lowest first."""
    if number <= _LOW:
        return _LAST[number]
    high = number >> _BITS
    if high <= _LOW:
        return _BEFORE[number & _LOW] + _LAST[high]
    return _BEFORE[number & _LOW] + _BEFORE[high & _LOW] + _LAST[high >> _BITS]


def _status(body: bytes) -> bytes:
    return b"\x12" + varint(len(body)) + body


def _remaining(number: int) -> bytes:
    return b"\x18" + varint(number) if number else b""


@lru_cache(maxsize=4096)
def _duration(seconds: int) -> bytes:
    """Return the field `duration_until_reset`."""
    body = b"\x08" + varint(seconds) if seconds else b""
    return b"\x22" + varint(len(body)) + body


def _head(code: int, limit: RateLimit) -> bytes:
    """Return the fields of a status that depend on nothing but the limit and the code."""
    status = _Response.DescriptorStatus(code=code)
    status.current_limit.requests_per_unit = limit.requests_per_unit
    status.current_limit.unit = _UNIT_NUMBERS[limit.unit]
    if limit.name:
        status.current_limit.name = limit.name
    head: bytes = status.SerializeToString()
    return head


_NOT_LIMITED: StatusHead = _status(_CODES[Code.OK]), True
_UNLIMITED: StatusHead = _status(_CODES[Code.OK] + _remaining(MAX_UINT32)), True
