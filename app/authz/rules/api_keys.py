"""API keys: what is known of one, the form of its text, and which keys may be made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from app.authz.model import Claims, Labels
from app.authz.rules.kubernetes import MAX_LABELS, is_label_key, is_label_value, is_namespace
from app.authz.rules.tokens import RESERVED_ISSUER
from app.core.errors import InvalidInputError, Violation

# The issuer of their principals: `meshward.io/api-keys/SUBJECT`.
ISSUER = f"{RESERVED_ISSUER}api-keys"
# By which people, and programs that look for leaked secrets, recognise one.
PREFIX = "mwk_"
# Of random numbers: nobody guesses one, so that a hash without a salt protects it.
SECRET_BYTES = 32
MAX_LIFETIME = timedelta(days=3650)

_TEXT = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
# Without a slash, at which a principal is parted into issuer and subject, and without a star, which policies match by.
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]{0,252}")


@dataclass(frozen=True, slots=True)
class ApiKeySpec:
    """What an API key is made for: whom it proves, the namespace of the workloads that accept it, empty for all.

    `labels` are those by which documents select keys.
    """

    subject: str
    namespace: str = ""
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its text: `digest` is the SHA-256 of that. `revision` is the number of its last change."""

    id: str
    subject: str
    namespace: str
    labels: Labels
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    revision: int
    digest: bytes = field(repr=False)

    @property
    def claims(self) -> Claims:
        """What policies find in `request.auth`."""
        claims: dict[str, Any] = {"iss": ISSUER, "sub": self.subject, "key_id": self.id}
        if self.namespace:
            claims["namespace"] = self.namespace
        return claims | ({"labels": dict(self.labels)} if self.labels else {})

    def problem(self, namespace: str | None, labels: Labels, now: datetime) -> str:
        """Return why a workload in `namespace`, whose document selects keys by `labels`, does not accept the key.

        Empty if it does. The namespace is None where the workload is not known.
        """
        if self.revoked_at is not None:
            return f"the key {self.id} was revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return f"the key {self.id} has expired"
        if self.namespace not in {"", namespace}:
            return f"the key {self.id} is for workloads of the namespace {self.namespace}"
        if not set(labels) <= set(self.labels):
            return f"the key {self.id} has not the labels that are selected"
        return ""


def digest_of(text: str) -> bytes | None:
    """Return the SHA-256 of an API key's text, None for what has not the form of one."""
    return sha256(text.encode("ascii")).digest() if _TEXT.fullmatch(text) else None


def check_spec(spec: ApiKeySpec) -> None:
    """Raise InvalidInputError, with each field at fault, if no key may be made for it."""
    found = []
    if not _SUBJECT.fullmatch(spec.subject):
        found.append(
            Violation("subject", "must be 1 to 253 of letters, digits and . _ @ : + -, and begin with neither")
        )
    if spec.namespace and not is_namespace(spec.namespace):
        found.append(Violation("namespace", "must be a namespace: up to 63 lower-case letters, digits and '-'"))
    if len(spec.labels) > MAX_LABELS or not all(is_label_key(key) and is_label_value(at) for key, at in spec.labels):
        found.append(Violation("labels", f"must be up to {MAX_LABELS} labels as Kubernetes defines them"))
    if found:
        raise InvalidInputError(f"the API key is not valid: {found[0]}", *found)


def labels_of(pairs: Mapping[str, str]) -> Labels:
    """Return label pairs in the order of their keys."""
    return tuple(sorted(pairs.items()))
