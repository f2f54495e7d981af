"""What an exchange carries, and the Protocols of what the user of an exchange supplies."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# xDS: "The special resource name `*`", an explicit wildcard subscription.
WILDCARD = "*"
# Hexadecimal digits of a version: 64 bits distinguish the few contents of one stream and stay readable in a log.
VERSION_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource, an Any, under a name it was subscribed by. `version` is equal for equal content, on any replica."""

    name: str
    version: str
    body: Any


class Catalog(Protocol):
    """The resources of one type that the caller of a stream may subscribe to."""

    @property
    def type_url(self) -> str:
        """The type of the resources."""

    @property
    def max_names(self) -> int:
        """How many names one request, and the whole subscription of a stream, may have."""

    def check(self, name: str) -> None:
        """Raise InvalidInputError, listing what is available, if the caller may not subscribe to `name`."""


class ResourceSource(Protocol):
    """The resources of one type for one stream. It is used by one task at a time."""

    @property
    def catalog(self) -> Catalog:
        """What the caller may subscribe to."""

    async def resources(self, subscribed: frozenset[str]) -> Mapping[str, Resource]:
        """Return the current resource, if any, of each name; `*` stands for several. Raises a MeshwardError."""

    async def wait_for_change(self) -> None:
        """Return once what `resources` returned last may have been replaced. Raises as `resources` does."""


def content_version(parts: Iterable[bytes]) -> str:
    """Return the version of a content in several parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:VERSION_DIGITS]


def version_of(resources: Mapping[str, Resource]) -> str:
    """Return one version for several resources together, whatever their order."""
    return content_version(f"{name} {resources[name].version}".encode() for name in sorted(resources))
