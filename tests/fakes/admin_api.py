"""The admin API over a few routes, called in memory by the bearer of its token."""

import httpx

from app.core.private_files import create_private_file
from app.telemetry.metrics import Metrics
from app.transport.rest.app import create_app
from app.transport.rest.authentication import TokenAuthenticator
from app.transport.rest.health import Health
from tests.fakes.clock import ManualClock

TOKEN = "the-token-of-the-admin-in-this-test"


def admin_client(routes, token_file, *, token=TOKEN):
    """A client of the application that serves `routes`; it bears `token`, which the right one is not if it differs."""
    create_private_file(token_file, TOKEN.encode())
    app = create_app(
        routes,
        authenticator=TokenAuthenticator(token_file),
        health=Health({}, ManualClock()),
        metrics=Metrics(),
        metrics_public=True,
    )
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin.test", headers=headers)
