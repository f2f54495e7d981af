"""The admin API's frame around endpoints that are there to fail in every way."""

import httpx
import pytest
from fastapi import Request
from pydantic import BaseModel, ConfigDict

from app.core import errors
from app.core.private_files import create_private_file
from app.telemetry.metrics import Metrics
from app.transport.rest.app import create_app
from app.transport.rest.authentication import TokenAuthenticator
from app.transport.rest.etags import IfMatch, expected_version
from app.transport.rest.health import Health
from app.transport.rest.pages import Limit
from app.transport.rest.routes import Access, Route
from tests.fakes.clock import ManualClock

TOKEN = "a-token-that-only-this-test-knows"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    parts: list[Part] = []


class Things:
    """Endpoints as features write them: async methods of a class."""

    def __init__(self):
        self.seen = []

    async def create(self, thing: Thing) -> Thing:
        self.seen.append(thing)
        return thing

    async def read(self, name: str) -> dict[str, str]:
        return {"name": name}

    async def page(self, limit: Limit = 10) -> dict[str, int]:
        return {"limit": limit}

    async def replace(self, name: str, if_match: IfMatch = None) -> dict[str, str]:
        if expected_version(if_match) not in (None, 7):
            raise errors.ConflictError("it has changed")
        return {"name": name}

    async def raw(self, request: Request) -> dict[str, int]:
        body = await request.body()
        self.seen.append(body)
        return {"length": len(body)}

    async def fail(self, kind: str) -> None:
        raise getattr(errors, kind)("what happened", errors.Violation("spec.rules[0]", "is wrong"))

    async def crash(self) -> None:
        raise RuntimeError("a secret detail")


@pytest.fixture
def things():
    return Things()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def token_path(tmp_path):
    path = tmp_path / "admin.token"
    create_private_file(path, TOKEN.encode())
    return path


@pytest.fixture
def health():
    return Health({}, ManualClock())


@pytest.fixture
def make_app(things, metrics, token_path, health):
    def make(*, metrics_public=True, extra=()):
        routes = [
            Route("POST", "/v1/things", things.create, Access.ADMIN, status=201),
            Route("GET", "/v1/things", things.page, Access.ADMIN),
            Route("GET", "/v1/things/{name}", things.read, Access.ADMIN, tag="things"),
            Route("PUT", "/v1/things/{name}", things.replace, Access.ADMIN),
            Route("POST", "/v1/raw", things.raw, Access.ADMIN),
            Route("GET", "/v1/fail/{kind}", things.fail, Access.ADMIN),
            Route("GET", "/v1/crash", things.crash, Access.ADMIN),
            *extra,
        ]
        return create_app(
            routes,
            authenticator=TokenAuthenticator(token_path),
            health=health,
            metrics=metrics,
            metrics_public=metrics_public,
        )

    return make


@pytest.fixture
async def client(make_app):
    """A client that bears the token."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(make_app()),
        base_url="http://admin",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client


@pytest.fixture
async def stranger(make_app):
    """A client that bears nothing."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://admin") as client:
        yield client
