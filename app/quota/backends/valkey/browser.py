"""Finding and deleting counters in Valkey: what an operator asks for, over connections of its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from app.core.errors import InvalidInputError, UnavailableError
from app.quota.backends.valkey.exchange import close, reason_of
from app.quota.backends.valkey.link import OPEN_SECONDS
from app.quota.backends.valkey.servers import Servers
from app.quota.backends.valkey.wire import Key, WrongAnswerError, counter_of, packed
from app.quota.model import CounterName, LimitId

# Names that a server looks at in one step, which holds up its other clients for less than a millisecond.
MAX_LOOKED_AT, MIN_LOOKED_AT = 1000, 10
# Steps for one page: a server with more names than those is asked for a page after another.
MAX_STEPS = 100
# Counters that are deleted at once.
MAX_DELETED = 500
# How long one answer may take.
ANSWER_SECONDS = 2.0

_CURSOR = re.compile(r"([0-9]{1,20}) (.{1,300})")

Ask = Callable[[Sequence[bytes]], Awaitable[list[object]]]
"""Sends commands and returns the answer of each."""


class Found(NamedTuple):
    """Counters that were found, and where to go on; None at the end."""

    names: dict[Key, CounterName]
    cursor: str | None


class CounterBrowser:
    """Finds counters at `servers` whose names begin with `prefix`."""

    def __init__(self, servers: Servers, prefix: str) -> None:
        self._servers, self._prefix = servers, prefix

    async def find(self, limits: Collection[LimitId], cursor: str | None, count: int) -> Found:
        """Return some `count` counters of `limits`, in the order that the servers have them.

        What a step finds is returned whole, so that there can be a few more. Raises InvalidInputError for a `cursor`
        that is none, UnavailableError if a server cannot be asked.
        """
        names = list(self._servers.nodes())
        place, start = _read_cursor(cursor) if cursor is not None else ("0", names[0] if names else "")
        if start not in names:
            raise UnavailableError("the servers of the counters have changed, or none is known: start from the first")
        found: dict[Key, CounterName] = {}
        looked_at, steps = 0, 0
        for node in names[names.index(start) :]:
            async with self._asking(node) as ask:
                while steps < MAX_STEPS and len(found) < count:
                    steps += 1
                    number = (count - len(found)) * max(looked_at, 1) // max(len(found), 1)
                    number = min(max(number, MIN_LOOKED_AT), MAX_LOOKED_AT)
                    looked_at += number
                    place, keys = await self._scan(ask, limits, place, number)
                    found |= keys
                    if place == "0":
                        break
                else:
                    return Found(found, f"{place} {node}")
        return Found(found, None)

    async def delete(self, keys: Sequence[Key]) -> None:
        """Delete the counters with the names. Raises UnavailableError."""
        by_node: dict[str | None, list[Key]] = {}
        for key in keys:
            by_node.setdefault(self._servers.node_of(key), []).append(key)
        for node, chosen in by_node.items():
            async with self._asking(node) as ask:
                await _delete(ask, chosen)

    async def delete_limits(self, limits: Collection[LimitId]) -> int:
        """Delete every counter of `limits` and return how many that were. Raises UnavailableError."""
        deleted = 0
        names = list(self._servers.nodes())
        if not names:
            raise UnavailableError("the counters cannot be reached: no server is known")
        for node in names:
            async with self._asking(node) as ask:
                place = ""
                while place != "0":
                    place, keys = await self._scan(ask, limits, place or "0", MAX_LOOKED_AT)
                    deleted += await _delete(ask, list(keys))
        return deleted

    async def _scan(
        self, ask: Ask, limits: Collection[LimitId], place: str, number: int
    ) -> tuple[str, dict[Key, CounterName]]:
        """Return where the next step begins, "0" after the last, and the counters of `limits` in this one."""
        # Neither a prefix nor a limit's identity has a character with a meaning in a pattern.
        pattern = f"{self._prefix}:{next(iter(limits)) if len(limits) == 1 else '*'}:{{*".encode()
        (reply,) = await ask([packed(b"SCAN", place.encode(), b"MATCH", pattern, b"COUNT", b"%d" % number)])
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):  # noqa: PLR2004 - SCAN's
            raise WrongAnswerError
        counters = {key: counter_of(self._prefix, key) for key in reply[1]}
        found = {key: name for key, name in counters.items() if name is not None and name[0] in limits}
        return bytes(reply[0]).decode("ascii"), found

    @asynccontextmanager
    async def _asking(self, node: str | None) -> AsyncIterator[Ask]:
        """Connect to a server, which is asked in the block. Raises UnavailableError where that fails."""
        opened = self._servers.nodes().get(node) if node is not None else None
        if opened is None:
            raise UnavailableError("the counters cannot be reached: no server is known to have them")
        connection = None
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                connection = await opened()
                await connection.connect()  # type: ignore[no-untyped-call]

            async def ask(commands: Sequence[bytes]) -> list[object]:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await connection.send_packed_command(b"".join(commands))
                    return [await connection.read_response(disable_decoding=True) for _ in commands]

            yield ask
        except (InvalidInputError, UnavailableError):
            raise
        except Exception as error:  # the parser of replies raises anything on what is no reply
            raise UnavailableError(f"the counters cannot be reached: {reason_of(error)}") from error
        finally:
            if connection is not None:
                await close(connection)


async def _delete(ask: Ask, keys: Sequence[Key]) -> int:
    deleted = 0
    for start in range(0, len(keys), MAX_DELETED):
        replies = await ask([packed(b"DEL", key) for key in keys[start : start + MAX_DELETED]])
        deleted += sum(reply for reply in replies if isinstance(reply, int))
    return deleted


def _read_cursor(cursor: str) -> tuple[str, str]:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidInputError("the cursor is none of a page of counters")
    place, node = found.groups()
    return place, node
