"""Running until a signal ends the process."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


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
