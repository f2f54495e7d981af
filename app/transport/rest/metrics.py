"""The endpoint that Prometheus scrapes."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.telemetry.metrics import Metrics

METRICS_PATH = "/metrics"
METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_response(metrics: Metrics) -> Response:
    """Return every metric in Prometheus' text format."""
    return Response(metrics.render(), media_type=METRICS_MEDIA_TYPE)


def metrics_application(metrics: Metrics) -> Starlette:
    """Return an application that serves the metrics, and nothing else, to any caller."""

    async def scrape(_request: Request) -> Response:
        return metrics_response(metrics)

    return Starlette(routes=[Route(METRICS_PATH, scrape)])
