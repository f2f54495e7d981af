"""The threads of h2corn that read and write, and when the kernel runs them."""

import os
from collections.abc import Iterator
from pathlib import Path

import structlog

# As h2corn's runtime calls them, in /proc/self/task.
WORKER = "tokio-rt-worker"

_TASKS = Path("/proc/self/task")
_log = structlog.get_logger(__name__)


def workers() -> Iterator[int]:
    """Yield the ids of the threads that read and write; none where the kernel is not Linux."""
    for task in _TASKS.iterdir() if _TASKS.is_dir() else ():
        try:
            name = (task / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
        if name == WORKER:
            yield int(task.name)


def run_in_batches() -> None:
    """Have those threads not interrupt the one that runs Python, where they share a processor.

    The kernel lets a thread that wakes up interrupt the one that runs. A request that arrives while another one is
    decided would then be read at once, alone, at the cost of two switches. Scheduled as a batch (SCHED_BATCH), the
    thread runs as soon as the other one waits, or has had its share, and reads all that has arrived. On a processor of
    its own it runs at once as before.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    for thread in workers():
        try:
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
        except OSError as error:  # a sandbox may forbid it; calls cost more then
            _log.info("threads_not_scheduled_as_a_batch", reason=error.strerror)
            return
