"""A wall clock that goes wrong: decisions go on, and so does issuance once the clock is right."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
from structlog.testing import capture_logs

from app.core.clock import ConfirmedClock
from app.db.migrate import upgrade
from app.main.control_plane import ControlPlane
from app.main.parts import Parts, make_parts
from app.settings import load
from app.spiffe.id import SpiffeId
from app.transport.rest.authentication import ensure_token
from tests.assets.documents import ONE_A_DAY
from tests.fakes.clock import ManualClock
from tests.fakes.principals import OPERATOR
from tests.support.callers import (
    CART,
    certify,
    check,
    code_of,
    plaintext_channel,
    presented_certificate,
    rate_limit,
    tls_channel,
)
from tests.support.serving import environment, eventually_async

DAY = 24 * 3600
JUMP = 250 * DAY


class Running:
    """A control plane that runs in this process, as `tests.support.callers` call it."""

    def __init__(self, parts: Parts, ports: dict[str, int], directory: Path, clock: ManualClock) -> None:
        self.parts, self._directory, self._clock = parts, directory, clock
        self.tls_port, self.plaintext_port = ports["mesh_tls"], ports["mesh_plaintext"]
        token = (directory / "admin.token").read_text().strip()
        self.admin = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{ports['admin']}", headers={"authorization": f"Bearer {token}"}
        )

    @property
    def roots(self) -> bytes:
        return (self._directory / "bundle.pem").read_bytes()

    async def maintain(self) -> None:
        """Make the CA's passes of three seconds."""
        for _ in range(3):
            self._clock.advance(1)
            await self.parts.ca.maintain()

    async def reasons(self) -> dict[str, str]:
        """The reasons of the parts that are not ready."""
        checks = (await self.admin.get("/readyz")).json()["checks"]
        return {name: check["reason"] for name, check in checks.items() if not check["ready"]}

    async def until_ready(self) -> None:
        async def ready():
            self._clock.advance(1)  # what was found is repeated for half a second
            return (await self.admin.get("/readyz")).is_success

        await eventually_async(ready, "/readyz to be 200")

    async def join_token(self) -> str:
        return (await self.parts.ca.join_tokens.create(OPERATOR, SpiffeId.parse(CART))).secret


@asynccontextmanager
async def running(directory: Path, clock: ManualClock) -> AsyncIterator[Running]:
    ensure_token(directory / "admin.token")
    parts = make_parts(load(environment(directory, shutdown_grace="1s")).settings, ConfirmedClock(clock))
    try:
        await upgrade(parts.engine)
        control_plane = ControlPlane(parts)
        try:
            with capture_logs() as logs:
                await control_plane.start()
            (ports,) = [event for event in logs if event["event"] == "listening"]
            server = Running(parts, dict(ports), directory, clock)
            async with server.admin:
                yield server
        finally:
            await control_plane.stop()
    finally:
        await parts.engine.dispose()


@pytest.fixture
def clock():
    """TLS goes by the machine's clock, so this one starts from it."""
    return ManualClock(datetime.now(UTC))


async def enrolled(server):
    async with tls_channel(server) as channel:
        return (await certify(channel, token=await server.join_token())).spiffe_id


async def test_250_days_forward_for_three_seconds_renew_nothing_and_end_no_token(tmp_path, clock):
    async with running(tmp_path, clock) as server:
        await server.until_ready()
        before, token = server.parts.ca.authorities.status(), await server.join_token()
        clock.turn_forward(JUMP)
        await server.maintain()
        clock.turn_back(JUMP)
        await server.maintain()
        assert server.parts.ca.authorities.status() == before
        async with tls_channel(server) as channel:
            assert (await certify(channel, token=token)).spiffe_id == CART


async def test_a_process_that_started_250_days_ahead_keeps_none_after_it_from_issuing(tmp_path, clock):
    async with running(tmp_path, clock) as server:
        await server.until_ready()
        (signer,) = server.parts.ca.authorities.status().signers
    clock.turn_forward(JUMP)
    async with running(tmp_path, clock) as server:
        await server.maintain()
        assert len(server.parts.ca.authorities.status().signers) == 2
    clock.turn_back(JUMP)
    async with running(tmp_path, clock) as server:
        await server.until_ready()
        assert server.parts.ca.authorities.active().signer == signer
        assert await enrolled(server) == CART
        assert presented_certificate(server).not_valid_before_utc <= clock.now()


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (3651 * DAY, "the root certificate expired at"),
        (-DAY, "the root certificate is valid from .*: set the clock right"),
    ],
    ids=["after the root's end", "before the root"],
)
async def test_outside_the_roots_life_all_but_issuance_goes_on(tmp_path, clock, seconds, reason):
    async with running(tmp_path, clock) as server:
        await server.until_ready()
        assert (await server.admin.put("/v1/quota/configs/shop", content=ONE_A_DAY)).is_success
        keys, roots = sorted((tmp_path / "keys").iterdir()), server.roots
    clock.turn_forward(seconds)
    async with running(tmp_path, clock) as server, plaintext_channel(server) as channel:
        await server.maintain()
        reasons = await server.reasons()
        assert reasons.keys() == {"ca", "mesh"}
        assert re.search(reason, reasons["ca"])
        assert await check(channel)
        assert (await rate_limit(channel, "shop")).overall_code
        token = await server.join_token()
        assert await code_of(certify(channel, token=token)) is grpc.StatusCode.INTERNAL
        assert (await server.admin.get("/v1/ca")).json()["waiting_for"] == reasons["ca"]
        assert server.roots == roots
    clock.turn_forward(-seconds)
    async with running(tmp_path, clock) as server:
        await server.until_ready()
        assert await enrolled(server) == CART
    assert sorted((tmp_path / "keys").iterdir()) == keys
