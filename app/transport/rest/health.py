"""Liveness and readiness of the process."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import structlog
from fastapi.responses import JSONResponse, PlainTextResponse

from app.core.clock import Clock
from app.core.errors import MeshwardError
from app.core.signals import Latest

# A check that takes longer has failed; probes come every few seconds and wait about one.
CHECK_TIMEOUT_SECONDS = 2.0
# How long a result is reused, so that probes cannot load the database.
RESULT_SECONDS = 0.5

Check = Callable[[], Awaitable[None]]
"""Returns if a part is ready, raises a MeshwardError with what it waits for otherwise."""

_log = structlog.get_logger(__name__)


class Health:
    """The endpoints of `/healthz` and `/readyz`. `checks` are those of the parts that must be ready, by name."""

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._failures: Latest[dict[str, str]] = Latest({})
        self._checked_at: float | None = None
        self._draining = False

    def drain(self) -> None:
        """Report from now on that the process is not ready, so that load balancers send their calls elsewhere."""
        self._draining = True

    async def failures(self) -> Mapping[str, str]:
        """Return the reason of every check that fails, by name; none means ready."""
        if self._draining:
            return {"process": "is shutting down"}
        async with self._lock:
            now = self._clock.monotonic()
            if self._checked_at is None or now - self._checked_at >= RESULT_SECONDS:
                reasons = await asyncio.gather(*(_run(check) for check in self._checks.values()))
                failures = {name: reason for name, reason in zip(self._checks, reasons, strict=True) if reason}
                if self._failures.set(failures):
                    (_log.warning if failures else _log.info)("readiness_changed", failures=failures)
                self._checked_at = self._clock.monotonic()
            return self._failures.value

    async def healthz(self) -> JSONResponse:
        """Answer 200 as long as the process runs its event loop."""
        return JSONResponse({"status": "alive"})

    async def readyz(self) -> JSONResponse:
        """Answer 200 if every part is ready, else 503; the body has each check and why it fails."""
        failures = await self.failures()
        checks = {name: {"ready": name not in failures} for name in (*self._checks, *failures)}
        for name, reason in failures.items():
            checks[name] |= {"reason": reason}  # type: ignore[dict-item]  # a check's fields differ in type
        status = HTTPStatus.SERVICE_UNAVAILABLE if failures else HTTPStatus.OK
        return JSONResponse({"status": "not ready" if failures else "ready", "checks": checks}, status)

    async def healthcheck(self) -> PlainTextResponse:
        """Answer as envoyproxy/ratelimit: 200 and `OK` if every part is ready, else 500."""
        if await self.failures():
            return PlainTextResponse("not ready; /readyz has the reasons", HTTPStatus.INTERNAL_SERVER_ERROR)
        return PlainTextResponse("OK")


async def _run(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            await check()
    except MeshwardError as error:
        return error.message
    except TimeoutError:
        return f"did not answer within {CHECK_TIMEOUT_SECONDS:g} seconds"
    except Exception:  # noqa: BLE001 - any fault means that the part is not ready
        _log.exception("readiness_check_failed")
        return "failed; the log has the details"
    return ""
