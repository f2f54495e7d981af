"""The settings of rate limits, and of where hits are counted."""

from typing import Annotated

from pydantic import Field, model_validator

from app.core.store_url import StoreKind, StoreUrl
from app.settings.area import DEFAULT_MESSAGE_BYTES, MAX_MESSAGE_BYTES, MIN_MESSAGE_BYTES, Area
from app.settings.values import (
    CountersUrl,
    DomainCallers,
    FilePath,
    HeaderFamilies,
    HeaderName,
    KeyPrefix,
    NodeMetadata,
    ServerAddress,
)

# The largest number of hits in a request.
MAX_HITS = 2**32 - 1
# What a request of tokens or of kilobytes may cost, and far below the limits that are set for those.
DEFAULT_MAX_HITS = 1_000_000
# A DNS name, and what xDS servers know a client by.
MAX_SERVER_NAME = 253
MAX_NODE_ID = 512
# Milliseconds. A sidecar waits for 20 by default; where its timeout is set to more, this can be as well.
MAX_COUNTERS_TIMEOUT = 10_000
# Two replicas that lease a half each leave nothing to others.
MAX_LEASE_PERCENT = 50


class QuotaSettings(Area):
    """How limits are answered.

    `headers`: which rate-limit header fields an answer carries. `limit_header`, `remaining_header`, `reset_header`: the
    names of the plain ones. `configs_dir`: configurations come from this directory instead of the database.
    `limits_dir`: limits in limitador's schema come from this one. `max_hits`: the most hits that one descriptor of a
    request may have. `callers`: who may count in which domains; any caller may in a domain that none of them names.
    `count_refused`: a request that is refused counts. `shadow_mode`: no request is refused. `quota_mode`: every limit
    is in quota mode. `near_limit_ratio`: from which part of a limit on hits are counted as near to it.
    `dynamic_metadata`: answers carry the request and its quota mode violations. `merge_domains`: configurations of one
    domain are merged, in a directory and by xDS. `xds_server`: a management server that configurations come from; with
    `xds_tls` over TLS, by `xds_ca_file`, `xds_cert_file`, `xds_key_file` and the `xds_server_name` in its certificate.
    `xds_node_id` and `xds_node_metadata` are what it knows this service by, `xds_headers_file` has header fields for
    it, `xds_max_message_bytes` bounds one of its responses.
    """

    headers: HeaderFamilies = ()
    limit_header: HeaderName = "ratelimit-limit"
    remaining_header: HeaderName = "ratelimit-remaining"
    reset_header: HeaderName = "ratelimit-reset"
    configs_dir: FilePath | None = None
    limits_dir: FilePath | None = None
    max_hits: Annotated[int, Field(ge=1, le=MAX_HITS)] = DEFAULT_MAX_HITS
    callers: DomainCallers = ()
    shadow_mode: bool = False
    quota_mode: bool = False
    count_refused: bool = True
    near_limit_ratio: Annotated[float, Field(ge=0, le=1)] = 0.8
    dynamic_metadata: bool = False
    merge_domains: bool = False
    xds_server: ServerAddress | None = None
    xds_tls: bool = True
    xds_ca_file: FilePath | None = None
    xds_cert_file: FilePath | None = None
    xds_key_file: FilePath | None = None
    xds_server_name: Annotated[str, Field(min_length=1, max_length=MAX_SERVER_NAME)] | None = None
    xds_node_id: Annotated[str, Field(min_length=1, max_length=MAX_NODE_ID)] = "default"
    xds_node_metadata: NodeMetadata = ()
    xds_headers_file: FilePath | None = None
    xds_max_message_bytes: Annotated[int, Field(ge=MIN_MESSAGE_BYTES, le=MAX_MESSAGE_BYTES)] = DEFAULT_MESSAGE_BYTES

    @model_validator(mode="after")
    def _xds_fits(self) -> "QuotaSettings":
        if self.xds_server is not None and self.configs_dir is not None:
            raise ValueError("configurations come from configs_dir or from xds_server: set one of them")
        if (self.xds_cert_file is None) != (self.xds_key_file is None):
            raise ValueError("xds_cert_file and xds_key_file must be set together")
        return self


class CountersSettings(Area):
    """Where hits are counted.

    `url`: the store. `password_file`, `ca_file`, `cert_file`, `key_file`: for its servers, read when a connection is
    opened. `sentinel_user`, `sentinel_password_file`: for its sentinels. `timeout_ms`: after how many milliseconds a
    hit is answered without the store. `prefix`: begins the names of counters. `lease_percent`: the share of a limit
    that each replica leases.
    """

    url: CountersUrl = StoreUrl(StoreKind.MEMORY)
    password_file: FilePath | None = None
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    sentinel_user: str = ""
    sentinel_password_file: FilePath | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_COUNTERS_TIMEOUT)] = 15
    prefix: KeyPrefix = "meshward"
    lease_percent: Annotated[int, Field(ge=1, le=MAX_LEASE_PERCENT)] = 10

    @model_validator(mode="after")
    def _files_fit(self) -> "CountersSettings":
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set together")
        if not self.url.tls and (self.ca_file or self.cert_file):
            raise ValueError("ca_file and cert_file need a URL with TLS: valkeys:// or rediss://")
        if self.sentinel_password_file and self.url.kind is not StoreKind.SENTINEL:
            raise ValueError("sentinel_password_file needs the URL of sentinels: valkey+sentinel://")
        if self.sentinel_user and not self.sentinel_password_file:
            raise ValueError("sentinel_user needs sentinel_password_file")
        return self
