"""Running until a signal ends the process, and what the process leaves behind if it crashes: nothing."""

import asyncio
import ctypes
import resource
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


# prctl(2).
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Have the kernel write no memory of this process anywhere, for there are private keys in it.

    The limit holds for files, the flag for programs that take dumps as well (core(5)); it also keeps other processes of
    this user from reading the memory (ptrace(2)). Where the kernel refuses, nothing is changed.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


async def until_signal(
    work: Coroutine[Any, Any, Result], on_signal: Callable[[signal.Signals], None], *signals: signal.Signals
) -> Result | signal.Signals:
    """Return what `work` returns, or the first signal, which cancels it after `on_signal`; later ones are ignored."""
    running = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:
            on_signal(number)
            running.cancel()
        received.append(number)

    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]
