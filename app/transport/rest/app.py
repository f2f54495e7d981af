"""The admin API as an ASGI application, made from the route table."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.core.errors import MeshwardError
from app.spiffe.principal import Principal
from app.telemetry.metrics import Metrics
from app.transport.rest.authentication import TokenAuthenticator
from app.transport.rest.edge import Edge
from app.transport.rest.etags import check_preconditions
from app.transport.rest.health import Health
from app.transport.rest.metrics import METRICS_PATH, metrics_response
from app.transport.rest.problems import MEDIA_TYPE, from_error, from_http_exception, from_validation_error
from app.transport.rest.routes import Access, Route

_SECURITY_SCHEME = "adminToken"

Authenticate = Callable[[Request], Principal]
"""Returns who makes the request, or raises UnauthenticatedError or PermissionDeniedError."""


class ViolationBody(BaseModel):
    """One field of the request that is invalid: its path and what is wrong."""

    path: str
    problem: str


class ProblemBody(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    violations: list[ViolationBody] | None = None


def create_app(
    routes: Iterable[Route],
    *,
    authenticator: TokenAuthenticator,
    health: Health,
    metrics: Metrics,
    metrics_public: bool,
) -> FastAPI:
    """Return the application with `routes` and the frame's own. Raises ValueError for a row that is there twice."""
    app = FastAPI(
        title="Meshward admin API", version=version("meshward"), openapi_url=None, docs_url=None, redoc_url=None
    )
    rows = (*_built_in_routes(app, health, metrics, metrics_public=metrics_public), *routes)
    _check_unique(rows)
    requirements: dict[Access, Authenticate | None] = {
        Access.PUBLIC: None,
        Access.ADMIN: authenticator.authenticate,
    }
    for row in rows:
        _add(app, row, requirements[row.access])
    app.add_exception_handler(MeshwardError, from_error)  # type: ignore[arg-type]  # handlers are typed by the root class
    app.add_exception_handler(HTTPException, from_http_exception)  # type: ignore[arg-type]  # as above
    app.add_exception_handler(RequestValidationError, from_validation_error)  # type: ignore[arg-type]  # as above
    app.add_middleware(Edge, metrics=metrics)
    return app


def _built_in_routes(app: FastAPI, health: Health, metrics: Metrics, *, metrics_public: bool) -> Sequence[Route]:
    async def render_metrics() -> Response:
        return metrics_response(metrics)

    async def openapi() -> dict[str, Any]:
        return _describe(app)

    return (
        Route("GET", "/healthz", health.healthz, Access.PUBLIC, tag="health"),
        Route("GET", "/readyz", health.readyz, Access.PUBLIC, tag="health"),
        Route("GET", "/healthcheck", health.healthcheck, Access.PUBLIC, tag="health"),
        Route("GET", METRICS_PATH, render_metrics, Access.PUBLIC if metrics_public else Access.ADMIN, tag="health"),
        Route("GET", "/openapi.json", openapi, Access.ADMIN, tag="documentation"),
    )


def _check_unique(rows: Iterable[Route]) -> None:
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.method, row.path) in seen:
            raise ValueError(f"{row.method} {row.path} is in the table twice")
        seen.add((row.method, row.path))


def _add(app: FastAPI, row: Route, authenticate: Authenticate | None) -> None:
    app.router.add_api_route(
        row.path,
        row.endpoint,
        methods=[row.method],
        status_code=row.status,
        **({"response_model": row.shown} if row.shown else {}),
        tags=[row.tag] if row.tag else None,
        responses={"default": {"description": "What went wrong", "content": {MEDIA_TYPE: {}}, "model": ProblemBody}},
        openapi_extra={"security": [{_SECURITY_SCHEME: []}]} if authenticate else {"security": []},
        route_class_override=_guarded(authenticate) if authenticate else None,
    )


def _guarded(authenticate: Authenticate) -> type[APIRoute]:
    class GuardedRoute(APIRoute):
        """A route that authenticates and checks preconditions before the body is read; a dependency runs after it."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def authenticated(request: Request) -> Response:
                request.state.principal = authenticate(request)
                check_preconditions(request)
                return await handle(request)

            return authenticated

    return GuardedRoute


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes[_SECURITY_SCHEME] = {"type": "http", "scheme": "bearer"}
    return document
