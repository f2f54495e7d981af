"""Algorithms and sequences of hits for tests of counting, in the ranges where numbers are hard."""

from hypothesis import strategies as st

from app.quota.model import (
    MAX_UINT32,
    CalendarWindow,
    Concurrency,
    FixedWindow,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
    Total,
    Unit,
)

YEAR = 365 * 86_400
START = 1_767_268_800_000

REQUESTS = st.integers(0, 9) | st.integers(0, MAX_UINT32) | st.just(MAX_UINT32)
SECONDS = st.integers(1, 9) | st.integers(1, YEAR) | st.sampled_from([60, 3600, YEAR])
FEW = st.integers(0, 20)

ALGORITHMS = st.one_of(
    st.builds(FixedWindow, REQUESTS, SECONDS, st.booleans()),
    st.builds(
        CalendarWindow,
        REQUESTS,
        st.sampled_from([Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR]),
        st.sampled_from(["UTC", "Europe/Zurich", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"]),
        st.booleans(),
    ),
    st.builds(SlidingWindow, REQUESTS, SECONDS),
    st.builds(SlidingLog, FEW, SECONDS),
    st.builds(TokenBucket, REQUESTS, SECONDS, REQUESTS),
    st.builds(Concurrency, REQUESTS, SECONDS),
    st.builds(Total, REQUESTS),
)


def state_after(algorithm, state, step, hits):
    """The state of a counter after a step: that of the step where one is written, else the one of before."""
    return step.state if hits and (step.allowed or getattr(algorithm, "counts_refused", False)) else state


@st.composite
def sequences(draw):
    """An algorithm and the hits on one counter of it: milliseconds since the last ones, and how many."""
    algorithm = draw(ALGORITHMS)
    length = min(algorithm.seconds, 2 * YEAR) * 1000
    move = (
        st.integers(0, 20)
        | st.integers(0, 3 * length)
        | st.sampled_from([length // 2, length, length - 1, length + 1])
        | st.integers(-2 * length, 0)
        | st.integers(-50, 0)
    )
    least = -9 if isinstance(algorithm, Concurrency) else 0
    hits = st.integers(least, 9) | st.integers(0, max(1, algorithm.requests)) | st.integers(0, MAX_UINT32)
    return algorithm, draw(st.lists(st.tuples(move, hits), max_size=25))


@st.composite
def set_back(draw):
    """An algorithm and the hits on one counter of it, and by how many milliseconds the clock is set back after them."""
    algorithm, steps = draw(sequences())
    length = min(algorithm.seconds, 2 * YEAR) * 1000
    return algorithm, steps, draw(st.integers(0, 2 * length) | st.integers(2 * length, 4 * length))
