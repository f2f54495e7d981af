"""Counting over connections to one server: hits in batches, answers in time, and what to do while it is away."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from valkey.asyncio.connection import AbstractConnection

from app.core.clock import Clock, Sleep
from app.quota.backends.valkey.exchange import AwayError, Exchange, Result, Way, close, reason_of
from app.quota.backends.valkey.wire import Key, PreparedHit, prepare_named
from app.quota.model import FixedWindow, Hit
from app.quota.rules.joint import AllOrNone
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

Value = TypeVar("Value")
Finish = Callable[[list[Result]], Value]
"""Returns what the results of a request's hits come to. It is called once they are known, before its caller goes on."""


def unchanged(results: list[Result]) -> list[Result]:
    """Return the results themselves."""
    return results


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


@dataclass(slots=True, eq=False)
class _Batch:
    """Hits that are sent together, with the future that each request waits for, where its hits end, and its `Finish`.

    `ways` are those of the places whose hits are not sent TOGETHER, `joints` those of the places where hits begin that
    are counted all or none.
    """

    hits: list[PreparedHit] = field(default_factory=list)
    ways: dict[int, Way] = field(default_factory=dict)
    joints: dict[int, AllOrNone] = field(default_factory=dict)
    waiting: list[tuple[asyncio.Future[Any], int, Finish[Any]]] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    guard: asyncio.Timeout | None = None

    def settle(self, results: list[Result] | None = None) -> None:
        """Give each request what its results come to, None for all of them if there are no `results`."""
        if self.timer is not None:
            self.timer.cancel()
        start = 0
        for future, end, finish in self.waiting:
            if not future.done():
                try:
                    future.set_result(finish(results[start:end] if results else [None] * (end - start)))
                except Exception as error:  # noqa: BLE001 - it fails one request, whose caller gets it
                    future.set_exception(error)
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
        self._name, self._open_connection, self._probe = name, open_connection, prepare_named(probe_key, PROBE)
        self._clock, self._metrics, self._timeout = options.clock, options.metrics, options.timeout
        self._sleep, self._exchange = options.sleep, Exchange(options.clock, options.time, slot_of)
        self._waiting: deque[_Batch] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._failed: asyncio.Future[str] | None = None
        self._loop: asyncio.AbstractEventLoop  # of `run`
        self._late = 0
        self._pause = FIRST_PAUSE
        self._since = self._clock.monotonic()
        self._reason = ""
        self.available = False

    def add(
        self,
        hits: Sequence[PreparedHit],
        finish: Finish[Value],
        way: Way = Way.TOGETHER,
        joint: AllOrNone | None = None,
    ) -> "asyncio.Future[Value] | None":
        """Send `hits` with the next batch and return the future of what `finish` makes of their results.

        None if the server is away.
        """
        if not self.available:
            return None
        batch = self._waiting[-1] if self._waiting else None
        if batch is None or len(batch.hits) >= MAX_BATCH:
            if len(self._waiting) >= MAX_WAITING:
                return None
            batch = self._new_batch()
        if joint is not None:
            batch.joints[len(batch.hits)] = joint
        if way is not Way.TOGETHER:
            batch.ways |= dict.fromkeys(range(len(batch.hits), len(batch.hits) + len(hits)), way)
        batch.hits += hits
        future: asyncio.Future[Value] = self._loop.create_future()
        batch.waiting.append((future, len(batch.hits), finish))
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
        batch.settle()
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
            self._waiting.popleft().settle()
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
                (result,) = await self._exchange.run(connection, [self._probe])
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
            self.add([self._probe], unchanged)

    async def _work(self, connection: AbstractConnection) -> None:
        """Exchange batches over `connection`, or another one after a late answer, until the server is away."""
        try:
            while True:
                batch = await self._next()
                try:
                    async with asyncio.timeout(None) as batch.guard:
                        results = await self._exchange.run(connection, batch.hits, batch.ways, batch.joints)
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
                    batch.settle()
        finally:
            await close(connection)

    async def _next(self) -> _Batch:
        while not self._waiting:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
        return self._waiting.popleft()
