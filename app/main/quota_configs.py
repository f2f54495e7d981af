"""Where quota configurations come from, as the settings say: the database, a directory, or a management server."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.core.clock import Clock
from app.core.errors import InvalidInputError
from app.core.last_good import LastGoodFile
from app.core.offload import Offload
from app.documents.ports import DocumentSource
from app.documents.sources import DirectorySource
from app.quota.backends.xds import TYPE_URL, XdsConfigs
from app.quota.rules.parse import QUOTA_KIND, merged
from app.quota.service import QuotaStore
from app.settings.quota import QuotaSettings
from app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from app.transport.xds.client import DiscoveryClient

KEPT_CONFIGS = "quota-xds"


def make_quota_source(
    settings: QuotaSettings, clock: Clock, offload: Offload, kept: Path, database: Callable[[], DocumentSource]
) -> DocumentSource:
    """Return the source; `database` makes that of the configurations that are put through the admin API.

    Those of a management server are kept in the directory `kept`.
    """
    merge = merged if settings.merge_domains else None
    if settings.xds_server is not None:
        server = str(settings.xds_server)
        file = LastGoodFile(kept / KEPT_CONFIGS, KEPT_CONFIGS, f"{server} {settings.xds_node_id}")
        return XdsConfigs(server, clock, offload, merge, file)
    if settings.configs_dir is not None:
        return DirectorySource(QUOTA_KIND, settings.configs_dir, clock, offload, merge)
    return database()


def make_config_stream(
    settings: QuotaSettings, source: DocumentSource, documents: QuotaStore, metrics: Metrics
) -> "DiscoveryClient | None":
    """Return what keeps the stream of configurations, None if `source` is none of a management server's."""
    if settings.xds_server is None or not isinstance(source, XdsConfigs):
        return None
    from app.transport.xds.client import DiscoveryClient, ManagementServer  # noqa: PLC0415 - grpcio, for this alone

    async def apply(resources: Sequence[Any]) -> None:
        try:
            await source.take(resources)
        except InvalidInputError:
            metrics.config_loads.add((QUOTA_KIND.name, "error"))
            raise
        await documents.refresh()

    server = ManagementServer(
        settings.xds_server,
        settings.xds_node_id,
        dict(each.split("=", 1) for each in settings.xds_node_metadata),
        tls=settings.xds_tls,
        ca=settings.xds_ca_file,
        certificate=settings.xds_cert_file,
        key=settings.xds_key_file,
        name=settings.xds_server_name,
        headers=settings.xds_headers_file,
        max_message_bytes=settings.xds_max_message_bytes,
    )
    return DiscoveryClient(server, TYPE_URL, QUOTA_KIND.name, apply, metrics)
