"""The settings as frozen values: one model per area, each with defaults that work on one machine."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from app.core.durations import format_duration
from app.core.net import Address, UnixSocket
from app.core.store_url import StoreKind, StoreUrl
from app.db.engine import sqlite_url
from app.settings.area import Area
from app.settings.keys import KeySettings
from app.settings.kubernetes import KubernetesSettings
from app.settings.values import (
    Bind,
    CountersUrl,
    DatabaseUrl,
    DomainCallers,
    Duration,
    FilePath,
    Fingerprint,
    HeaderFamilies,
    HeaderName,
    HttpUrl,
    InputPath,
    Json,
    Jwks,
    KeyPrefix,
    Names,
    Namespace,
    Network,
    NodeMetadata,
    OpaUrl,
    PlaintextBind,
    ProviderName,
    RegoPath,
    ServerAddress,
    ServerNames,
    SocketMode,
    Table,
    TrustDomains,
    TrustDomainValue,
    Uids,
)
from app.spiffe.id import TrustDomain
from app.spiffe.renewal import MAX_SVID_TTL
from app.telemetry.decisions import Mode
from app.telemetry.logs import Format, Level

# The user that runs the control plane, and the group of its socket.
DEFAULT_SOCKET_MODE: SocketMode = "0660"
# gRPC's own default for the largest message, and what may be set instead.
DEFAULT_MESSAGE_BYTES = 4 << 20
MIN_MESSAGE_BYTES = 64 << 10
MAX_MESSAGE_BYTES = 64 << 20
# More than a server holds connections or issues SVIDs in an hour: no limit.
MAX_BUDGET = 1_000_000_000
# A content delivery network, a load balancer and a few gateways in a row.
MAX_TRUSTED_HOPS = 16
# As many as Istio's meshConfig has extensionProviders in a large mesh.
MAX_PROVIDERS = 64
# Envoy waits 200 ms for a check unless it is configured otherwise.
MAX_PROVIDER_TIMEOUT_MS = 10_000
MAX_WORKERS = 64
MAX_CONNECTIONS = 1024
# A decision that is older than this was made by other policies.
MAX_CACHE_SECONDS = 3600.0
MAX_CACHE_PARTS = 64
MAX_POLL_SECONDS = 86_400.0
MAX_BUNDLE_KEYS = 16
MAX_KEY_ID = 256
BundleAlgorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"
]
# Characters of an expression of a provider.
MAX_CEL_EXPRESSION = 8192
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


# The clusters and identity providers whose workloads share one trust domain, and our names in their tokens.
MAX_JWT_ISSUERS = 16
MAX_JWT_AUDIENCES = 16
MAX_JWT_NAME_LENGTH = 2048
# The networks of a mesh's gateways.
MAX_NETWORKS = 64


class MeshSettings(Area):
    """The ports that sidecars and agents call.

    `server_names` are the DNS names and IP addresses in the server's own certificate. `plaintext_public` must be set
    for a plaintext port that other machines reach. Of a Unix socket in place of that port `plaintext_mode` is the
    file's mode, and `plaintext_uids` are the only users who may connect, if there are any. `max_message_bytes` bounds
    one gRPC message. `reflection`: any caller may read the services' descriptors, as grpcurl does.
    """

    tls_bind: Bind = Address("0.0.0.0", 15012)
    plaintext_bind: PlaintextBind = Address("127.0.0.1", 15010)
    plaintext_public: bool = False
    plaintext_mode: SocketMode = DEFAULT_SOCKET_MODE
    plaintext_uids: Uids = ()
    server_names: ServerNames = ("localhost", "istiod.istio-system.svc")
    reflection: bool = False
    max_message_bytes: Annotated[int, Field(ge=MIN_MESSAGE_BYTES, le=MAX_MESSAGE_BYTES)] = DEFAULT_MESSAGE_BYTES

    @model_validator(mode="after")
    def _require_loopback(self) -> "MeshSettings":
        bind = self.plaintext_bind
        if isinstance(bind, Address) and not bind.is_loopback and not self.plaintext_public:
            raise ValueError(
                f"plaintext_bind {bind} can be reached from other machines: bind it to 127.0.0.1, "
                "or set plaintext_public to true if nothing but trusted machines reach it"
            )
        return self

    @model_validator(mode="after")
    def _limit_a_socket(self) -> "MeshSettings":
        limited = self.plaintext_uids or self.plaintext_mode != DEFAULT_SOCKET_MODE
        if limited and not isinstance(self.plaintext_bind, UnixSocket):
            raise ValueError(
                "plaintext_mode and plaintext_uids limit who may connect to a Unix socket, and plaintext_bind is "
                f"{self.plaintext_bind}: set it to unix:/path"
            )
        return self


class AdminSettings(Area):
    """The admin API's port.

    `metrics_public`: `/metrics` needs no token. `audit_retention`: how long audit records are kept.
    """

    bind: Bind = Address("127.0.0.1", 15014)
    metrics_public: bool = True
    audit_retention: Duration = timedelta(days=365)


class LogSettings(Area):
    """What is logged, and how. `auto` is `console` on a terminal and `json` elsewhere."""

    level: Level = "info"
    format: Format = "auto"


# Lives of SVIDs in that of a signing certificate, of which two thirds are over before it is replaced.
MIN_LIVES = 3
# Of the life of a certificate.
Share = Annotated[float, Field(gt=0, lt=1)]
JwtName = Annotated[str, Field(min_length=1, max_length=MAX_JWT_NAME_LENGTH)]


class JwtIssuerSettings(Area):
    """An issuer of service accounts' JWTs: its `iss`, what may be in `aud`, and the file or URL of its JWK Set.

    `jwks_ca_file` has the authorities (PEM) that a URL's certificate is verified by, instead of the public ones.
    """

    issuer: JwtName
    audiences: Annotated[tuple[JwtName, ...], Field(min_length=1, max_length=MAX_JWT_AUDIENCES)] = ("istio-ca",)
    jwks: Jwks
    jwks_ca_file: FilePath | None = None

    @model_validator(mode="after")
    def _authorities_are_for_a_url(self) -> "JwtIssuerSettings":
        if self.jwks_ca_file is not None and not (isinstance(self.jwks, str) and self.jwks.startswith("https://")):
            raise ValueError("jwks_ca_file is for a jwks that begins with https://")
        return self


class CaSettings(Area):
    """How long SVIDs live, how many an identity may have, and how many streams.

    `svid_default_ttl` is granted to callers that request nothing; `svid_max_ttl` is the most that they may request, the
    default unless it is set. An entry may grant more. `svids_per_hour` is what one identity may be issued at this
    replica, `streams_per_identity` and `streams_per_token` the SDS streams that it and a join token may have open.
    `secret_file` has the secret that replicas on one database share; if it is set, the file is never made.
    `trusted_root` is the SHA-256 of the certificate of a root that is trusted, though written with another secret.
    `jwt_issuers` are trusted for the identity of every workload.
    `xfcc_networks` are the gateways whose `x-forwarded-client-cert` is believed.
    `key_algorithm`, `root_ttl` and `signer_ttl` are the kind of key and the lifetimes of roots and signing authorities
    that are made from now on. `root_prepare_at` and `root_activate_at` are the shares of a root's life after which the
    next one is prepared and activated; with `off` that is done by hand. Activation waits for `activation_timeout` until
    everybody has accepted the new root; `activation_on_timeout` is what happens then.
    `crl_url` is where verifiers reach `/crl` of the admin port; SVIDs then name it.
    """

    secret_file: FilePath | None = None
    trusted_root: Fingerprint | None = None

    svid_default_ttl: Duration = timedelta(hours=24)
    svid_max_ttl: Duration = Field(default_factory=lambda values: values.get("svid_default_ttl", MAX_SVID_TTL))
    svids_per_hour: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 1000
    streams_per_identity: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 1000
    streams_per_token: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 4
    crl_url: HttpUrl | None = None
    xfcc_networks: Annotated[tuple[Network, ...], Names, Field(max_length=MAX_NETWORKS)] = ()

    key_algorithm: Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"] = "ec-p256"
    root_ttl: Duration = timedelta(days=3650)
    signer_ttl: Duration = timedelta(days=365)
    root_prepare_at: Share | Literal["off"] = 0.8
    root_activate_at: Share = 0.9
    activation_timeout: Duration = timedelta(hours=24)
    activation_on_timeout: Literal["refuse", "proceed"] = "refuse"

    jwt_issuers: Annotated[tuple[JwtIssuerSettings, ...], Json, Field(max_length=MAX_JWT_ISSUERS)] = ()

    @field_validator("jwt_issuers")
    @classmethod
    def _issuers_differ(cls, issuers: tuple[JwtIssuerSettings, ...]) -> tuple[JwtIssuerSettings, ...]:
        if len({issuer.issuer for issuer in issuers}) < len(issuers):
            raise ValueError("has an issuer twice: give it one table, with all audiences")
        return issuers

    @model_validator(mode="after")
    def _times_fit(self) -> "CaSettings":
        if self.svid_max_ttl > MAX_SVID_TTL:
            raise ValueError(f"svid_max_ttl is above {format_duration(MAX_SVID_TTL)}")
        if self.signer_ttl < MIN_LIVES * self.svid_max_ttl:
            # It is replaced when a third of its life is left, and an SVID may end no later than it does.
            least = format_duration(MIN_LIVES * self.svid_max_ttl)
            raise ValueError(f"signer_ttl is below {least}, {MIN_LIVES} times svid_max_ttl")
        if self.root_ttl < self.signer_ttl:
            raise ValueError(f"root_ttl is below signer_ttl, {format_duration(self.signer_ttl)}")
        if self.root_prepare_at != "off" and self.root_prepare_at > self.root_activate_at:
            raise ValueError("root_prepare_at is above root_activate_at: a root is prepared before it is activated")
        if self.svid_default_ttl > self.svid_max_ttl:
            raise ValueError(f"svid_default_ttl is above svid_max_ttl, {format_duration(self.svid_max_ttl)}")
        return self


class BundleKeySettings(Area):
    """A key that bundles are signed with: its id, the file with it, its algorithm, and the scope that it is for."""

    key_id: Annotated[str, Field(min_length=1, max_length=MAX_KEY_ID)]
    file: FilePath
    algorithm: BundleAlgorithm = "RS256"
    scope: Annotated[str, Field(max_length=MAX_KEY_ID)] = ""


class RegoProviderSettings(Area):
    """A provider that evaluates Rego embedded.

    `path`: a `.rego` file, a directory or a bundle (`.tar.gz`); or `url`: a bundle, asked for every `poll_seconds`,
    verified by `ca_file`, with the bearer token in `token_file`. `verification_keys`: the bundle has to be signed by
    one of them. `query`: the path of the decision. `timeout_ms`: how long a decision may take. `workers`: how many
    processes evaluate. `rego_v0`: the policies are written in Rego v0. `cache_seconds`: how long a decision is kept for
    equal inputs where the policies look at the time.
    """

    engine: Literal["rego"]
    path: FilePath | None = None
    url: HttpUrl | None = None
    poll_seconds: Annotated[float, Field(ge=1, le=MAX_POLL_SECONDS)] = 60.0
    ca_file: FilePath | None = None
    token_file: FilePath | None = None
    verification_keys: Annotated[tuple[BundleKeySettings, ...], Field(max_length=MAX_BUNDLE_KEYS)] = ()
    query: RegoPath = "envoy/authz/allow"
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_PROVIDER_TIMEOUT_MS)] = 100
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    rego_v0: bool = False
    cache_seconds: Annotated[float, Field(ge=0, le=MAX_CACHE_SECONDS)] = 0.0

    @model_validator(mode="after")
    def _one_source(self) -> "RegoProviderSettings":
        if (self.path is None) is (self.url is None):
            raise ValueError("needs either path or url")
        if self.url is None and (self.ca_file or self.token_file):
            raise ValueError("ca_file and token_file are for a url")
        if len({key.key_id for key in self.verification_keys}) != len(self.verification_keys):
            raise ValueError("has a key_id of verification_keys twice")
        return self


class OpaProviderSettings(Area):
    """A provider that asks an OPA server.

    `url`: its address, `http://127.0.0.1:8181`. `query`: the path of the decision. `timeout_ms`: how long an answer may
    take. `connections`: how many there are at once. `cache_seconds`: how long an answer is kept for equal inputs.
    `cache_by`: the parts of the input in which equal inputs are equal.
    """

    engine: Literal["opa"]
    url: OpaUrl
    query: RegoPath = "envoy/authz/allow"
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_PROVIDER_TIMEOUT_MS)] = 100
    connections: Annotated[int, Field(ge=1, le=MAX_CONNECTIONS)] = 16
    cache_seconds: Annotated[float, Field(ge=0, le=MAX_CACHE_SECONDS)] = 0.0
    cache_by: Annotated[tuple[InputPath, ...], Field(max_length=MAX_CACHE_PARTS)] = ()


class CelProviderSettings(Area):
    """A provider that evaluates an expression in the Common Expression Language.

    `path`: the file that it is in. `expression`: the expression itself, instead of a file.
    """

    engine: Literal["cel"]
    path: FilePath | None = None
    expression: Annotated[str, Field(max_length=MAX_CEL_EXPRESSION)] = ""

    @model_validator(mode="after")
    def _one_source(self) -> "CelProviderSettings":
        if (self.path is None) is not bool(self.expression):
            raise ValueError("needs either path or expression")
        return self


ProviderSettings = RegoProviderSettings | OpaProviderSettings | CelProviderSettings


class AuthzSettings(Area):
    """How checks are answered.

    `matching`: rules are compared with the request as Istio's filters compare them, or strictly, with every reading
    that a server behind could have. `unknown_workload`: a check without a known destination is denied, or judged by the
    policies of `root_namespace` alone. `expose_decision`: the policy and rule that decided go to the client, in
    `x-meshward-decision`.
    `decision_log`: which decisions are logged, with the policy and rule that made them.
    `trust_forwarded_client_cert`: the HTTP check takes the peer from `x-forwarded-client-cert`.
    `policies_dir`: policies come from this directory instead of the database. `trusted_hops`: proxies in front of the
    sidecars whose `x-forwarded-for` entries are believed, as in Envoy's `xff_num_trusted_hops`. `trust_domain_aliases`:
    other names of the trust domain in policies. `jwks_ca_file`: by which the servers of issuers' keys are verified,
    instead of the public authorities. `jwks_allowed_networks`: from which keys are fetched although they are blocked,
    such as loopback. `providers`: those that CUSTOM policies name, a table for each.
    """

    matching: Literal["istio", "strict"] = "istio"
    unknown_workload: Literal["deny", "root"] = "deny"
    root_namespace: Namespace = "istio-system"
    expose_decision: bool = False
    decision_log: Mode = "denied"
    trust_forwarded_client_cert: bool = False
    policies_dir: FilePath | None = None
    trusted_hops: Annotated[int, Field(ge=0, le=MAX_TRUSTED_HOPS)] = 0
    trust_domain_aliases: TrustDomains = ()
    jwks_ca_file: FilePath | None = None
    jwks_allowed_networks: Annotated[tuple[Network, ...], Names, Field(max_length=MAX_NETWORKS)] = ()
    providers: Annotated[
        dict[ProviderName, Annotated[ProviderSettings, Field(discriminator="engine")]],
        Table,
        Field(max_length=MAX_PROVIDERS),
    ] = Field(default_factory=dict)


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


class Settings(Area):
    """Every setting of the control plane. `shutdown_grace` is how long calls in flight may take to end."""

    data_dir: FilePath = Path(".meshward")
    trust_domain: TrustDomainValue = TrustDomain("cluster.local")
    database_url: DatabaseUrl = Field(default="", repr=False)
    shutdown_grace: Duration = timedelta(seconds=30)
    mesh: MeshSettings = MeshSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    ca: CaSettings = CaSettings()
    authz: AuthzSettings = AuthzSettings()
    quota: QuotaSettings = QuotaSettings()
    counters: CountersSettings = CountersSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    keys: KeySettings = KeySettings()

    @model_validator(mode="before")
    @classmethod
    def _database_in_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        data_dir = values.get("data_dir", cls.model_fields["data_dir"].default)
        if "database_url" in values or not isinstance(data_dir, str | Path):
            return values
        return {**values, "database_url": sqlite_url(Path(data_dir).expanduser() / "meshward.db")}

    @model_validator(mode="after")
    def _binds_differ(self) -> "Settings":
        binds = (self.mesh.tls_bind, self.mesh.plaintext_bind, self.admin.bind)
        taken = [bind for bind in binds if isinstance(bind, Address) and bind.port]
        if len(set(taken)) < len(taken):
            raise ValueError("mesh.tls_bind, mesh.plaintext_bind and admin.bind must differ")
        return self
