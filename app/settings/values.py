"""What settings are made of: how each kind of value is written, read and written back."""

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf

from app.core.durations import parse_duration
from app.core.errors import InvalidInputError
from app.core.net import Address, UnixSocket, is_dns_label, is_dns_name, is_loopback, parse_address, parse_endpoint
from app.core.store_url import FORMS, StoreUrl, parse_store_url
from app.db.engine import parse_url
from app.spiffe.id import SpiffeId, TrustDomain
from app.spiffe.principal import Credential

# User ids are 32 bits, of which the largest stands for none (setfsuid(2)). The users of a node's proxies are a few.
MAX_UID = 2**32 - 2
MAX_UIDS = 64

Value = TypeVar("Value")

_HEADER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_METADATA = re.compile(r"[^=,]{1,128}=[^,]{0,1024}")
_URL = re.compile(r"[!-~]{1,2048}")
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_OPA_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?/?")
_INPUT_PATH = re.compile(r"[A-Za-z0-9_:-]{1,128}(\.[A-Za-z0-9_:-]{1,128}){0,15}")
_REGO_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:/[A-Za-z_][A-Za-z0-9_]{0,63}){0,15}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HTTP_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,255}(/[A-Za-z0-9._~-]{1,64}){0,8}")
_CLUSTER_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class DomainCaller:
    """A caller that may count in a rate limit domain, written `DOMAIN=CALLER`; both may have `*` for any characters.

    A caller is a SPIFFE ID, or `loopback` for those of the plaintext port, who have none.
    """

    domain: str
    caller: str

    def __str__(self) -> str:
        return f"{self.domain}={self.caller}"

    @staticmethod
    def parse(text: str) -> "DomainCaller":
        """Return what `text` spells. Raises InvalidInputError."""
        domain, _, caller = text.rpartition("=")
        if not domain:
            raise InvalidInputError(f"{text!r} is not DOMAIN=CALLER")
        if caller != Credential.LOOPBACK.value:
            SpiffeId.parse(caller.replace("*", "x"))
        return DomainCaller(domain, caller)


def _parse_table(value: object) -> object:
    """Return the table that a variable has as a JSON object; what is a table already is left."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("must be a JSON object") from error


def _from_text(kind: type[Value], parse: Callable[[str], Value], wanted: str) -> BeforeValidator:
    """Return the validator that takes a `kind` or has `parse` read one from text; `wanted` describes what is."""

    def validate(value: object) -> Value:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str):
            raise ValueError(f"must be {wanted}")  # noqa: TRY004 - pydantic collects these
        try:
            return parse(value)
        except InvalidInputError as error:
            raise ValueError(error.message) from error

    return BeforeValidator(validate)


def _check_database_url(value: str) -> str:
    try:
        parse_url(value)
    except InvalidInputError as error:
        raise ValueError(error.message) from error
    return value


def _check_workload_id(value: str) -> str:
    try:
        return str(SpiffeId.parse(value))
    except InvalidInputError as error:
        raise ValueError(error.message) from error


def _check_http_url(value: str) -> str:
    if _HTTP_URL.fullmatch(value) is None:
        raise ValueError("must be a URL such as http://meshward.example:15014/crl, without a slash at the end")
    return value


def _check_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores")
    return value


def _require(holds: Callable[[Value], object], problem: str) -> AfterValidator:
    """Return the validator that accepts a value for which `holds` does; of any other it reports the `problem`."""

    def validate(value: Value) -> Value:
        if not holds(value):
            raise ValueError(problem)
        return value

    return AfterValidator(validate)


def _is_account_name(value: str) -> bool:
    namespace, _, name = value.partition("/")
    return is_dns_label(namespace) and is_dns_name(name)


def _parse_network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"must be a network such as 10.0.0.0/8, with no bits set after its length: {error}") from error


def _split_names(value: object) -> object:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _split_families(value: object) -> object:
    return () if value == "off" else _split_names(value)


def _check_server_name(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not is_dns_name(name):
        raise ValueError(f"{name!r} is neither a DNS name in lower case nor an IP address")
    return name


def _parse_path(value: object) -> object:
    if isinstance(value, str) and (not value or "\0" in value):
        raise ValueError("must be a path")
    return Path(value).expanduser() if isinstance(value, str) else value


def _parse_json(value: object) -> object:
    """Return the list that a variable spells as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("must be a JSON array of objects") from error


def _parse_jwks(value: object) -> object:
    if not isinstance(value, str) or "://" not in value:
        return _parse_path(value)
    return _check_server_url(value)


def _check_server_url(value: str) -> str:
    try:
        url = urlsplit(value)
        plain = url.scheme == "http" and is_loopback(url.hostname or "")
        valid = url.hostname and url.port != 0 and not url.fragment and "@" not in url.netloc
    except ValueError as error:
        raise ValueError("must be a URL that begins with https://") from error
    if not valid or not (plain or url.scheme == "https") or not _URL.fullmatch(value):
        raise ValueError(
            "must be a URL that begins with https:// (http:// on this machine alone), without user and fragment"
        )
    return value


def _parse_fingerprint(value: str) -> str:
    text = value.replace(":", "").lower()
    if not _SHA256.fullmatch(text):
        raise ValueError("must be a SHA-256 in hexadecimal, as openssl x509 -fingerprint -sha256 prints it")
    return text


def _parse_bind(text: str) -> Address:
    return parse_address(text, allow_port_0=True)


def _parse_plaintext_bind(value: object) -> object:
    if isinstance(value, Address | UnixSocket):
        return value
    if not isinstance(value, str):
        raise ValueError("must be host:port, unix:/path or off")  # noqa: TRY004 - pydantic collects these
    if value == "off":
        return value
    try:
        return parse_endpoint(value, allow_port_0=True)
    except InvalidInputError as error:
        raise ValueError(f"{error.message}; or write unix:/path or off") from error


Bind = Annotated[InstanceOf[Address], _from_text(Address, _parse_bind, "host:port, such as 127.0.0.1:15010")]
ServerAddress = Annotated[InstanceOf[Address], _from_text(Address, parse_address, "host:port, such as xds:18000")]
NodeMetadata = Annotated[
    tuple[Annotated[str, _require(_METADATA.fullmatch, "must be KEY=VALUE")], ...],
    BeforeValidator(_split_names),
    Field(max_length=64),
]
PlaintextBind = Annotated[
    InstanceOf[Address] | InstanceOf[UnixSocket] | Literal["off"], BeforeValidator(_parse_plaintext_bind)
]
SocketMode = Literal["0600", "0660", "0666"]
Uids = Annotated[
    tuple[Annotated[int, Field(ge=0, le=MAX_UID)], ...], BeforeValidator(_split_names), Field(max_length=MAX_UIDS)
]
Duration = Annotated[
    timedelta, _from_text(timedelta, parse_duration, "a duration with its unit, such as 500ms, 30s, 15m, 24h or 90d")
]
TrustDomainValue = Annotated[
    InstanceOf[TrustDomain], _from_text(TrustDomain, TrustDomain, "a trust domain, such as cluster.local")
]
TrustDomains = Annotated[tuple[TrustDomainValue, ...], BeforeValidator(_split_names)]
DomainCallers = Annotated[
    tuple[
        Annotated[
            InstanceOf[DomainCaller],
            _from_text(
                DomainCaller, DomainCaller.parse, "DOMAIN=CALLER, such as edge=spiffe://cluster.local/ns/edge/*"
            ),
        ],
        ...,
    ],
    BeforeValidator(_split_names),
]
HeaderFamilies = Annotated[
    tuple[Literal["draft03", "ietf", "plain", "retry-after"], ...], BeforeValidator(_split_families)
]
HeaderName = Annotated[
    str, _require(_HEADER_NAME.fullmatch, "must be a header name: letters, digits and dashes, 128 at most")
]
DatabaseUrl = Annotated[str, AfterValidator(_check_database_url)]
CountersUrl = Annotated[InstanceOf[StoreUrl], _from_text(StoreUrl, parse_store_url, FORMS)]
KeyPrefix = Annotated[str, AfterValidator(_check_prefix)]
CertificateName = Annotated[str, AfterValidator(_check_server_name)]
ServerNames = Annotated[
    tuple[CertificateName, ...],
    BeforeValidator(_split_names),
    _require(bool, "must have at least one name"),
]
ProviderName = Annotated[
    str, _require(_PROVIDER_NAME.fullmatch, "must be a provider's name: letters, digits, dots, dashes, 253 at most")
]
RegoPath = Annotated[str, _require(_REGO_PATH.fullmatch, "must be the path of a decision, such as envoy/authz/allow")]
InputPath = Annotated[
    str, _require(_INPUT_PATH.fullmatch, "must be a part of the input, such as attributes.request.http.method")
]
OpaUrl = Annotated[
    str, _require(_OPA_URL.fullmatch, "must be http://host:port or https://host:port, with no path and no user")
]
Namespace = Annotated[
    str, _require(is_dns_label, "must be a Kubernetes namespace: up to 63 of a-z, 0-9 and dash, not at the ends")
]
AnyNamespace = Annotated[
    str,
    _require(
        lambda value: value == "*" or is_dns_label(value),
        "must be a Kubernetes namespace, or * for every one",
    ),
]
WorkloadId = Annotated[str, AfterValidator(_check_workload_id)]
Jwks = Annotated[str | Path, BeforeValidator(_parse_jwks)]
ServerUrl = Annotated[str, AfterValidator(_check_server_url)]
ServerName = Annotated[
    str, _require(_PROVIDER_NAME.fullmatch, "must be a server's name: letters, digits, dots, dashes, 253 at most")
]
ClusterId = Annotated[
    str, _require(_CLUSTER_ID.fullmatch, "must be a cluster's id: letters, digits, and inner dots, dashes, underscores")
]
Names = BeforeValidator(_split_names)
Organization = Annotated[
    str,
    Field(min_length=1, max_length=64),  # RFC 5280, appendix A.1: ub-organization-name
    _require(str.isprintable, "must be printable characters"),
]
AccountName = Annotated[
    str, _require(_is_account_name, "must be a service account, namespace/name, such as istio-system/ztunnel")
]
Network = Annotated[
    InstanceOf[ipaddress.IPv4Network] | InstanceOf[ipaddress.IPv6Network], BeforeValidator(_parse_network)
]
Json = BeforeValidator(_parse_json)
SpiffeIdValue = Annotated[
    InstanceOf[SpiffeId],
    _from_text(SpiffeId, SpiffeId.parse, "a SPIFFE ID, such as spiffe://cluster.local/ns/mesh/sa/a"),
]
Table = BeforeValidator(_parse_table)
FilePath = Annotated[Path, BeforeValidator(_parse_path)]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
Fingerprint = Annotated[str, AfterValidator(_parse_fingerprint)]
