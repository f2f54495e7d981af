"""The providers of CUSTOM policies, from settings."""

from collections.abc import Mapping
from pathlib import Path

from app.authz.backends.bundle_signature import KeyFile
from app.authz.backends.cel import CelOptions, CelProvider
from app.authz.backends.grpc_messages import GrpcMessages
from app.authz.backends.opa import OpaOptions, OpaProvider
from app.authz.backends.plugin import PluginOptions, PluginProvider
from app.authz.backends.policy_source import BundleOptions, BundleUrl, PathSource, PolicySource
from app.authz.backends.rego import RegoOptions, RegoProvider
from app.authz.ports import Provider
from app.authz.rules.parts import parts_of
from app.core.clock import Clock
from app.core.errors import UnavailableError
from app.core.last_good import LastGoodFile
from app.main.last_good import DIRECTORY
from app.settings import Settings
from app.settings.authz import CelProviderSettings, OpaProviderSettings, PluginProviderSettings, RegoProviderSettings
from app.telemetry.metrics import Metrics


def make_providers(settings: Settings, clock: Clock, metrics: Metrics) -> dict[str, Provider]:
    """Return the providers by their names; nothing is started. Raises InvalidInputError if a plug-in cannot be used."""
    made: dict[str, Provider] = {}
    for name, each in settings.authz.providers.items():
        if isinstance(each, CelProviderSettings):
            made[name] = CelProvider(name, CelOptions(each.expression, each.path))
        elif isinstance(each, PluginProviderSettings):
            made[name] = PluginProvider(name, PluginOptions(each.plugin, each.options, each.timeout_ms / 1000))
        elif isinstance(each, OpaProviderSettings):
            made[name] = _opa(each, clock)
        else:
            kept = settings.data_dir / DIRECTORY / f"bundle-{name}"
            made[name] = _rego(name, each, kept, clock, metrics)
    return made


def _opa(settings: OpaProviderSettings, clock: Clock) -> Provider:
    by = parts_of(tuple(path.split(".")) for path in settings.cache_by) if settings.cache_by else None
    options = OpaOptions(
        settings.url,
        settings.query,
        settings.timeout_ms / 1000,
        settings.connections,
        settings.cache_seconds,
        by,
        messages=_messages(settings.proto_descriptor),
        skip_bodies=settings.skip_request_body_parse,
    )
    return OpaProvider(options, clock)


def _rego(name: str, settings: RegoProviderSettings, kept: Path, clock: Clock, metrics: Metrics) -> Provider:
    source: PolicySource
    if settings.path is not None:
        source = PathSource(settings.path)
    else:
        url = str(settings.url)
        bundle = BundleOptions(url, settings.poll_seconds, settings.ca_file, settings.token_file)
        source = BundleUrl(bundle, clock, LastGoodFile(kept, "bundle", url))
    options = RegoOptions(
        source,
        settings.query,
        settings.timeout_ms / 1000,
        settings.workers,
        v0=settings.rego_v0,
        cache_seconds=settings.cache_seconds,
        keys=tuple(KeyFile(each.key_id, each.algorithm, each.file, each.scope) for each in settings.verification_keys),
        messages=_messages(settings.proto_descriptor),
        skip_bodies=settings.skip_request_body_parse,
    )

    def on_loaded(revision: str, before: str) -> None:
        metrics.provider_revisions.remove((name, before))
        metrics.provider_revisions.set((name, revision), 1)

    return RegoProvider(name, options, clock, on_loaded)


def _messages(file: Path | None) -> GrpcMessages | None:
    return None if file is None else GrpcMessages(file)


async def check_providers(providers: Mapping[str, Provider]) -> None:
    """Raise UnavailableError if one of them has nothing to decide by yet."""
    missing = sorted(name for name, provider in providers.items() if not provider.loaded)
    if missing:
        raise UnavailableError(f"the policies of the provider {missing[0]} are not loaded yet")
