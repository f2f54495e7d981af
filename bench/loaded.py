"""A control plane without listeners, with policies and limits loaded."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

from app.core.clock import SystemClock
from app.core.store_url import parse_store_url
from app.db.engine import sqlite_url
from app.db.migrate import upgrade
from app.main.parts import Parts, make_parts
from app.settings import Settings
from app.settings.areas import MAX_BUDGET, CaSettings, DownstreamSettings
from app.settings.authz import AuthorizationServerSettings, AuthzSettings, RegoProviderSettings
from app.settings.quota import CountersSettings
from app.spiffe.id import SpiffeId
from app.spiffe.principal import Credential, Principal
from bench.calls import DOMAIN
from bench.policies import policy
from bench.tokens import AUTHORIZATION_SERVER

REGO = """package envoy.authz
default allow := false
allow if { input.attributes.request.http.method == "GET"; startswith(input.attributes.request.http.path, "/api/v1/") }
"""
OPERATOR = Principal(Credential.ADMIN_TOKEN)


@asynccontextmanager
async def loaded_parts(
    counters_url: str = "memory://",
    database_url: str | None = None,
    place: Path | None = None,
    downstreams: tuple[SpiffeId, ...] = (),
    introspection_url: str = "",
) -> AsyncIterator[Parts]:
    """Yield the parts over a new database, SQLite without a URL, ready to decide, with counters at `counters_url`.

    Their files are in a directory of their own, below `place` if there is one. `downstreams` may have authorities.
    `introspection_url` is that of the authorization server on this machine, for an hour once for each token.
    """
    with tempfile.TemporaryDirectory(prefix="meshward-bench-", dir=place) as directory:
        beneath = tuple(DownstreamSettings(spiffe_id=each) for each in downstreams)
        unlimited = CaSettings(svids_per_hour=MAX_BUDGET, downstreams=beneath)
        counters = CountersSettings(url=parse_store_url(counters_url))
        rego = Path(directory) / "policy.rego"
        rego.write_text(REGO)
        secret = Path(directory) / "idp.secret"
        secret.write_text("bench")
        servers = {}
        if introspection_url:
            servers[AUTHORIZATION_SERVER] = AuthorizationServerSettings(
                introspection_url=introspection_url, client_id="bench", client_secret_file=secret, cache_seconds=3600
            )
        authz = AuthzSettings(
            providers={"rego": RegoProviderSettings(engine="rego", path=rego, timeout_ms=1000)},
            authorization_servers=servers,
            jwks_allowed_networks=(ip_network("127.0.0.0/8"),),
        )
        url = database_url or sqlite_url(Path(directory) / "meshward.db")
        settings = Settings(data_dir=Path(directory), database_url=url, ca=unlimited, counters=counters, authz=authz)
        parts = make_parts(settings, SystemClock())
        await upgrade(parts.engine)
        await parts.ca.start()
        authentication = parts.authentication
        for each in (authentication.requests, authentication.credentials, authentication.peers):
            await each.documents.refresh()
        await parts.policies.documents.refresh()
        await parts.quotas.documents.refresh()
        counting = asyncio.create_task(parts.counters.run())
        yield parts
        counting.cancel()
        await asyncio.gather(*(provider.close() for provider in parts.providers.values()))
        await parts.engine.dispose()


async def load_custom(parts: Parts) -> None:
    """Have every request decided by three lines of Rego, evaluated embedded."""
    for provider in parts.providers.values():
        await provider.refresh()
    spec = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "rego", "namespace": "shop"},
        "spec": spec,
    }
    await parts.policies.documents.apply(OPERATOR, [document])


async def load_policies(parts: Parts, first: int, count: int) -> None:
    """Load `count` policies, starting with the number `first`."""
    await parts.policies.documents.apply(OPERATOR, [policy(index) for index in range(first, first + count)])


async def load_limits(parts: Parts, count: int) -> None:
    """Load a configuration with `count` limits."""
    await parts.quotas.documents.apply(OPERATOR, [limits_document(count)])


def limits_document(count: int) -> dict[str, object]:
    """Return a configuration with `count` limits: one by principal, and one by user for each of many routes."""
    limit = {"unit": "hour", "requests_per_unit": 10**9}
    descriptors: list[object] = [{"key": "principal", "rate_limit": limit}]
    for index in range(1, count):
        users = {"key": "user", "rate_limit": limit}
        descriptors.append({"key": "route", "value": f"/api/v{index}", "descriptors": [users]})
    return {"domain": DOMAIN, "descriptors": descriptors}
