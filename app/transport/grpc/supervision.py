"""Running a handler under its deadline, for as long as the client is there."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from app.core.errors import DeadlineExceededError
from app.transport.grpc.status import Code, RpcError

Result = TypeVar("Result")
Receive = Callable[[], Awaitable[Any]]


async def supervise(
    work: Coroutine[Any, Any, Result], receive: Receive, deadline: float | None, drained: "asyncio.Future[None]"
) -> Result:
    """Run `work` to its end and return what it returns.

    Raises DeadlineExceededError once `deadline` (the event loop's time) has passed, and RpcError CANCELLED or
    UNAVAILABLE if the client goes away or the server drains past its grace meanwhile.

    Most handlers on the hot path decide without waiting for anything. They are run to their end on the spot; a timer
    and a watcher are made only for one that does wait, which saves a third of the cost of a call.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    return await guard(_resume(work, waits_for), receive, deadline, drained)


async def guard(
    work: Awaitable[Result], receive: Receive, deadline: float | None, drained: "asyncio.Future[None]"
) -> Result:
    """Await `work` as `supervise` does, without trying to finish it on the spot."""
    caller = asyncio.current_task()
    watcher = asyncio.create_task(_until_gone(receive, drained))
    ended_by: list[RpcError] = []

    def end(task: "asyncio.Task[RpcError]") -> None:
        if not task.cancelled() and caller is not None:
            ended_by.append(_verdict(task))
            caller.cancel()

    watcher.add_done_callback(end)
    try:
        async with within(deadline):
            return await work
    except asyncio.CancelledError:
        if not ended_by or caller is None or caller.uncancel():
            raise
        raise ended_by[0] from None
    finally:
        watcher.remove_done_callback(end)
        watcher.cancel()


class within:  # noqa: N801 - reads as the statement that it is: async with within(deadline)
    """An `async with` block that raises DeadlineExceededError once `deadline` (the event loop's time) has passed."""

    def __init__(self, deadline: float | None) -> None:
        self._timeout = asyncio.timeout_at(deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, raised, trace)
        except TimeoutError as error:
            raise DeadlineExceededError("the call's deadline passed before the answer was ready") from error


def _verdict(watcher: "asyncio.Task[RpcError]") -> RpcError:
    if watcher.exception() is not None:
        return RpcError(Code.CANCELLED, "the connection failed")
    return watcher.result()


async def _until_gone(receive: Receive, drained: "asyncio.Future[None]") -> RpcError:
    """Return the reason to stop once the client has gone or the server drains."""
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({gone, drained}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.result()
            return RpcError(Code.CANCELLED, "the client went away")
        return RpcError(Code.UNAVAILABLE, "the server is going away: connect again")
    finally:
        gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


@types.coroutine
def _resume(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """Go on with a coroutine that was started by hand and now waits for `waits_for`."""
    while True:
        try:
            answer = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the coroutine
            step = _Step(work.throw, error)
        else:
            step = _Step(work.send, answer)
        if step.done:
            result: Result = step.value
            return result
        waits_for = step.value


class _Step:
    """One step of a coroutine: what it waits for next, or what it returned."""

    __slots__ = ("done", "value")

    def __init__(self, advance: Callable[[Any], Any], argument: Any) -> None:
        try:
            self.value = advance(argument)
            self.done = False
        except StopIteration as end:
            self.value = end.value
            self.done = True
