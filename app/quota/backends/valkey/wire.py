"""What is sent to Valkey and what comes back: keys, the arguments of the script, and its results."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from struct import Struct
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from app.quota.model import (
    Algorithm,
    CalendarWindow,
    Concurrency,
    CounterKey,
    CounterName,
    FixedWindow,
    Hit,
    LimitId,
    Outcome,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
)
from app.quota.rules.counting import MAX_COUNT, MILLISECONDS, lifetime
from app.quota.rules.joint import AllOrNone
from app.quota.rules.window import calendar_bounds

SCRIPT: Final = (files(__package__) / "count.lua").read_bytes()
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
# Bytes of a key's digest: among 2^64 keys two are the same with a probability of 2^-33.
_DIGEST_BYTES = 20
# Characters of the values in a counter's name, and what of them is not percent-encoded beside letters and digits.
_MAX_PLAIN_LENGTH = 200
_PLAIN = "/:@"
_IS_PLAIN = re.compile(r"[A-Za-z0-9_.~/:@,-]*").fullmatch
_NAME = re.compile(r"([^:{}]+):\{(?:=((?:,[^,{}]*)*)|([0-9a-f]{40}))\}")
# Algorithms and hits whose arguments are remembered.
_KNOWN_ALGORITHMS = 16_384

_PARAMETERS = Struct(">7d")
_HIT = Struct(">HHd")
_RESULT = Struct(">BQI")
_REFUSED, _ALLOWED, _UNUSABLE = 0, 1, 2
_JOINT, _LAST, _REFUSING, _ASKED, _PASSING = 1, 2, 4, 8, 16
_CODES: dict[type, int] = {
    FixedWindow: 1,
    CalendarWindow: 2,
    SlidingWindow: 3,
    SlidingLog: 4,
    TokenBucket: 5,
    Concurrency: 6,
    Total: 7,
}


Key = bytes
"""The name of a counter."""


class PreparedHit(NamedTuple):
    """A hit with the name of its counter and the script's parameters of its limit, or the window that decides them."""

    hit: Hit
    key: Key
    parameters: bytes | CalendarWindow


class WrongAnswerError(Exception):
    """What came back is not what the script returns."""


def prepare_named(key: Key, hit: Hit) -> PreparedHit:
    """Return `hit` as it is sent, to be counted under the name `key`."""
    algorithm = hit.algorithm
    return PreparedHit(hit, key, algorithm if isinstance(algorithm, CalendarWindow) else pack_limit(algorithm))


def key_of(prefix: str, limit_id: LimitId, key: CounterKey) -> Key:
    """Return the name of a counter: `PREFIX:LIMIT:{=,VALUE,VALUE}`, or `PREFIX:LIMIT:{DIGEST}` where that is too long.

    Values are percent-encoded, so that none can be those of another counter; the digest is of the values with their
    lengths. What is in braces is a hash tag, which no value can end, so that values cannot choose a slot.
    """
    plain = "".join([",", ",".join(key)]) if key else ""
    if _IS_PLAIN(plain) is None or plain.count(",") != len(key):
        plain = "".join(["," + quote(part, _PLAIN, errors="surrogatepass") for part in key])
    return name_of(prefix, limit_id, f"={plain}" if len(plain) < _MAX_PLAIN_LENGTH else _digest_of(key))


def name_of(prefix: str, limit_id: LimitId, text: str) -> bytes:
    """Return the name of the counter that has `text` in its braces."""
    return f"{prefix}:{limit_id}:{{{text}}}".encode()


def beside_of(prefix: str, key: Key) -> Key:
    """Return the name of a counter that no limit has, in the slot of the counter with the name `key`."""
    return b"%b:beside:%b" % (prefix.encode(), key[key.index(b"{") :])


def counter_of(prefix: str, name: bytes) -> CounterName | None:
    """Return the counter that has the name, None if it is none of a counter. A digest is returned as bytes."""
    text = name.decode(errors="replace")
    found = _NAME.fullmatch(text.removeprefix(f"{prefix}:")) if text.startswith(f"{prefix}:") else None
    if found is None:
        return None
    limit_id, values, digest = found.groups()
    if digest is not None:
        return limit_id, bytes.fromhex(digest)
    return limit_id, tuple(unquote(part, errors="surrogatepass") for part in values.split(",")[1:])


def _digest_of(key: CounterKey) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in key:
        encoded = part.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return digest.hexdigest()


def arguments_of(hits: Sequence[PreparedHit], now: int) -> tuple[Sequence[Key], bytes, bytes]:
    """Return the script's keys, limits and hits for `hits` at `now`; what several of them have in common, once.

    `now`, in Unix seconds, selects the windows of calendars.
    """
    keys: dict[Key, int] = {}
    limits: dict[bytes, int] = {}
    written: list[bytes] = []
    for hit, key, parameters in hits:
        counter = keys.setdefault(key, len(keys) + 1)
        known = parameters if isinstance(parameters, bytes) else _calendar_parameters(parameters, now)
        limit = limits.setdefault(known, len(limits) + 1)
        written.append(_HIT.pack(counter, limit, hit.hits))
    return tuple(keys), b"".join(limits), b"".join(written)


def _calendar_parameters(window: CalendarWindow, now: int) -> bytes:
    start, end = calendar_bounds(window, now)
    return pack_limit(window, (start, end, calendar_bounds(window, end)[1]))


@lru_cache(_KNOWN_ALGORITHMS)
def pack_limit(algorithm: Algorithm, bounds: tuple[int, int, int] | None = None) -> bytes:
    """Return the script's parameters of a limit.

    `bounds` are those of the calendar's window, and where the next one ends.
    """
    counts_refused = isinstance(algorithm, FixedWindow | CalendarWindow) and algorithm.counts_refused
    burst = algorithm.burst if isinstance(algorithm, TokenBucket) else 0
    first, second, third = bounds or (algorithm.seconds, 0, 0)
    return _PARAMETERS.pack(
        _CODES[type(algorithm)],
        algorithm.requests,
        first * MILLISECONDS,
        second * MILLISECONDS if bounds else burst,
        third * MILLISECONDS,
        counts_refused,
        lifetime(algorithm) or 0,
    )


def parts_of(joints: Mapping[int, AllOrNone], count: int) -> bytes:
    """Return the script's flags of `count` hits, where those from a place in `joints` on are counted all or none."""
    parts = bytearray(count)
    for first, (refusing, counts, passing) in joints.items():
        for place, refuses in enumerate(refusing, first):
            parts[place] = _JOINT | (_REFUSING if refuses else 0)
        for place, passes in enumerate(passing, first):
            parts[place] |= _PASSING if passes else 0
        parts[first + len(refusing) - 1] |= _LAST | (0 if counts else _ASKED)
    return bytes(parts)


def packed(*command: bytes) -> bytes:
    """Return a command as the protocol has it, an array of strings, in a third of the time that the client takes."""
    return b"".join([b"*%d\r\n" % len(command), *[b"$%d\r\n%b\r\n" % (len(part), part) for part in command]])


def outcomes_of(reply: object, count: int) -> list[Outcome | None]:
    """Return the outcomes of `count` hits, None of one whose key has something else in it.

    Raises WrongAnswerError if `reply` is not what the script returns.
    """
    if not isinstance(reply, bytes) or len(reply) != count * _RESULT.size:
        raise WrongAnswerError
    outcomes: list[Outcome | None] = []
    append, new = outcomes.append, tuple.__new__
    for decided, remaining, reset_seconds in _RESULT.iter_unpack(reply):
        if remaining > MAX_COUNT or reset_seconds == 0:
            raise WrongAnswerError
        if decided == _ALLOWED:  # without the frame of a named tuple's constructor: there are two in each call
            append(new(Outcome, (True, remaining, reset_seconds, True)))
        elif decided == _REFUSED:
            append(Outcome(False, remaining, reset_seconds))
        elif decided == _UNUSABLE:
            append(None)
        else:
            raise WrongAnswerError
    return outcomes
