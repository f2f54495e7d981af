"""Quota configurations that a management server sends by xDS, as envoyproxy/ratelimit takes them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import structlog
from google.protobuf.message import DecodeError

from app.core.clock import Clock
from app.core.errors import (
    InvalidInputError,
    MeshwardError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    Violation,
)
from app.core.json_text import JsonText
from app.core.last_good import LastGoodFile
from app.core.offload import Offload, in_thread
from app.documents.held import HeldDocuments, Merge, Placed, united
from app.documents.model import DocumentKey
from app.documents.reader import violations_in
from app.proto.ratelimit.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit
from app.quota.rules.parse import QUOTA_KIND

TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
# Characters of a configuration's name in messages.
MAX_NAME = 128


log = structlog.get_logger(__name__)

Found = Sequence[tuple[DocumentKey, JsonText]]


class XdsConfigs(HeldDocuments):
    """A DocumentSource, read-only: the configurations of the response that was accepted last.

    `server` is what messages call the management server. They are kept in the file `kept`, for a start while that is
    away. Configurations of one domain are an error, unless `merge` makes one of them.
    """

    def __init__(
        self,
        server: str,
        clock: Clock,
        offload: Offload = in_thread,
        merge: Merge | None = None,
        kept: LastGoodFile | None = None,
    ) -> None:
        super().__init__(clock)
        self._server, self._offload, self._merge = server, offload, merge
        self._kept, self._unread = kept, kept

    async def take(self, resources: Sequence[Any]) -> None:
        """Hold the configurations in `resources`, each an Any, in place of those before.

        Raises InvalidInputError with all that is wrong with them; then those before stay.
        """
        given = [(each.type_url, each.value) for each in resources]
        found = await self._offload(partial(_read, given, self._merge), sum(len(value) for _, value in given))
        self.hold(found)
        if self._kept is not None:
            try:
                await asyncio.to_thread(self._kept.write, [[key.name, document.text] for key, document in found])
            except MeshwardError as error:
                log.error("xds_not_kept", reason=error.message)  # noqa: TRY400 - a reason, not a crash

    @asynccontextmanager
    async def read(self) -> AsyncIterator["XdsConfigs"]:
        """Open the configurations for reading."""
        yield self

    def change(self) -> NoReturn:
        """Raise PreconditionError."""
        raise PreconditionError(f"{QUOTA_KIND.plural} come from the xDS server {self._server}: change them there")

    async def revision(self) -> int:
        """Return the number of the last change; before the first, what was kept is held, if anything was.

        Raises UnavailableError if nothing is held.
        """
        kept, self._unread = self._unread, None
        if self._revision == 0 and kept is not None:
            await self._restore(kept)
        if self._revision == 0:
            raise UnavailableError(f"the xDS server {self._server} has sent no valid {QUOTA_KIND.plural} yet")
        return self._revision

    async def _restore(self, kept: LastGoodFile) -> None:
        try:
            found = await asyncio.to_thread(kept.read, _documents_of)
        except NotFoundError:
            return
        except MeshwardError as error:
            log.error("xds_kept_refused", reason=error.message)  # noqa: TRY400 - a reason, not a crash
            return
        if self._revision == 0:  # else a response came meanwhile
            self.hold(found)
            log.warning("xds_kept_used", server=self._server, documents=len(found))


def _documents_of(items: Sequence[Any]) -> Found:
    return [(DocumentKey("", domain), JsonText(text)) for domain, text in items]


def _read(given: Sequence[tuple[str, bytes]], merge: Merge | None) -> Iterator[tuple[DocumentKey, JsonText]]:
    placed: list[Placed] = []
    violations: list[Violation] = []
    for number, (type_url, value) in enumerate(given):
        place = f"resources[{number}]"
        try:
            config = _config_of(type_url, value)
            place = config.name[:MAX_NAME] or place
            document = document_of(config)
            (parsed,) = QUOTA_KIND.parse([document], stored=True)
        except InvalidInputError as error:
            violations += violations_in(place, error)
        except DecodeError:
            violations.append(Violation(place, "is not a RateLimitConfig, or is nested too deep"))
        else:
            placed.append(Placed(place, QUOTA_KIND.key_of(parsed), document))
    found = united(QUOTA_KIND, placed, merge, violations)
    if violations:
        raise InvalidInputError(f"{QUOTA_KIND.plural} are not valid: {violations[0]}", *violations)
    yield from found


def _config_of(type_url: str, value: bytes) -> RateLimitConfig:
    if type_url != TYPE_URL:
        raise InvalidInputError(f"is a {type_url[:MAX_NAME]!r}, not a {TYPE_URL}")
    return RateLimitConfig.FromString(value)


def document_of(config: RateLimitConfig) -> dict[str, object]:
    """Return the configuration as a document in envoyproxy/ratelimit's schema."""
    return {"domain": config.domain, "descriptors": [_descriptor(each) for each in config.descriptors]}


def _descriptor(descriptor: RateLimitDescriptor) -> dict[str, object]:
    found: dict[str, object] = {"key": descriptor.key}
    if descriptor.value:
        found["value"] = descriptor.value
    if descriptor.HasField("rate_limit"):
        found["rate_limit"] = _policy(descriptor.rate_limit)
    if descriptor.descriptors:
        found["descriptors"] = [_descriptor(each) for each in descriptor.descriptors]
    if descriptor.shadow_mode:
        found["shadow_mode"] = True
    if descriptor.detailed_metric:
        found["detailed_metric"] = True
    return found


def _policy(policy: RateLimitPolicy) -> dict[str, object]:
    found: dict[str, object] = {"requests_per_unit": policy.requests_per_unit}
    if policy.unit != RateLimitUnit.UNKNOWN:
        known = policy.unit in RateLimitUnit.values()
        found["unit"] = RateLimitUnit.Name(policy.unit).lower() if known else str(policy.unit)
    if policy.unlimited:
        found["unlimited"] = True
    if policy.name:
        found["name"] = policy.name
    if policy.replaces:
        found["replaces"] = [{"name": each.name} for each in policy.replaces]
    return found
