"""A clock that stands still until a test moves it."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    def __init__(self, start: datetime = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def turn_back(self, seconds: float) -> None:
        """The wall clock goes back, as after a bad NTP step; the monotonic one cannot."""
        self._now -= timedelta(seconds=seconds)

    def turn_forward(self, seconds: float) -> None:
        """The wall clock goes forward and the monotonic one does not."""
        self.turn_back(-seconds)
