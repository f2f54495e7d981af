"""Counting over connections to one server: hits in batches, answers in time, and what to do while it is away."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ssl import SSLError

import structlog
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

from app.core.clock import Clock, Sleep
from app.quota.backends.valkey.wire import SCRIPT, SCRIPT_SHA, arguments_of, outcomes_of, packed
from app.quota.model import FixedWindow, Hit, Outcome
from app.telemetry.metrics import Metrics

# Connections to one server. While one batch is counted the next is sent; more make smaller batches, not faster ones.
CONNECTIONS = 2
# Hits in one batch, and batches that wait: what comes beyond them is answered as if the server were away.
MAX_BATCH = 512
MAX_WAITING = 64
# Batches in a row that are answered too late before the server counts as away; a broken connection is enough at once.
MAX_LATE = 3
# A timer that the event loop itself was late for proves nothing about the server: this long, an answer that has arrived
# by then is still read.
GRACE_SECONDS = 0.002
# How long opening a connection may take: name resolution, TLS, authentication.
OPEN_SECONDS = 2.0
# While a server is away it is asked once after each pause: from the first to the last, doubled each time, and each by
# up to a half longer, so that the replicas do not come back together.
FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0
# How often a probe is counted while the server is available.
CHECK_SECONDS = 1.0
# After this long without a failure the pauses start from the first again.
SETTLED_SECONDS = 5.0
# The reason of a link that is not running.
STOPPED = "stopped"
# Separates the counters that probe a server from those of limits.
PROBE = Hit("probe", (), FixedWindow(0, 1), 1)

log = structlog.get_logger(__name__)

Key = bytes


OpenConnection = Callable[[], Awaitable[AbstractConnection]]
"""Makes a connection, unconnected, to wherever the server is now. Raises ValkeyError or OSError if nobody knows."""


def server_time() -> bytes:
    """Return the time that hits are counted at, as the script's argument: the server's own."""
    return b""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """What links have in common.

    `timeout` is in seconds, from the moment a hit is added; `prefix` begins the names of counters; `time` returns the
    time of counting, as the script takes it.
    """

    clock: Clock
    metrics: Metrics
    timeout: float
    prefix: str
    time: Callable[[], bytes] = server_time
    sleep: Sleep = asyncio.sleep


class AwayError(Exception):
    """The server cannot count: `reason` is one of a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Redirect:
    """A hit that another node of the cluster counts: from now on if `moved`, else while its slot moves there."""

    slot: int
    host: str
    port: int
    moved: bool


Result = Outcome | Redirect | None
"""The outcome of a hit; None if it was not counted."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Hits that are sent together, with the future that each request waits for and where its hits end."""

    hits: list[Hit] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    waiting: list[tuple[asyncio.Future[list[Result]], int]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    guard: asyncio.Timeout | None = None

    def settle(self, results: Sequence[Result]) -> None:
        """Give each request its results, None for all of them if there are no `results`."""
        if self.timer is not None:
            self.timer.cancel()
        start = 0
        for future, end in self.waiting:
            if not future.done():
                future.set_result(list(results[start:end]) if results else [None] * (end - start))
            start = end


class Link:
    """Counts at one server. `run` keeps the connections; what is added while the server is away is not sent.

    `name` is its address in logs. `timeout` is in seconds, from the moment a hit is added. `slot_of` is given for a
    node of a cluster, where each slot is asked by itself. The counter `probe_key` is written to find out whether the
    server counts.
    """

    def __init__(
        self,
        name: str,
        open_connection: OpenConnection,
        options: LinkOptions,
        probe_key: Key,
        slot_of: Callable[[Key], int] | None = None,
    ) -> None:
        self._name, self._open_connection, self._probe_key = name, open_connection, probe_key
        self._clock, self._metrics, self._timeout = options.clock, options.metrics, options.timeout
        self._time, self._sleep, self._slot_of = options.time, options.sleep, slot_of
        clock = options.clock
        self._waiting: deque[_Batch] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._failed: asyncio.Future[str] | None = None
        self._loop: asyncio.AbstractEventLoop  # of `run`
        self._late = 0
        self._pause = FIRST_PAUSE
        self._since = clock.monotonic()
        self._reason = ""
        self.available = False

    def add(self, hits: Sequence[Hit], keys: Sequence[Key]) -> "asyncio.Future[list[Result]] | None":
        """Send `hits` with the next batch and return the future of their results; None if the server is away."""
        if not self.available:
            return None
        batch = self._waiting[-1] if self._waiting else None
        if batch is None or len(batch.hits) >= MAX_BATCH:
            if len(self._waiting) >= MAX_WAITING:
                return None
            batch = self._new_batch()
        batch.hits += hits
        batch.keys += keys
        future: asyncio.Future[list[Result]] = self._loop.create_future()
        batch.waiting.append((future, len(batch.hits)))
        return future

    async def run(self) -> None:
        """Connect, count, and connect again whenever the server was away, until cancelled."""
        while True:
            connections = await self._connect()
            self._set_available()
            work = [asyncio.create_task(each) for each in (self._watch(), *map(self._work, connections))]
            try:
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            except AwayError as error:
                self._set_away(error.reason)
            finally:
                self._set_away(STOPPED)
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
            await self._rest()

    def _new_batch(self) -> _Batch:
        batch = _Batch()
        batch.timer = self._loop.call_later(self._timeout, self._check, batch)
        self._waiting.append(batch)
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                break
        return batch

    def _check(self, batch: _Batch) -> None:
        batch.timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._give_up, batch)

    def _give_up(self, batch: _Batch) -> None:
        """Answer a batch whose time is over, and end the exchange that it is in."""
        batch.settle(())
        if batch.guard is not None:
            batch.guard.reschedule(asyncio.get_running_loop().time())
        elif batch in self._waiting:
            self._waiting.remove(batch)
        self._late += 1
        if self._late >= MAX_LATE:
            self._fail("timeout")

    def _fail(self, reason: str) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(reason)
            self._set_away(reason)

    def _set_available(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._failed = self._loop.create_future()
        self._late = 0
        now = self._clock.monotonic()
        log.info("counters_available", server=self._name, away_seconds=round(now - self._since, 3))
        self._since, self._reason, self.available = now, "", True
        self._metrics.counters_available.set((self._name,), 1)

    def _set_away(self, reason: str) -> None:
        """Answer what waits and take no more; logged when it begins and when its reason changes."""
        if self.available:
            now = self._clock.monotonic()
            if now - self._since >= SETTLED_SECONDS:
                self._pause = FIRST_PAUSE
            self._since, self.available = now, False
        while self._waiting:
            self._waiting.popleft().settle(())
        self._metrics.counters_available.set((self._name,), 0)
        if reason not in {self._reason, STOPPED}:
            self._reason = reason
            log.error("counters_away", server=self._name, reason=reason)

    async def _connect(self) -> list[AbstractConnection]:
        """Return connections once the server counts: one attempt at a time, after longer and longer pauses."""
        while True:
            connections: list[AbstractConnection] = []
            try:
                connections.append(await self._probed())
                while len(connections) < CONNECTIONS:
                    connections.append(await self._opened())
            except AwayError as error:
                self._set_away(error.reason)
            else:
                return connections
            finally:
                if len(connections) < CONNECTIONS:
                    for connection in connections:
                        await close(connection)
            await self._rest()

    async def _rest(self) -> None:
        await self._sleep(self._pause * random.uniform(1.0, 1.5))  # noqa: S311 - spreads load, keeps no secret
        self._pause = min(self._pause * 2, LAST_PAUSE)

    async def _probed(self) -> AbstractConnection:
        """Return a connection over which a probe was counted: a server that cannot write does not count."""
        connection = await self._opened()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                (result,) = await self._exchange(connection, [PROBE], [self._probe_key])
        except TimeoutError:
            await close(connection)
            raise AwayError("timeout") from None
        except BaseException:
            await close(connection)
            raise
        if result is None:
            await close(connection)
            raise AwayError("wrong_answer")
        return connection

    async def _opened(self) -> AbstractConnection:
        connection = None
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                connection = await self._open_connection()
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            if connection is not None:
                await close(connection)
            if isinstance(error, Exception):
                raise AwayError(reason_of(error)) from error
            raise
        return connection

    async def _watch(self) -> None:
        """Raise why the server counts as away; have a probe counted now and then, so that silence is noticed."""
        failed = self._failed
        while failed is not None:
            await asyncio.wait({failed}, timeout=CHECK_SECONDS)
            if failed.done():
                raise AwayError(failed.result())
            self.add([PROBE], [self._probe_key])

    async def _work(self, connection: AbstractConnection) -> None:
        """Exchange batches over `connection`, or another one after a late answer, until the server is away."""
        try:
            while True:
                batch = await self._next()
                try:
                    async with asyncio.timeout(None) as batch.guard:
                        results = await self._exchange(connection, batch.hits, batch.keys)
                except TimeoutError:
                    await close(connection)
                    connection = await self._opened()
                except AwayError as error:
                    self._set_away(error.reason)
                    raise
                else:
                    self._late = 0
                    batch.settle(results)
                finally:
                    batch.settle(())
        finally:
            await close(connection)

    async def _next(self) -> _Batch:
        while not self._waiting:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
        return self._waiting.popleft()

    async def _exchange(self, connection: AbstractConnection, hits: Sequence[Hit], keys: Sequence[Key]) -> list[Result]:
        """Have the server count `hits`, in one step or, in a cluster, in one for each slot.

        Raises AwayError if it does not: then what of them was counted is unknown.
        """
        now = int(self._clock.now().timestamp())
        arguments = [arguments_of(hit, now) for hit in hits]
        groups = self._groups(keys)
        results: list[Result] = [None] * len(hits)
        try:
            replies = await self._evaluate(connection, groups, keys, arguments, (b"EVALSHA", SCRIPT_SHA))
            unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                again = [groups[place] for place in unknown]
                loaded = await self._evaluate(connection, again, keys, arguments, (b"EVAL", SCRIPT))
                for place, reply in zip(unknown, loaded, strict=True):
                    replies[place] = reply
            for group, reply in zip(groups, replies, strict=True):
                for place, result in zip(group, results_of(reply, len(group)), strict=True):
                    results[place] = result
        except AwayError:
            raise
        except Exception as error:  # the parser of replies raises anything on what is no reply
            raise AwayError(reason_of(error)) from error
        return results

    def _groups(self, keys: Sequence[Key]) -> list[Sequence[int]]:
        """Return the places of the keys that one call of the script may have."""
        if self._slot_of is None:
            return [range(len(keys))]
        by_slot: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            by_slot.setdefault(self._slot_of(key), []).append(place)
        return list(by_slot.values())

    async def _evaluate(
        self,
        connection: AbstractConnection,
        groups: Sequence[Sequence[int]],
        keys: Sequence[Key],
        arguments: Sequence[bytes],
        script: tuple[bytes, bytes],
    ) -> list[object]:
        """Return the reply of the script for each of `groups`: an exception where that was an error."""
        jitter = b"%.3f" % random.random()  # noqa: S311 - spreads load, keeps no secret
        time = self._time()
        sent = [
            packed(
                *script,
                b"%d" % len(group),
                *[keys[place] for place in group],
                time,
                jitter,
                b"".join([arguments[place] for place in group]),
            )
            for group in groups
        ]
        await connection.send_packed_command(b"".join(sent))
        replies: list[object] = []
        for _ in sent:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies


def results_of(reply: object, count: int) -> Sequence[Result]:
    """Return the results of `count` hits in a reply of the script. Raises as `outcomes_of`, or the error in `reply`."""
    if isinstance(reply, MovedError | AskError):
        return [Redirect(reply.slot_id, reply.host, reply.port, isinstance(reply, MovedError))] * count
    if isinstance(reply, TryAgainError):
        return [None] * count
    if isinstance(reply, ResponseError):
        raise reply
    return outcomes_of(reply, count)


def reason_of(error: BaseException) -> str:
    """Return why a server cannot count, in one of a few words: the text of an error may have anything in it."""
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
