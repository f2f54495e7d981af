"""The settings of how checks are answered, and of the providers that decide CUSTOM policies."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.settings.area import MAX_NETWORKS, Area
from app.settings.values import (
    AnyNamespace,
    FilePath,
    HttpUrl,
    InputPath,
    Names,
    Namespace,
    Network,
    OpaUrl,
    ProviderName,
    RegoPath,
    ServerName,
    ServerUrl,
    Table,
    TrustDomains,
    WorkloadId,
)
from app.telemetry.decisions import Mode

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
# Gateways and waypoints of a large mesh, and the namespaces that one of them speaks for; beyond, it speaks for all.
MAX_GATEWAYS = 1024
MAX_GATEWAY_NAMESPACES = 1024
MAX_BUNDLE_KEYS = 16
MAX_KEY_ID = 256
BundleAlgorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"
]
MAX_CLIENT_ID = 1024
# A mesh with more identity providers has a broker before them.
MAX_AUTHORIZATION_SERVERS = 64
# Characters of an expression of a provider.
MAX_CEL_EXPRESSION = 8192


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
    equal inputs where the policies look at the time. `proto_descriptor`: the descriptors of gRPC services whose
    messages are parsed. `skip_request_body_parse`: bodies are not parsed.
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
    proto_descriptor: FilePath | None = None
    skip_request_body_parse: bool = False

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
    `cache_by`: the parts of the input in which equal inputs are equal. `proto_descriptor`: the descriptors of gRPC
    services whose messages are parsed. `skip_request_body_parse`: bodies are not parsed.
    """

    engine: Literal["opa"]
    url: OpaUrl
    query: RegoPath = "envoy/authz/allow"
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_PROVIDER_TIMEOUT_MS)] = 100
    connections: Annotated[int, Field(ge=1, le=MAX_CONNECTIONS)] = 16
    cache_seconds: Annotated[float, Field(ge=0, le=MAX_CACHE_SECONDS)] = 0.0
    cache_by: Annotated[tuple[InputPath, ...], Field(max_length=MAX_CACHE_PARTS)] = ()
    proto_descriptor: FilePath | None = None
    skip_request_body_parse: bool = False


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


class PluginProviderSettings(Area):
    """A provider that a third party's package decides.

    `plugin`: the name of its entry point in the group `meshward.providers`. `options`: its own. `timeout_ms`: how long
    a decision may take.
    """

    engine: Literal["plugin"]
    plugin: ProviderName
    options: dict[str, Any] = Field(default_factory=dict)
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_PROVIDER_TIMEOUT_MS)] = 100


class AuthorizationServerSettings(Area):
    """An OAuth 2.0 authorization server that is asked about tokens (RFC 7662).

    `introspection_url`: its introspection endpoint. `client_id`, and the secret in `client_secret_file`: who we are
    there; `client_auth`: how both are sent. `issuer`: the issuer of its tokens, where its answers do not name one; one
    that they name has to be this one. `timeout_ms`: how long an answer may take. `cache_seconds`: how long it is
    remembered, and a revoked token may be accepted. `ca_file`: by which its certificate is verified, instead of the
    public authorities.
    """

    introspection_url: ServerUrl
    client_id: Annotated[str, Field(min_length=1, max_length=MAX_CLIENT_ID)]
    client_secret_file: FilePath
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    issuer: Annotated[str, Field(max_length=MAX_CLIENT_ID)] = ""
    timeout_ms: Annotated[int, Field(ge=1, le=MAX_PROVIDER_TIMEOUT_MS)] = 1000
    cache_seconds: Annotated[float, Field(ge=0, le=MAX_CACHE_SECONDS)] = 60.0
    ca_file: FilePath | None = None


ProviderSettings = RegoProviderSettings | OpaProviderSettings | CelProviderSettings | PluginProviderSettings


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
    such as loopback; so it is with authorization servers. `authorization_servers`: those that are asked about
    tokens, a table for each. `providers`: those that CUSTOM policies name, a table for each. `gateways`: the namespaces
    that a caller may ask for besides its own, by its SPIFFE ID, `*` for every one.
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
    authorization_servers: Annotated[
        dict[ServerName, AuthorizationServerSettings], Table, Field(max_length=MAX_AUTHORIZATION_SERVERS)
    ] = Field(default_factory=dict)
    providers: Annotated[
        dict[ProviderName, Annotated[ProviderSettings, Field(discriminator="engine")]],
        Table,
        Field(max_length=MAX_PROVIDERS),
    ] = Field(default_factory=dict)
    gateways: Annotated[
        dict[WorkloadId, Annotated[tuple[AnyNamespace, ...], Field(min_length=1, max_length=MAX_GATEWAY_NAMESPACES)]],
        Table,
        Field(max_length=MAX_GATEWAYS),
    ] = Field(default_factory=dict)
