"""What counters in memory take: bytes of a live one, what is left when they have ended, and the bound under a flood."""

import gc
import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from app.quota.backends.memory import MAX_COUNTERS, MemoryCounters
from app.quota.model import Algorithm, Concurrency, FixedWindow, Hit, SlidingWindow, TokenBucket

# Limits that share the counters: one alone has room for a tenth of them.
LIMITS = 10
FLOOD = 2 * MAX_COUNTERS
HOUR = 3600
# What a live counter may take, and all of them with what a flood adds.
MAX_BYTES = 300
MAX_FLOODED = 384
PAGE = 4096


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        """Return the time."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self.passed


def resident() -> int:
    """Return the bytes of memory that the process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _fill(counters: MemoryCounters, algorithm: Algorithm, length: int, first: int, count: int) -> None:
    for number in range(first, first + count):
        counters.add([Hit(f"limit {number % LIMITS}", (f"{number:0{length}d}",), algorithm, 1)])


def _measure(name: str, algorithm: Algorithm, length: int, count: int, results: Any) -> None:
    clock = Clock()
    counters = MemoryCounters(clock)
    before = resident()
    _fill(counters, algorithm, length, 0, count)
    live = (resident() - before) / counters.held
    _fill(counters, algorithm, length, count, FLOOD)
    flooded = (resident() - before) / 2**20
    for hours in (3, 6):
        clock.passed = hours * HOUR
        _fill(counters, algorithm, length, 0, LIMITS)
    left = counters.held
    print(f"{name:<44}{live:>12.0f}{flooded:>14.0f}{left:>16,}", flush=True)
    results.put((name, live, flooded, left))


CASES: tuple[tuple[str, Algorithm, int], ...] = (
    ("fixed window, keys of 20 characters", FixedWindow(100, HOUR), 20),
    ("fixed window, keys of 60 characters", FixedWindow(100, HOUR), 60),
    ("fixed window, keys of 1,000 characters", FixedWindow(100, HOUR), 1000),
    ("sliding window", SlidingWindow(100, HOUR), 20),
    ("token bucket", TokenBucket(100, HOUR, 100), 20),
    ("concurrency", Concurrency(100, HOUR), 20),
)


def main() -> list[tuple[str, str, str, bool]]:
    """Print the table, and return what is wanted of it; each line is measured in a process of its own."""
    print(
        f"Counters in memory: {MAX_COUNTERS:,} live ones of {LIMITS} limits, then {FLOOD:,} more keys, then their end"
    )
    print(f"{'algorithm':<44}{'bytes each':>12}{'flooded, MiB':>14}{'left afterwards':>16}", flush=True)
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    measured: list[tuple[str, float, float, int]] = []
    for case in CASES:
        process = context.Process(target=_measure, args=(*case, MAX_COUNTERS, results))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{case[0]}: its process ended with {process.exitcode}")
        measured.append(results.get())
    most = max(live for _, live, _, _ in measured)
    flooded = max(each for _, _, each, _ in measured)
    left = max(each for _, _, _, each in measured)
    return [
        ("Bytes of a live counter in memory", f"{most:.0f}", f"{MAX_BYTES}", most <= MAX_BYTES),
        (f"MiB after {FLOOD:,} more keys", f"{flooded:.0f}", f"{MAX_FLOODED}", flooded <= MAX_FLOODED),
        ("Counters left after their end", f"{left:,}", f"{LIMITS}", left <= LIMITS),
    ]


if __name__ == "__main__":
    main()
