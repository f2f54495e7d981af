"""The store that hits are counted in, as the settings name it."""

from app.core.clock import Clock
from app.core.errors import InvalidInputError
from app.core.store_url import StoreKind
from app.quota.backends.memory import MemoryCounters
from app.quota.ports import CounterStore
from app.settings import CountersSettings
from app.telemetry.metrics import Metrics


def make_counters(settings: CountersSettings, clock: Clock, metrics: Metrics) -> CounterStore:
    """Return the counter store; it connects when it is run. Raises InvalidInputError if its client is not installed."""
    if settings.url.kind is StoreKind.MEMORY:
        return MemoryCounters(clock)
    try:
        from app.quota.backends.valkey.counters import ValkeyCounters  # noqa: PLC0415 - an extra
        from app.quota.backends.valkey.link import LinkOptions  # noqa: PLC0415
        from app.quota.backends.valkey.servers import StoreFiles, connect  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(
            f"counters.url needs the extra 'valkey': pip install 'meshward[valkey]' ({error})"
        ) from error
    files = StoreFiles(
        settings.password_file,
        settings.ca_file,
        settings.cert_file,
        settings.key_file,
        settings.sentinel_password_file,
        settings.sentinel_user,
    )
    options = LinkOptions(clock, metrics, settings.timeout_ms / 1000, settings.prefix)
    servers = connect(settings.url, files, options)
    return ValkeyCounters(servers, clock, metrics, prefix=settings.prefix, lease_percent=settings.lease_percent)
