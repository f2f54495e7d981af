"""The metadata of a Kubernetes object, checked as its API server checks it."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from app.authz.model import Labels
from app.core.errors import Violation
from app.documents.model import DocumentKey
from app.documents.reader import Problems, Reader, kind_of

# Of Istio's security policies.
API_VERSIONS = ("security.istio.io/v1", "security.istio.io/v1beta1")
# Kinds that are kept in one file, or one directory: Istio's, and ours beside them.
SECURITY_KINDS = frozenset(
    {"AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication", "CredentialAuthentication"}
)
DEFAULT_NAMESPACE = "default"

# Kubernetes' bounds: names of objects, namespaces, label prefixes, names and values, all annotations together.
MAX_NAME_LENGTH = 253
MAX_LABEL_LENGTH = 63
MAX_ANNOTATIONS_LENGTH = 256 * 1024
MAX_LABELS = 256
# What one answer lists of them.
MAX_EMPTY_LISTS = 100

_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_NAMESPACE = re.compile(_DNS_LABEL)
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# Has the policy evaluated, and recorded, without effect.
DRY_RUN = "istio.io/dry-run"
_WITH_DRY_RUN = "AuthorizationPolicy"

# What the API server writes into an object and `kubectl get -o yaml` shows; it has no part in the policy.
_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


def is_name(text: str) -> bool:
    """Whether `text` can name an object: a DNS subdomain (RFC 1123)."""
    return len(text) <= MAX_NAME_LENGTH and _SUBDOMAIN.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether `text` can name a namespace: a DNS label (RFC 1123)."""
    return _NAMESPACE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether `text` can be a label's key: a name, after a DNS subdomain and a slash if it has one."""
    prefix, slash, name = text.rpartition("/")
    return _LABEL.fullmatch(name) is not None and (is_name(prefix) if slash else not prefix)


def is_label_value(text: str) -> bool:
    """Whether `text` can be a label's value: empty, or a name."""
    return not text or _LABEL.fullmatch(text) is not None


def read_labels(reader: Reader, name: str) -> Labels:
    """Return the label pairs in the mapping at `name`, in the order of their keys."""
    labels = reader.child(name)
    if labels is None:
        return ()
    pairs = []
    if len(labels.value) > MAX_LABELS:
        reader.refuse(name, f"has more than {MAX_LABELS} labels")
        return ()
    for key, value in labels.value.items():
        if not is_label_key(key):
            labels.refuse(key, "is not a label key as Kubernetes defines it")
        elif not isinstance(value, str):
            labels.refuse(key, f"must be a string, not {kind_of(value)}: put it in quotes")
        elif not is_label_value(value):
            labels.refuse(key, f"value {value!r} is not a label value: up to 63 letters, digits, '-', '_' and '.'")
        else:
            pairs.append((key, value))
    return tuple(sorted(pairs))


class NamespacedDocument(Protocol):
    """A document with the namespace and the name of its metadata."""

    @property
    def namespace(self) -> str:
        """The namespace."""

    @property
    def name(self) -> str:
        """The name."""


def object_key(document: NamespacedDocument) -> DocumentKey:
    """Return what identifies the document among those of its kind."""
    return DocumentKey(document.namespace, document.name)


def is_object_key(key: DocumentKey) -> bool:
    """Whether the key can be that of an object in a namespace."""
    return is_namespace(key.namespace) and is_name(key.name)


def read_head(document: Reader, kind: str, versions: tuple[str, ...] = API_VERSIONS) -> tuple[str, str, dict[str, str]]:
    """Return namespace, name and annotations of a policy of `kind`, by default one of Istio's.

    `status`, which Istio writes, has no part in the policy.
    """
    if document.text("apiVersion") not in versions:
        document.refuse("apiVersion", f"must be {versions[0]}")
    if document.text("kind") != kind:
        document.refuse("kind", f"must be {kind}")
    document.take("status")
    namespace, name, annotations = read_metadata(document, document.problems)
    if DRY_RUN in annotations and kind != _WITH_DRY_RUN:
        problem = f"is for an {_WITH_DRY_RUN}: a {kind} decides from the moment it is applied"
        document.problems.add(document.at(f"metadata.annotations.{DRY_RUN}"), problem)
    return namespace, name, annotations


def empty_lists(spec: Mapping[str, object], place: str, but: str) -> Iterator[Violation]:
    """Yield a warning about each empty list in the spec at `place`, which Istio takes for a field that is left out.

    `but` names the field of the spec whose empty list is for nothing, not for everything.
    """
    meant = {name: value for name, value in spec.items() if name != but or value != []}
    yield from islice(_empty_lists(meant, place), MAX_EMPTY_LISTS)


def _empty_lists(value: object, place: str) -> Iterator[Violation]:
    if value == []:
        yield Violation(place, "is an empty list, which restricts nothing: it is read as if the field were left out")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _empty_lists(item, f"{place}[{number}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _empty_lists(item, f"{place}.{name}")


def selector_warnings(spec: Mapping[str, object]) -> Iterator[Violation]:
    """Yield a warning about a selector in the spec that selects nothing in particular."""
    selector = spec.get("selector")
    if isinstance(selector, Mapping) and not selector.get("matchLabels"):
        yield Violation(
            "spec.selector", "has no labels: the document is for the same workloads as one without a selector"
        )


def read_selector(spec: Reader) -> Labels:
    """Return the labels of `selector.matchLabels`, none if every workload is meant."""
    selector = spec.child("selector")
    if selector is None:
        return ()
    labels = read_labels(selector, "matchLabels")
    selector.close()
    return labels


def read_metadata(document: Reader, problems: Problems) -> tuple[str, str, dict[str, str]]:
    """Return namespace, name and annotations from `metadata`; what is wrong is noted and comes back empty."""
    metadata = document.child("metadata")
    if metadata is None:
        if not document.has("metadata"):
            problems.add(document.at("metadata"), "is missing: a policy needs metadata.name")
        return "", "", {}
    metadata.null_is_absent = True  # as to Kubernetes, whose tools write such fields
    for name in _SERVER_FIELDS:
        metadata.take(name)
    read_labels(metadata, "labels")
    names = _read_namespace(metadata), _read_name(metadata)
    annotations = _read_annotations(metadata)
    metadata.close()
    return *names, annotations


def _read_name(metadata: Reader) -> str:
    if metadata.has("generateName"):
        metadata.refuse("generateName", "is not supported: give the policy a name")
    if not metadata.has("name"):
        metadata.refuse("name", "is missing")
        return ""
    name = metadata.text("name")
    if name is not None and not is_name(name):
        metadata.refuse("name", f"{name!r} is not a DNS subdomain: lower-case letters, digits, '-' and '.'")
    return name or ""


def _read_namespace(metadata: Reader) -> str:
    namespace = metadata.text("namespace") if metadata.has("namespace") else DEFAULT_NAMESPACE
    if namespace is not None and not is_namespace(namespace):
        metadata.refuse("namespace", f"{namespace!r} is not a DNS label: up to 63 lower-case letters, digits and '-'")
    return namespace or ""


def _read_annotations(metadata: Reader) -> dict[str, str]:
    annotations = metadata.child("annotations")
    if annotations is None:
        return {}
    found = {}
    for key, value in annotations.value.items():
        if not is_label_key(key.lower()):
            annotations.refuse(key, "is not an annotation key as Kubernetes defines it")
        elif not isinstance(value, str):
            annotations.refuse(key, f"must be a string, not {kind_of(value)}: put it in quotes")
        else:
            found[key] = value
    if sum(map(len, found)) + sum(map(len, found.values())) > MAX_ANNOTATIONS_LENGTH:
        metadata.refuse("annotations", f"are longer than {MAX_ANNOTATIONS_LENGTH} characters together")
    return found
