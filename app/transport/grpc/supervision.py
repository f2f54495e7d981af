"""Running a handler under its deadline, for as long as the client is there."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from app.core.errors import DeadlineExceededError
from app.transport.grpc.status import Code, RpcError

Result = TypeVar("Result")
# Waits for the reason to end a call early, and returns it.
Watch = Callable[[], Coroutine[Any, Any, RpcError]]


async def guard(work: Awaitable[Result], watch: Watch, deadline: float | None) -> Result:
    """Await `work` and return what it returns.

    Raises DeadlineExceededError once `deadline` (the event loop's time) has passed, and the error that `watch` returns
    if it returns first.
    """
    caller = asyncio.current_task()
    watcher = asyncio.create_task(watch())
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


@types.coroutine
def resume(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    """Go on with a coroutine that was started by hand and now waits for `waits_for`."""
    while True:
        advance: Callable[[Any], Any] = work.send
        try:
            argument = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation too belongs to the coroutine
            advance, argument = work.throw, error
        try:
            waits_for = advance(argument)
        except StopIteration as done:
            result: Result = done.value
            return result
