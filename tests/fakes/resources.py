"""A catalog and a source of resources of any type, which a test adds, replaces and removes when it likes."""

import asyncio
from dataclasses import dataclass

from google.protobuf import any_pb2

from app.core.errors import InvalidInputError
from app.transport.xds.resources import WILDCARD, Resource

CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENERS = "type.googleapis.com/envoy.config.listener.v3.Listener"


@dataclass(frozen=True, slots=True)
class FakeCatalog:
    """Allows every name that does not start with `secret`."""

    type_url: str = CLUSTERS
    max_names: int = 8

    def check(self, name: str) -> None:
        if name.startswith("secret"):
            raise InvalidInputError(f"there is no {name}")


def resource(name: str, version: int) -> Resource:
    return Resource(name, str(version), any_pb2.Any(type_url=CLUSTERS, value=f"{name} {version}".encode()))


def subscribed(wanted, versions):
    """The resources of a subscription, out of the versions of all by name."""
    return {name: resource(name, version) for name, version in versions.items() if WILDCARD in wanted or name in wanted}


class FakeResources:
    """A ResourceSource over `versions`, the version of each existing resource by name."""

    def __init__(self, catalog: FakeCatalog | None = None, **versions: int) -> None:
        self.catalog = catalog or FakeCatalog()
        self.versions = versions
        self.asked = 0
        self._changed = asyncio.Event()

    def replace(self, **versions: int) -> None:
        """Set which resources exist, and wake the stream."""
        self.versions = versions
        self._changed.set()

    async def resources(self, wanted):
        self._changed.clear()
        self.asked += 1
        return subscribed(wanted, self.versions)

    async def wait_for_change(self) -> None:
        await self._changed.wait()
