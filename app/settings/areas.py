"""The settings as frozen values: one model per area, each with defaults that work on one machine."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from app.core.durations import format_duration
from app.core.net import Address, UnixSocket
from app.db.engine import sqlite_url
from app.settings.area import DEFAULT_MESSAGE_BYTES, MAX_MESSAGE_BYTES, MAX_NETWORKS, MIN_MESSAGE_BYTES, Area
from app.settings.authz import AuthzSettings
from app.settings.keys import KeySettings
from app.settings.kubernetes import KubernetesSettings
from app.settings.quota import CountersSettings, QuotaSettings
from app.settings.upstream import UpstreamSettings
from app.settings.values import (
    Bind,
    DatabaseUrl,
    Duration,
    FilePath,
    Fingerprint,
    HttpUrl,
    Json,
    Jwks,
    Names,
    Network,
    Organization,
    PlaintextBind,
    ServerNames,
    SocketMode,
    SpiffeIdValue,
    TrustDomainValue,
    Uids,
)
from app.spiffe.id import TrustDomain
from app.spiffe.renewal import MAX_SVID_TTL
from app.telemetry.logs import Format, Level

# The user that runs the control plane, and the group of its socket.
DEFAULT_SOCKET_MODE: SocketMode = "0660"
# More than a server holds connections or issues SVIDs in an hour: no limit.
MAX_BUDGET = 1_000_000_000
# The clusters and identity providers whose workloads share one trust domain, and our names in their tokens.
MAX_JWT_ISSUERS = 16
MAX_JWT_AUDIENCES = 16
MAX_JWT_NAME_LENGTH = 2048


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
# Chains of at most six certificates have a root, a leaf and the authority of a workload's control plane.
MAX_PATH_LENGTH = 3
# Control planes directly beneath one.
MAX_DOWNSTREAMS = 256
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


class DownstreamSettings(Area):
    """A Meshward that may have a signing certificate of this one, by its SPIFFE ID.

    `max_ttl` is the longest life of it, `max_path_length` how many authorities may stand beneath it.
    """

    spiffe_id: SpiffeIdValue
    max_ttl: Duration = timedelta(days=7)
    max_path_length: Annotated[int, Field(ge=0, le=MAX_PATH_LENGTH)] = 0


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
    that are made from now on; `organization` is in their names, the trust domain unless it is set.
    `root_prepare_at` and `root_activate_at` are the shares of a root's life after which the next one is prepared and
    activated; with `off` that is done by hand. Activation waits for `activation_timeout` until
    everybody has accepted the new root; `activation_on_timeout` is what happens then.
    `plugin_dir` has the files of a plug-in CA, as istiod takes them, whose authority signs instead of one of our own.
    `downstreams` are the Meshwards that may have a signing certificate of this one.
    `crl_url` is where verifiers reach `/crl` of the admin port; SVIDs then name it. `crl_over_sds`: whether
    sidecars get the revocation lists with the trust bundle while anything is revoked.
    """

    secret_file: FilePath | None = None
    trusted_root: Fingerprint | None = None
    plugin_dir: FilePath | None = None

    svid_default_ttl: Duration = timedelta(hours=24)
    svid_max_ttl: Duration = Field(default_factory=lambda values: values.get("svid_default_ttl", MAX_SVID_TTL))
    svids_per_hour: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 1000
    streams_per_identity: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 1000
    streams_per_token: Annotated[int, Field(ge=1, le=MAX_BUDGET)] = 4
    crl_url: HttpUrl | None = None
    crl_over_sds: Literal["auto", "on", "off"] = "auto"
    xfcc_networks: Annotated[tuple[Network, ...], Names, Field(max_length=MAX_NETWORKS)] = ()

    key_algorithm: Literal["ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"] = "ec-p256"
    organization: Organization | None = None
    root_ttl: Duration = timedelta(days=3650)
    signer_ttl: Duration = timedelta(days=365)
    root_prepare_at: Share | Literal["off"] = 0.8
    root_activate_at: Share = 0.9
    activation_timeout: Duration = timedelta(hours=24)
    activation_on_timeout: Literal["refuse", "proceed"] = "refuse"

    downstreams: Annotated[tuple[DownstreamSettings, ...], Json, Field(max_length=MAX_DOWNSTREAMS)] = ()
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
    upstream: UpstreamSettings = UpstreamSettings()

    @model_validator(mode="before")
    @classmethod
    def _database_in_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        data_dir = values.get("data_dir", cls.model_fields["data_dir"].default)
        if "database_url" in values or not isinstance(data_dir, str | Path):
            return values
        return {**values, "database_url": sqlite_url(Path(data_dir).expanduser() / "meshward.db")}

    @model_validator(mode="after")
    def _the_store_makes_such_keys(self) -> "Settings":
        if self.keys.store == "pkcs11" and self.ca.key_algorithm == "ed25519":
            raise ValueError("ca.key_algorithm = ed25519 is not for keys.store = pkcs11: few tokens make such keys")
        return self

    @model_validator(mode="after")
    def _one_is_above(self) -> "Settings":
        if self.ca.plugin_dir is not None and self.upstream.server is not None:
            raise ValueError("ca.plugin_dir and upstream.server are both set: the signing authority is from one alone")
        return self

    @model_validator(mode="after")
    def _binds_differ(self) -> "Settings":
        binds = (self.mesh.tls_bind, self.mesh.plaintext_bind, self.admin.bind)
        taken = [bind for bind in binds if isinstance(bind, Address) and bind.port]
        if len(set(taken)) < len(taken):
            raise ValueError("mesh.tls_bind, mesh.plaintext_bind and admin.bind must differ")
        return self
