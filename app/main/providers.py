"""The providers of CUSTOM policies, from settings."""

from collections.abc import Mapping

from app.authz.backends.cel import CelOptions, CelProvider
from app.authz.backends.opa import OpaOptions, OpaProvider
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.authz.ports import Provider
from app.authz.rules.parts import parts_of
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.settings.areas import AuthzSettings, CelProviderSettings, OpaProviderSettings, ProviderSettings


def make_providers(settings: AuthzSettings, clock: Clock) -> dict[str, Provider]:
    """Return the providers by their names; nothing is started."""
    return {name: _make(name, each, clock) for name, each in settings.providers.items()}


def _make(name: str, settings: ProviderSettings, clock: Clock) -> Provider:
    if isinstance(settings, CelProviderSettings):
        return CelProvider(name, CelOptions(settings.expression, settings.path))
    seconds = settings.timeout_ms / 1000
    if isinstance(settings, OpaProviderSettings):
        cached, named = settings.cache_seconds, settings.cache_by
        by = parts_of(tuple(path.split(".")) for path in named) if named else None
        return OpaProvider(OpaOptions(settings.url, settings.query, seconds, settings.connections, cached, by), clock)
    options = RegoOptions(
        settings.path,
        settings.query,
        seconds,
        settings.workers,
        v0=settings.rego_v0,
        cache_seconds=settings.cache_seconds,
    )
    return RegoProvider(name, options, clock)


async def check_providers(providers: Mapping[str, Provider]) -> None:
    """Raise UnavailableError if one of them has nothing to decide by yet."""
    missing = sorted(name for name, provider in providers.items() if not provider.loaded)
    if missing:
        raise UnavailableError(f"the policies of the provider {missing[0]} are not loaded yet")
