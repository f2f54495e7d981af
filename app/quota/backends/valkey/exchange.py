"""One exchange with a server: hits that are sent in one step, and their results, or why there are none."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ssl import SSLError
from types import MappingProxyType
from typing import Any

from valkey.asyncio.connection import AbstractConnection
from valkey.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
    ValkeyError,
)
from valkey.exceptions import ConnectionError as ValkeyConnectionError
from valkey.exceptions import TimeoutError as ValkeyTimeoutError

from app.core.clock import Clock
from app.quota.backends.valkey.wire import (
    SCRIPT,
    SCRIPT_SHA,
    Key,
    PreparedHit,
    WrongAnswerError,
    arguments_of,
    outcomes_of,
    packed,
    parts_of,
)
from app.quota.model import Outcome
from app.quota.rules.joint import AllOrNone

_ASKING = packed(b"ASKING")
NOTHING: Mapping[int, Any] = MappingProxyType({})


class AwayError(Exception):
    """The server cannot count: `reason` is one of a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Way(Enum):
    """How a hit is sent to a node of a cluster.

    TOGETHER: in one step with others of its slot. APART: in one of its counter alone, as counters of a slot that is
    moving can be at two nodes. ASKING: so, too, to the node that the slot is moving to.
    """

    TOGETHER = "together"
    APART = "apart"
    ASKING = "asking"


@dataclass(frozen=True, slots=True)
class Redirect:
    """A hit that was not counted where it was sent to, and where it is counted.

    TOGETHER: at another node from now on. ASKING: at the node that its slot is moving to. APART: where it was sent to,
    by itself.
    """

    slot: int
    host: str
    port: int
    way: Way


Result = Outcome | Redirect | None
"""The outcome of a hit; None if it was not counted."""

_AGAIN = Redirect(-1, "", 0, Way.APART)


class Exchange:
    """Has a server count hits. `slot_of` is given for a node of a cluster, where each slot is a step of its own."""

    def __init__(self, clock: Clock, time: Callable[[], bytes], slot_of: Callable[[Key], int] | None) -> None:
        """`time` returns the time of counting, as the script takes it."""
        self._clock, self._time, self._slot_of = clock, time, slot_of

    async def run(
        self,
        connection: AbstractConnection,
        hits: Sequence[PreparedHit],
        ways: Mapping[int, Way] = NOTHING,
        joints: Mapping[int, AllOrNone] = NOTHING,
    ) -> list[Result]:
        """Have the server count `hits`; `ways` are those of the places whose hits are not sent TOGETHER.

        At the places of `joints`, which no node of a cluster is given, hits begin that are counted all or none. Raises
        AwayError if the server does not count: then what of them was counted is unknown.
        """
        groups = self._groups(hits, ways)
        results: list[Result] = [None] * len(hits)
        try:
            parts = parts_of(joints, len(hits)) if joints else b""
            replies = await self._evaluate(connection, hits, groups, parts, (b"EVALSHA", SCRIPT_SHA))
            unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                again = [groups[place] for place in unknown]
                loaded = await self._evaluate(connection, hits, again, parts, (b"EVAL", SCRIPT))
                for place, reply in zip(unknown, loaded, strict=True):
                    replies[place] = reply
            for (places, _), reply in zip(groups, replies, strict=True):
                found = results_of(reply, len(places))
                if len(groups) == 1:
                    return list(found)
                for place, result in zip(places, found, strict=True):
                    results[place] = result
        except Exception as error:  # the parser of replies raises anything on what is no reply
            raise AwayError(reason_of(error)) from error
        return results

    def _groups(self, hits: Sequence[PreparedHit], ways: Mapping[int, Way]) -> list[tuple[Sequence[int], bool]]:
        """Return the places of the hits that one call of the script may have, and whether it is ASKING."""
        if self._slot_of is None:
            return [(range(len(hits)), False)]
        found: dict[tuple[int, Key, bool], list[int]] = {}
        for place, (_, key, _) in enumerate(hits):
            way = ways.get(place, Way.TOGETHER)
            group = self._slot_of(key), b"" if way is Way.TOGETHER else key, way is Way.ASKING
            found.setdefault(group, []).append(place)
        return [(places, asking) for (_, _, asking), places in found.items()]

    async def _evaluate(
        self,
        connection: AbstractConnection,
        hits: Sequence[PreparedHit],
        groups: Sequence[tuple[Sequence[int], bool]],
        parts: bytes,
        script: tuple[bytes, bytes],
    ) -> list[object]:
        """Return the reply of the script for each of `groups`: an exception where that was an error."""
        jitter = b"%.3f" % random.random()  # noqa: S311 - spreads load, keeps no secret
        time, now = self._time(), int(self._clock.now().timestamp())
        sent: list[bytes] = []
        for places, asking in groups:
            chosen = hits if len(places) == len(hits) else [hits[place] for place in places]
            keys, limits, counted = arguments_of(chosen, now)
            if asking:
                sent.append(_ASKING)
            sent.append(packed(*script, b"%d" % len(keys), *keys, time, jitter, limits, counted, parts))
        await connection.send_packed_command(b"".join(sent))
        replies: list[object] = []
        for _, asking in groups:
            if asking and await connection.read_response(disable_decoding=True) != b"OK":
                raise WrongAnswerError
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies


def results_of(reply: object, count: int) -> Sequence[Result]:
    """Return the results of `count` hits in a reply of the script. Raises as `outcomes_of`, or the error in `reply`."""
    if isinstance(reply, MovedError | AskError):
        way = Way.TOGETHER if isinstance(reply, MovedError) else Way.ASKING
        return [Redirect(reply.slot_id, reply.host, reply.port, way)] * count
    if isinstance(reply, TryAgainError):
        return [_AGAIN] * count
    if isinstance(reply, ResponseError):
        raise reply
    return outcomes_of(reply, count)


def reason_of(error: BaseException) -> str:
    """Return why a server cannot count, in one of a few words: the text of an error may have anything in it."""
    if isinstance(error, AwayError):
        return error.reason
    if isinstance(error, SSLError) or isinstance(error.__context__, SSLError):
        return "tls"
    return next((reason for kinds, reason in _REASONS if isinstance(error, kinds)), "wrong_answer")


async def close(connection: AbstractConnection) -> None:
    """Close a connection without waiting for its peer."""
    with suppress(ValkeyError, OSError):
        await connection.disconnect(nowait=True)


# The first that an error is an instance of counts.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((AuthenticationError, NoPermissionError), "access_denied"),
    ((OutOfMemoryError,), "out_of_memory"),
    ((ReadOnlyError,), "read_only"),
    ((BusyLoadingError,), "loading"),
    ((ResponseError,), "error_reply"),
    ((TimeoutError, ValkeyTimeoutError), "timeout"),
    ((OSError, ValkeyConnectionError), "connection"),
)
