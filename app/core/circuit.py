"""Leaving a service alone that fails, so that callers get their answer at once and the service can come back."""

# A single failure may be chance.
MAX_FAILURES = 3
# A pause ends with one call that tries; it doubles from the first to the last while those fail.
FIRST_PAUSE = 1.0
LAST_PAUSE = 30.0


class Circuit:
    """Says whether a service may be asked at a time (monotonic seconds), by how the calls before went."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._closed_until = 0.0

    @property
    def away(self) -> bool:
        """Whether the service failed so often that it is asked now and then only."""
        return self._failures >= MAX_FAILURES

    def admit(self, now: float) -> float:
        """Return 0 if the service may be asked, else the seconds until it may be.

        After a pause one call is admitted; the others wait for what becomes of it.
        """
        if not self.away:
            return 0.0
        if now < self._closed_until:
            return self._closed_until - now
        self._closed_until = now + self._pause
        return 0.0

    def succeeded(self) -> None:
        """Note an answer."""
        self._failures, self._pause = 0, FIRST_PAUSE

    def failed(self, now: float) -> None:
        """Note a failure."""
        self._failures += 1
        if self.away:
            self._closed_until = now + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE)
